"""The chart of an experiment: one column of its rows against another, a line per kind."""

from __future__ import annotations

from collections.abc import Sequence

from memrec_convert.lab.drawing import Axes, draw_chart
from memrec_convert.lab.experiments.experiment import ChartSpec, Row


def draw_rows(rows: Sequence[Row], spec: ChartSpec) -> memoryview:
    """An SVG file's bytes; equal rows give equal bytes. Rows without a figure are left out."""
    scales = ("log" if spec.log_x else "linear", "log" if spec.log_y else "linear")
    axes = Axes(spec.x.replace("_", " "), spec.y.replace("_", " "), x_scale=scales[0], y_scale=scales[1])
    return draw_chart([(axes, collect_lines(rows, spec))])


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
