"""The chart of a measurement of speed: time per sample against batch size, a panel per stage, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memrec_convert.benchmarking.chart import HEIGHT_INCHES, MARKERS, WIDTH_INCHES, check_chart
from memrec_convert.benchmarking.latency.contenders import CONVERTED
from memrec_convert.safe_files import write_file

TITLES = {"embedding": "embedding stage", "model": "whole model"}


def draw_latency(found: Mapping[str, Any], path: str | Path, *, force: bool = False) -> None:
    """Draws what `bench` returned; OutputError as `check_chart`."""
    check_chart(path, force=force)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    stages = [stage for stage in TITLES if any(row["stage"] == stage for row in found["rows"])]
    with rc_context({"svg.hashsalt": "memrec-convert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        panels = figure.subplots(1, len(stages), squeeze=False)[0]
        for axes, stage in zip(panels, stages, strict=True):
            for number, (name, points) in enumerate(collect_points(found["rows"], stage).items()):
                ours = name == CONVERTED
                axes.plot(
                    [batch for batch, _ in points], [value for _, value in points], label=name, marker=MARKERS[number],
                    color="black" if ours else f"C{number}", linewidth=2.5 if ours else 1.2, zorder=3 if ours else 2,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(TITLES[stage])
            axes.set_xlabel("samples per call")
            axes.grid(visible=True, alpha=0.3)
        panels[0].set_ylabel("microseconds per sample")
        panels[0].legend(fontsize="small")
        held = io.BytesIO()
        figure.savefig(held, format="svg", metadata={"Date": None})
    write_file(Path(path), [held.getbuffer()])


def collect_points(rows: Sequence[Mapping[str, Any]], stage: str) -> dict[str, list[tuple[int, float]]]:
    """Per contender its points (batch size, microseconds per sample), by rising batch."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["stage"] == stage:
            points.setdefault(row["contender"], []).append((row["batch"], 1e6 / row["items_per_second"]))
    return {name: sorted(found) for name, found in points.items()}
