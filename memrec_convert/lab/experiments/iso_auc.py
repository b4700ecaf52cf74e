"""Bytes that each method needs for the original's AUC: the crossing of its curve with a change of -0.0005."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from memrec_convert.lab.experiments.equal_bytes import METHODS, SAME, run_method
from memrec_convert.lab.experiments.experiment import ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab
from memrec_convert.units import format_bytes


def _grid(_lab: Lab, quick: bool) -> Grid:
    return {
        "ratio": (8, 130) if quick else (2, 4, 8, 16, 33, 66, 130, 260, 520),
        "method": ("auto", "int8") if quick else METHODS,
    }


def find_crossing(points: Sequence[tuple[float, float]], *, bound: float = -SAME) -> float | None:
    """The fewest bytes of (bytes, change of AUC) from which on the curve stays at or above the bound.

    Between two points by interpolation over the logarithm of the bytes; None where the largest is below it.
    """
    ordered = sorted(points, reverse=True)
    if not ordered or ordered[0][1] < bound:
        return None
    for (more, above), (fewer, below) in pairwise(ordered):
        if below < bound:
            share = (above - bound) / (above - below)
            return math.exp(math.log(more) + share * (math.log(fewer) - math.log(more)))
    return ordered[-1][0]


def _find(rows: Sequence[Row]) -> str:
    parts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row["auc_delta"] is not None]
        points = [(row["bytes"], row["auc_delta"]) for row in own]
        if not points:
            parts.append(f"{method} reached no budget")
            continue
        needed = find_crossing(points)
        said = format_bytes(needed) if needed is not None else f"more than {format_bytes(max(b for b, _ in points))}"
        if needed is not None and needed == min(nbytes for nbytes, _ in points):
            said = f"at most {said}"
        parts.append(f"{method} {said}")
    return f"bytes of the file for the original's AUC less {SAME}: {', '.join(parts)}"


EXPERIMENT = Experiment(
    "iso-auc", _grid, run_method, _find, ChartSpec("bytes", "auc_delta", ("method",)), limits={"ratio": (1, 1e6)}
)
