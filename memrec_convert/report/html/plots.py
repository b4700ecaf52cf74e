"""What charts are made of: lines, rows and where they lie. The templates draw them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memrec_convert.report.html.markup import shorten_names
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
LONGEST_ENTRY = 40
"""Columns of a name in a legend."""
OWN = -1
"""The number of the one point that a chart is about: a star in the colour of the text."""
STAR = "M0,-8L2.1,-2.8L7.6,-2.5L3.3,1.1L4.7,6.5L0,3.4L-4.7,6.5L-3.3,1.1L-7.6,-2.5L-2.1,-2.8z"

Values = Mapping[str, Any]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """Points of one name, joined where `joined`; `number` gives colour and mark, `ours` emphasis.

    `label` is the name as a legend has it.
    """

    name: str
    points: Points = ()
    number: int = 0
    ours: bool = False
    joined: bool = True
    label: str = ""

    @property
    def mark(self) -> str:
        """The path of its mark: lines that share a colour differ in it."""
        return STAR if self.number == OWN else MARKS[(self.number + self.number // COLOURS) % len(MARKS)]

    @property
    def colour(self) -> str:
        """The class of its mark."""
        return "own" if self.number == OWN else f"c{self.number % COLOURS}"

    @property
    def stroke(self) -> str:
        """The class of its strokes."""
        return f"s{self.number % COLOURS}{' ours' * self.ours}"


@dataclass(frozen=True)
class Plot:
    """Lines between two scales."""

    lines: Sequence[Line]
    across: Scale
    up: Scale

    def place(self, line: Line, extent: float) -> list[tuple[float, float]]:
        """Where its points lie: a share of the width from the left, pixels of `extent` from above."""
        return [(self.across.share(x), extent * (1 - self.up.share(y))) for x, y in line.points]


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

    @property
    def blocks(self) -> list[tuple[str, float, float, int]]:
        """Of a bar: (name, start, share, colour); what is beyond the whole is cut off."""
        blocks, start = [], 0.0
        for name, wanted, colour in self.parts:
            share = min(wanted, 1.0 - start)
            if share > 0:
                blocks.append((name, start, share, colour % COLOURS))
            start += share
        return blocks


def list_lines(entries: Iterable[tuple[str, Points, int, bool, bool]]) -> list[Line]:
    """Lines out of (name, points, number, ours, joined), with names that a legend has room for."""
    known = list(entries)
    labels = shorten_names([name for name, *_ in known], LONGEST_ENTRY)
    return [Line(*entry, label) for entry, label in zip(known, labels, strict=True)]


def list_areas(entries: Iterable[tuple[str, int]]) -> list[Line]:
    """The legend of areas out of (name, number)."""
    return list_lines((name, (), number, False, False) for name, number in entries)
