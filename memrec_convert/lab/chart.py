"""The chart of a comparison: change of AUC against bytes, a line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memrec_convert.bench.drawing import Axes, write_chart

LINEAR_BELOW = 1e-3
"""Changes of AUC smaller than this are drawn to scale, larger ones by their logarithm."""
OUR_PREFIX = "memrec-convert"


def draw_comparison(found: Mapping[str, Any], path: str | Path, *, force: bool = False) -> None:
    """Draws what `compare` returned; methods that reached no budget are left out. OutputError as `check_chart`."""
    # The good methods differ by less than the width of the bad ones' lines: hence no linear scale.
    axes = Axes(
        "bytes of the whole file",
        "AUC less the original's",
        x_scale="log",
        y_scale="symlog",
        linear_below=LINEAR_BELOW,
        zero=True,
    )
    write_chart(path, [(axes, collect_lines(found["budgets"]))], ours=OUR_PREFIX, force=force)


def collect_lines(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Per method its points (bytes, change of AUC), by rising bytes."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for table in tables:
        for row in table["rows"]:
            if row["auc_delta"] is not None:
                lines.setdefault(row["method"], []).append((row["bytes"], row["auc_delta"]))
    return {method: sorted(points) for method, points in lines.items()}
