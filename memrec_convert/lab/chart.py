"""Charts of comparisons (change of AUC against bytes) and of measurements of speed (time against batch size)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memrec_convert.bench.contenders import CONVERTED
from memrec_convert.lab.drawing import Axes, write_chart

LINEAR_BELOW = 1e-3
"""Changes of AUC smaller than this are drawn to scale, larger ones by their logarithm."""
OUR_PREFIX = "memrec-convert"
TITLES = {"embedding": "embedding stage", "model": "whole model"}


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


def draw_latency(found: Mapping[str, Any], path: str | Path, *, force: bool = False) -> None:
    """Draws what `bench` returned; OutputError as `check_chart`."""
    stages = [stage for stage in TITLES if any(row["stage"] == stage for row in found["rows"])]
    panels = [
        (
            Axes(
                "samples per call",
                "" if number else "microseconds per sample",
                TITLES[stage],
                x_scale="log2",
                y_scale="log",
            ),
            collect_points(found["rows"], stage),
        )
        for number, stage in enumerate(stages)
    ]
    write_chart(path, panels, ours=CONVERTED, force=force)


def collect_points(rows: Sequence[Mapping[str, Any]], stage: str) -> dict[str, list[tuple[int, float]]]:
    """Per contender its points (batch size, microseconds per sample), by rising batch."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["stage"] == stage:
            points.setdefault(row["contender"], []).append((row["batch"], 1e6 / row["items_per_second"]))
    return {name: sorted(found) for name, found in points.items()}
