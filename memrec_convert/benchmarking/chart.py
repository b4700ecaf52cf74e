"""The chart of a comparison: change of AUC against bytes, a line per method, as SVG."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memrec_convert.errors import OutputError
from memrec_convert.safe_files import check_target, write_file

WIDTH_INCHES, HEIGHT_INCHES = 9.0, 5.5
LINEAR_BELOW = 1e-3
"""Changes of AUC smaller than this are drawn to scale, larger ones by their logarithm."""
MARKERS = "os^vD<>PX*hd8p"
OUR_PREFIX = "memrec-convert"


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


def draw_chart(found: Mapping[str, Any], path: str | Path, *, force: bool = False) -> None:
    """Draws what `compare` returned; methods that reached no budget are left out. OutputError as `check_chart`."""
    check_chart(path, force=force)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = collect_lines(found.get("budgets", [found]))
    # Text stays text, and nothing in the file depends on the hour: equal figures give equal bytes.
    with rc_context({"svg.hashsalt": "memrec-convert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        for number, (method, points) in enumerate(lines.items()):
            ours = method.startswith(OUR_PREFIX)
            axes.plot(
                [nbytes for nbytes, _ in points], [delta for _, delta in points], label=method,
                marker=MARKERS[number % len(MARKERS)], color="black" if ours else f"C{number % 10}",
                linewidth=2.5 if ours else 1.2, linestyle="-" if number < 10 else "--", zorder=3 if ours else 2,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)  # the good ones differ by less than the bad ones' line width
        axes.axhline(0.0, color="grey", linewidth=0.8)
        axes.set_xlabel("bytes of the whole file")
        axes.set_ylabel("AUC less the original's")
        axes.grid(visible=True, alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small")
        held = io.BytesIO()
        figure.savefig(held, format="svg", metadata={"Date": None})
    write_file(Path(path), [held.getbuffer()])


def collect_lines(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Per method its points (bytes, change of AUC), by rising bytes."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for table in tables:
        for row in table["rows"]:
            if row["auc_delta"] is not None:
                lines.setdefault(row["method"], []).append((row["bytes"], row["auc_delta"]))
    return {method: sorted(points) for method, points in lines.items()}
