"""The chart of a measurement of speed: time per sample against batch size, a panel per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memrec_convert.bench.contenders import CONVERTED
from memrec_convert.bench.drawing import Axes, write_chart

TITLES = {"embedding": "embedding stage", "model": "whole model"}


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
