"""Charts as inline SVG that fit any width: places across are shares of the plot, heights and letters are pixels.

The SVG element is the plot's area alone; labels lie outside it, in margins that the style sheet keeps free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from memrec_convert.report.html.markup import Html, format_number, name_of, shorten_names, tag
from memrec_convert.report.html.scale import Scale

COLOURS = 8
"""Hues that the style sheet has, as classes c0 to c7 (areas) and s0 to s7 (lines)."""
MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "M-4,-4h8v8h-8z",
    "M0,-5L5,4H-5z",
    "M0,-5.5L5.5,0L0,5.5L-5.5,0z",
    "M0,5L5,-4H-5z",
)
SQUARE = "M-6,-6h12v12h-12z"
ROW = 40
"""Pixels of a row with its label above it."""
EXTENT = 250
LONGEST_ENTRY = 40


MUTED = 7
OWN = -1
"""The number of the one point that a chart is about: a star in the colour of the text."""
STAR = "M0,-8L2.1,-2.8L7.6,-2.5L3.3,1.1L4.7,6.5L0,3.4L-4.7,6.5L-3.3,1.1L-7.6,-2.5L-2.1,-2.8z"


@dataclass(frozen=True)
class Line:
    """Points of one name, joined where `joined`; `number` gives colour and mark, `ours` emphasis."""

    name: str
    points: tuple[tuple[float, float], ...]
    number: int = 0
    ours: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Row:
    """A row of a chart: its label on the left, words on the right, and what lies between."""

    label: str
    said: str
    parts: tuple[tuple[str, float, int], ...] = ()
    """Of a bar: (name, share, colour)."""
    value: float = 0.0
    span: tuple[float, float] | None = None
    """Of a point: its interval; of a change: before and after."""
    muted: bool = False
    """Of a point: drawn behind those that the chart is about."""


def plot_lines(
    lines: Sequence[Line],
    across: Scale,
    up: Scale,
    *,
    title: str,
    description: str,
    axes: tuple[str, str],
    diagonal: bool = False,
    level: float | None = None,
) -> Html:
    """A chart of lines with a mark on each point; `axes` say what runs across and what goes up.

    `diagonal` draws where both are equal, `level` a line across at one value.
    """
    parts = [*_ticks_up(up), *(_upright(across.share(tick), 0.0, float(EXTENT), "grid") for tick, _ in across.ticks)]
    parts += _labels_across(across, EXTENT)
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        ends = [(across.share(end), up.share(end)) for end in (low, high)]
        parts.append(_stroke(ends[0], ends[1], "level"))
    if level is not None:
        parts.append(_stroke((0.0, up.share(level)), (1.0, up.share(level)), "level"))
    for line in sorted(lines, key=lambda one: one.ours):
        places = [(across.share(x), up.share(y)) for x, y in line.points]
        kind = f"s{line.number % COLOURS}{' ours' * line.ours}"
        if line.joined:
            parts += [_stroke(a, b, kind) for a, b in pairwise(places)]
        parts += [_mark(line, place) for place in places]
    parts.append(tag("text", axes[0], x="50%", y=EXTENT + 40.0, text_anchor="middle"))
    parts.append(tag("text", axes[1], x=-48.0, y=-12.0))
    return _figure(title, description, EXTENT, parts, "plot lines")


def plot_shares(rows: Sequence[Row], *, title: str, description: str) -> Html:
    """Bars across, each split into its parts; what is beyond the whole is cut off."""
    drawn = []
    for number, row in enumerate(rows):
        top, start = float(ROW * number), 0.0
        drawn += _words(row, top + 12)
        for name, wanted, colour in row.parts:
            share = min(wanted, 1.0 - start)
            if share > 0:
                drawn.append(_block(name, start, share, top + 18, colour))
            start += share
    return _figure(title, description, ROW * len(rows), drawn, "plot shares")


def plot_intervals(rows: Sequence[Row], scale: Scale, *, title: str, description: str) -> Html:
    """A point with its interval per row, and a line where nothing changes."""
    extent = ROW * len(rows)
    parts = [*_labels_across(scale, extent)]
    for number, row in enumerate(rows):
        middle, colour = ROW * number + 28.0, MUTED if row.muted else 0
        parts += [*_lines_behind(scale, middle), _upright(scale.share(0.0), middle - 9, middle + 11, "level")]
        parts += _words(row, middle - 12)
        if row.span is not None:
            low, high = (scale.share(edge) for edge in row.span)
            parts.append(_across(low, high, middle, f"s{colour} ours"))
            parts += [_upright(edge, middle - 5, middle + 5, f"s{colour} ours") for edge in (low, high)]
        parts.append(tag("circle", cx=_percent(scale.share(row.value)), cy=middle, r=4.5, class_=f"c{colour}"))
    return _figure(title, description, extent, parts, "plot rows")


def plot_changes(rows: Sequence[Row], scale: Scale, *, title: str, description: str) -> Html:
    """From one value to another per row: hollow before, full after."""
    extent = ROW * len(rows)
    parts = [*_labels_across(scale, extent)]
    for number, row in enumerate(rows):
        middle = ROW * number + 28.0
        parts += _lines_behind(scale, middle)
        parts += _words(row, middle - 12)
        if row.span is not None:
            before, after = (scale.share(end) for end in row.span)
            parts.append(_across(before, after, middle, "span"))
            parts.append(tag("circle", cx=_percent(before), cy=middle, r=4.5, class_="hollow"))
            parts.append(tag("circle", cx=_percent(after), cy=middle, r=5.0, class_="c0"))
    return _figure(title, description, extent, parts, "plot rows")


def draw_legend(entries: Sequence[tuple[str, int, bool]], *, marks: bool = True) -> Html:
    """Names with their colour and, for lines, their mark: (name, number, ours)."""
    items = []
    names = shorten_names([name for name, _, _ in entries], LONGEST_ENTRY)
    for name, (_, number, ours) in zip(names, entries, strict=True):
        shape, kind = shape_of(number)
        path = tag("path", d=shape if marks else SQUARE, class_=kind)
        swatch = tag("svg", path, width=14.0, height=14.0, viewBox="-8 -8 16 16", aria_hidden="true")
        items.append(tag("li", swatch, tag("strong", name_of(name)) if ours else name_of(name)))
    return tag("ul", *items, class_="legend")


def shape_of(number: int) -> tuple[str, str]:
    """A line's mark, as a path, and its class: lines that share a colour differ in the mark."""
    if number == OWN:
        return STAR, "own"
    return MARKS[(number + number // COLOURS) % len(MARKS)], f"c{number % COLOURS}"


def _figure(title: str, description: str, extent: int, parts: Sequence[Html], kind: str) -> Html:
    named = (tag("title", title), tag("desc", description))
    return tag("svg", *named, *parts, role="img", class_=kind, width="100%", height=str(extent))


def _words(row: Row, y: float) -> list[Html]:
    """The label at the left edge and what is said at the right one; the style sheet moves both into the margins."""
    return [
        tag("text", row.label, x="0", y=y, class_="name"),
        tag("text", row.said, x="100%", y=y, text_anchor="end", class_="said"),
    ]


def _ticks_up(scale: Scale) -> list[Html]:
    parts = []
    for value, label in scale.ticks:
        y = EXTENT * (1 - scale.share(value))
        parts.append(tag("line", x1="0", x2="100%", y1=y, y2=y, class_="grid"))
        parts.append(tag("text", label, x=-8.0, y=y + 4, text_anchor="end", class_="tick"))
    return parts


def _lines_behind(scale: Scale, middle: float) -> list[Html]:
    """The grid behind one row's marks: it leaves the words above them alone."""
    return [_upright(scale.share(value), middle - 9, middle + 11, "grid") for value, _ in scale.ticks]


def _labels_across(scale: Scale, extent: int) -> list[Html]:
    parts = []
    for value, label in scale.ticks:
        if not label:
            continue
        anchor = {"x": _percent(scale.share(value)), "text_anchor": "middle"}
        parts.append(tag("text", label, y=extent + 18.0, class_="tick", **anchor))
    return parts


def _upright(share: float, top: float, bottom: float, kind: str) -> Html:
    return tag("line", x1=_percent(share), x2=_percent(share), y1=top, y2=bottom, class_=kind)


def _across(start: float, end: float, y: float, kind: str) -> Html:
    return tag("line", x1=_percent(start), x2=_percent(end), y1=y, y2=y, class_=kind)


def _stroke(start: tuple[float, float], end: tuple[float, float], kind: str) -> Html:
    ends = {"x1": _percent(start[0]), "x2": _percent(end[0])}
    return tag("line", y1=EXTENT * (1 - start[1]), y2=EXTENT * (1 - end[1]), class_=kind, **ends)


def _mark(line: Line, place: tuple[float, float]) -> Html:
    """A mark that keeps its shape at any width: an SVG of its own at the place."""
    shape, kind = shape_of(line.number)
    drawn = tag("path", tag("title", line.name), d=shape, class_=kind)
    return tag("svg", drawn, x=_percent(place[0]), y=EXTENT * (1 - place[1]), class_="mark")


def _block(name: str, start: float, share: float, top: float, colour: int) -> Html:
    said = tag("title", f"{name}: {100 * share:.1f} %")
    ends = {"x": _percent(start), "width": _percent(share)}
    return tag("rect", said, y=top, height=18.0, class_=f"c{colour % COLOURS} block", **ends)


def _percent(share: float) -> str:
    return f"{format_number(100 * share)}%"
