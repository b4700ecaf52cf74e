"""What `inspect --scan` found in the rows, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrec_convert.report.text import NARROWEST, make_plain, table_lines

_COUNTS = ("zero_rows", "constant_rows", "duplicate_rows", "nonfinite_rows")
_NORMS = ("norm_min", "norm_median", "norm_max")


def render_scan(inspection: Mapping[str, Any], width: int = 80) -> str:
    """One line per table: rows that are zero, constant, repeated or not finite, and the norms of the finite ones."""
    body = [
        [
            make_plain(table["name"]),
            *(f"{table['scan'][name]:,}" for name in _COUNTS),
            *("-" if table["scan"][name] is None else f"{table['scan'][name]:.4g}" for name in _NORMS),
        ]
        for table in inspection["tables"]
    ]
    headers = ["table", "zero", "constant", "duplicate", "not finite", "least norm", "median", "largest"]
    return "\n".join(table_lines(headers, body, max(width, NARROWEST), left=(0,)))
