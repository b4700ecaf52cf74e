"""Finished rows on disk, so that a comparison that was interrupted, or asked for one budget more, goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrec_convert.artifact.layout import canonical_json
from memrec_convert.safe_files import write_file


@dataclass(frozen=True)
class RowStore:
    """One JSON file per row in a folder; `facts` say what rows belong to. Without a folder it forgets all."""

    folder: Path | None
    facts: Mapping[str, Any]

    def find(self, method: str, budget_bytes: int) -> dict[str, Any] | None:
        """The row, where it was finished under the same facts."""
        if self.folder is None:
            return None
        try:
            held = json.loads(self._path(method, budget_bytes).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: it is made anew
            return None
        matches = isinstance(held, dict) and held.get("facts") == self._facts(method, budget_bytes)
        row = held["row"] if matches and isinstance(held.get("row"), dict) else None
        return row if row is None or row.get("method") == method else None

    def keep(self, row: Mapping[str, Any], budget_bytes: int) -> None:
        """Writes a finished row; OutputError where that cannot be."""
        if self.folder is None:
            return
        method = str(row["method"])
        held = {"facts": self._facts(method, budget_bytes), "row": dict(row)}
        write_file(self._path(method, budget_bytes), [json.dumps(held, indent=1).encode()])

    def _facts(self, method: str, budget_bytes: int) -> dict[str, Any]:
        return {**self.facts, "method": method, "budget_bytes": budget_bytes}

    def _path(self, method: str, budget_bytes: int) -> Path:
        assert self.folder is not None
        key = hashlib.sha256(canonical_json(self._facts(method, budget_bytes)).encode()).hexdigest()
        return self.folder / f"row-{key[:24]}.json"
