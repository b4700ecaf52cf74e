"""Line charts as SVG files: the one way in which figures are drawn, here and in the lab."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memrec_convert.errors import OutputError
from memrec_convert.safe_files import check_target, write_file

WIDTH_INCHES, HEIGHT_INCHES = 9.0, 5.5
MARKERS = "os^vD<>PX*hd8p"


@dataclass(frozen=True)
class Axes:
    """One panel: labels and scales of its axes ("linear", "log", "log2"; "symlog" is linear below `linear_below`).

    zero   draws a line at y = 0
    """

    x: str
    y: str = ""
    title: str = ""
    x_scale: str = "linear"
    y_scale: str = "linear"
    linear_below: float = 0.0
    zero: bool = False


Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Points (x, y) by rising x, per name of a line."""


def check_chart(path: str | Path, *, force: bool = False) -> None:
    """OutputError, before any work is done, where the chart could not be drawn or written."""
    if Path(path).suffix.lower() != ".svg":
        raise OutputError(f"cannot draw {path}: charts are SVG; give a name that ends in .svg.")
    if importlib.util.find_spec("matplotlib") is None:
        raise OutputError(
            f"cannot draw {path}: matplotlib is not installed; install it with pip install 'memrec-convert[plots]', or "
            "leave the chart out."
        )
    check_target(Path(path), force=force)


def write_chart(path: str | Path, panels: Sequence[tuple[Axes, Lines]], *, ours: str, force: bool = False) -> None:
    """Draws panels side by side into `path`; OutputError as `check_chart`."""
    check_chart(path, force=force)
    write_file(Path(path), [draw_chart(panels, ours=ours)])


def draw_chart(panels: Sequence[tuple[Axes, Lines]], *, ours: str = "") -> memoryview:
    """An SVG file's bytes; equal points give equal bytes. Lines whose names begin with `ours` are drawn in black."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text, and nothing in the file depends on the hour: equal figures give equal bytes.
    with rc_context({"svg.hashsalt": "memrec-convert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        drawn = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (spec, lines) in zip(drawn, panels, strict=True):
            for number, (name, points) in enumerate(lines.items()):
                own = bool(ours) and name.startswith(ours)
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    label=name,
                    marker=MARKERS[number % len(MARKERS)],
                    color="black" if own else f"C{number % 10}",
                    linewidth=2.5 if own else 1.2,
                    linestyle="-" if number < 10 else "--",
                    zorder=3 if own else 2,
                )
            _set_scales(axes, spec)
        if len(panels) > 1:
            drawn[0].legend(fontsize="small")
        elif any(name for _, lines in panels for name in lines):
            figure.legend(loc="outside right upper", fontsize="small")
        held = io.BytesIO()
        figure.savefig(held, format="svg", metadata={"Date": None})
    return held.getbuffer()


def _set_scales(axes: object, spec: Axes) -> None:
    """Scales, labels and grid of a panel (matplotlib's Axes)."""
    for name, scale in (("x", spec.x_scale), ("y", spec.y_scale)):
        options: dict[str, float] = {"base": 2} if scale == "log2" else {}
        if scale == "symlog":
            options = {"linthresh": spec.linear_below}
        getattr(axes, f"set_{name}scale")("log" if scale == "log2" else scale, **options)
    axes.set(xlabel=spec.x, ylabel=spec.y, title=spec.title)  # type: ignore[attr-defined]
    axes.grid(visible=True, alpha=0.3)  # type: ignore[attr-defined]
    if spec.zero:
        axes.axhline(0.0, color="grey", linewidth=0.8)  # type: ignore[attr-defined]
