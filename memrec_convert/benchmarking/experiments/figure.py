"""The chart of an experiment: one column of its rows against another, a line per kind, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from memrec_convert.benchmarking.chart import HEIGHT_INCHES, MARKERS, WIDTH_INCHES
from memrec_convert.benchmarking.experiments.experiment import ChartSpec, Row


def draw_rows(rows: Sequence[Row], spec: ChartSpec) -> memoryview:
    """An SVG file's bytes; equal rows give equal bytes. Rows without a figure are left out."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "memrec-convert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        lines = collect_lines(rows, spec)
        for number, (name, points) in enumerate(lines.items()):
            axes.plot(
                [x for x, _ in points], [y for _, y in points], label=name, marker=MARKERS[number % len(MARKERS)],
                color=f"C{number % 10}", linestyle="-" if number < 10 else "--",
            )  # fmt: skip
        axes.set_xscale("log" if spec.log_x else "linear")
        axes.set_yscale("log" if spec.log_y else "linear")
        axes.set_xlabel(spec.x.replace("_", " "))
        axes.set_ylabel(spec.y.replace("_", " "))
        axes.grid(visible=True, alpha=0.3)
        if any(lines):
            figure.legend(loc="outside right upper", fontsize="small")
        held = io.BytesIO()
        figure.savefig(held, format="svg", metadata={"Date": None})
    return held.getbuffer()


def collect_lines(rows: Sequence[Row], spec: ChartSpec) -> dict[str, list[tuple[float, float]]]:
    """Per line its points by rising x; several seeds of one point as their mean."""
    sums: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        x, y = row.get(spec.x), row.get(spec.y)
        if x is None or y is None:
            continue
        name = ", ".join(f"{column} {row[column]}" for column in spec.lines)
        sums.setdefault(name, {}).setdefault(float(x), []).append(float(y))
    return {name: sorted((x, sum(ys) / len(ys)) for x, ys in points.items()) for name, points in sums.items()}
