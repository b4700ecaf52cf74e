"""Runs an experiment cell by cell, keeps every finished row, and writes JSON, CSV, chart and the finding."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrec_convert.artifact.layout import canonical_json
from memrec_convert.conversion.inputs.kept_fits import open_work
from memrec_convert.errors import OptionError
from memrec_convert.lab.experiments.experiment import Cell, Experiment, Row
from memrec_convert.lab.experiments.figure import draw_rows
from memrec_convert.lab.experiments.laboratory import Lab
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.safe_files import write_file
from memrec_convert.version import __version__

MOST_SEEDS = 100


@dataclass(frozen=True)
class CellStore:
    """One JSON file per finished row; a row is found again only under the very facts that it was measured under."""

    folder: Path
    facts: Mapping[str, Any]

    def find(self, cell: Cell, seed: int) -> Row | None:
        """The row, where it is there and sound."""
        try:
            held = json.loads(self._path(cell, seed).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or cut off: it is measured anew
            return None
        matches = isinstance(held, dict) and held.get("facts") == self._facts(cell, seed)
        return held["row"] if matches and isinstance(held.get("row"), dict) else None

    def keep(self, cell: Cell, seed: int, row: Row) -> None:
        """Writes a finished row, complete or not at all."""
        held = {"facts": self._facts(cell, seed), "row": row}
        write_file(self._path(cell, seed), [json.dumps(held, indent=1).encode()])

    def _facts(self, cell: Cell, seed: int) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(canonical_json({**self.facts, "cell": dict(cell), "seed": seed}))
        return facts

    def _path(self, cell: Cell, seed: int) -> Path:
        key = hashlib.sha256(canonical_json(self._facts(cell, seed)).encode()).hexdigest()
        return self.folder / f"cell-{key[:24]}.json"


def run_experiment(
    experiment: Experiment,
    lab: Lab,
    folder: str | Path,
    *,
    settings: Sequence[str] = (),
    seed: int = 0,
    seeds: int = 1,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> dict[str, Any]:
    """{"experiment", "finding", "rows", "version", "seeds", "quick", "files"}; the same, CSV and chart in `folder`.

    Rows that were finished before, under the same version, seed, data and size, are taken as they are.
    """
    if not 1 <= seeds <= MOST_SEEDS or not 0 <= seed < 2**20:
        raise OptionError(f"{seeds} seeds from {seed} on; expected 1 to {MOST_SEEDS} seeds, the first below 2^20.")
    given = experiment.read_settings(settings)
    if experiment.needs_model:
        _ = lab.job
    cells = experiment.cells(lab, quick=lab.quick, given=given)
    target = open_work(folder)
    assert target is not None
    cell_folder = open_work(target / "cells")
    assert cell_folder is not None
    facts = lab.facts if experiment.needs_model else {"version": __version__, "quick": lab.quick}
    store = CellStore(cell_folder, {**facts, "experiment": experiment.name})
    runs = [(cell, one) for one in range(seed, seed + (seeds if experiment.seeded else 1)) for cell in cells]
    rows = []
    with single_threaded_torch():
        for done, (cell, one) in enumerate(runs):
            progress(experiment.name, done, len(runs))
            row = store.find(cell, one)
            if row is None:
                row = {**cell, "seed": one, **experiment.run(lab, cell, one)}
                store.keep(cell, one, row)
            rows.append(row)
        progress(experiment.name, len(runs), len(runs))
    return _write(experiment, lab, target, rows)


def _write(experiment: Experiment, lab: Lab, folder: Path, rows: list[Row]) -> dict[str, Any]:
    stem = experiment.name + (f"-{lab.domain}" if lab.domain else "")
    names = {kind: f"{stem}.{kind}" for kind in ("json", "csv")}
    if importlib.util.find_spec("matplotlib") is not None:
        names["svg"] = f"{stem}.svg"
        write_file(folder / names["svg"], [draw_rows(rows, experiment.chart)])
    found = {
        "experiment": experiment.name,
        "domain": lab.domain,
        "finding": experiment.find(rows),
        "version": __version__,
        "quick": lab.quick,
        "seeds": sorted({row["seed"] for row in rows}),
        "rows": rows,
        "files": [str(folder / name) for name in names.values()],
    }
    write_file(folder / names["csv"], [to_csv(rows).encode()])
    write_file(folder / names["json"], [json.dumps(found, indent=1).encode()])
    return found


def to_csv(rows: Sequence[Row]) -> str:
    """The rows with a header of all their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
