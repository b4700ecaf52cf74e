"""A comparison as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrec_convert.report.text import NARROWEST, table_lines, wrap
from memrec_convert.units import format_bytes


def render_comparison(found: Mapping[str, Any], width: int = 80) -> str:
    """What `compare` returned: a table per budget, the best method first, those out of reach last."""
    width = max(width, NARROWEST)
    parts = [_budget_lines(table, width) for table in found["budgets"]]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _budget_lines(table: Mapping[str, Any], width: int) -> list[str]:
    rows = sorted(table["rows"], key=lambda row: -2.0 if row["auc_delta"] is None else row["auc_delta"], reverse=True)
    epochs = {row["epochs"] for row in rows}
    trained = "nobody trained" if epochs <= {0} else f"everybody fine-tuned, epochs: {max(epochs)}"
    title = f"At {format_bytes(table['budget_bytes'])} ({table['budget_bytes']} bytes), all bytes counted; {trained}."
    cells = [
        [
            row["method"],
            "-" if row["bytes"] is None else f"{row['bytes']:,}",
            "-" if row["auc_delta"] is None else f"{row['auc_delta']:+.5f}",
            "-" if row["ci95"] is None else f"{(row['ci95'][1] - row['ci95'][0]) / 2:.5f}",
            "-" if row["log_loss"] is None else f"{row['log_loss']:.5f}",
            f"{row['seconds']:.0f} s",
        ]
        for row in rows
    ]
    headers = ["method", "bytes", "AUC change", "95 % ±", "log loss", "made in"]
    notes = [f"{row['method']}: {row['note']}" for row in rows if row["auc_delta"] is None and row["note"]]
    return [
        *wrap(title, width),
        "",
        *table_lines(headers, cells, width, wrapped=(0,)),
        *(line for note in notes for line in wrap(f"- {note}", width, indent="  ")),
    ]
