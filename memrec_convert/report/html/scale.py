"""Scales of charts: where a value lies between two ends, and which round values are written there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MOST_TICKS = 5
TO_SCALE = 5e-4
"""Changes of AUC about this size or smaller are drawn to scale, larger ones by their logarithm."""
_STEPS = (1, 2, 2.5, 5, 10)
_TENTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
_HALVES = (2e-4, 5e-4, 2e-3, 5e-3, 2e-2, 5e-2, 0.2, 0.5)
APART = 0.17
"""Of the plot between two ticks at the least, where their labels have room on a telephone."""

Ticks = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` as shares 0 to 1, after `bend`; `ticks` are (value, label)."""

    low: float
    high: float
    ticks: Ticks
    bend: Callable[[float], float] = float

    def share(self, value: float) -> float:
        """Where a value lies; values outside lie on the edge."""
        low, high = self.bend(self.low), self.bend(self.high)
        return (self.bend(min(self.high, max(self.low, value))) - low) / (high - low)


def linear_scale(values: Iterable[float], label: Callable[[float], str], *, most: int = MOST_TICKS) -> Scale:
    """Even steps of a round size around the values."""
    known = list(values)
    low, high = min(known), max(known)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = max(abs(low) * 0.1, 1e-6)
        low, high = low - room, high + room
    step = round_step((high - low) / (most - 1))
    ticks = [number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]
    return Scale(ticks[0], ticks[-1], tuple((tick, label(tick)) for tick in ticks))


def log_scale(values: Iterable[float], label: Callable[[float], str]) -> Scale:
    """By the logarithm, for values above zero, with a little room at both ends."""
    known = list(values)
    low, high = min(known) / 1.2, max(known) * 1.2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [factor * 10.0**decade for decade in decades if not decade % every for factor in factors]
        for every, factors in ((1, (1, 2, 5)), (1, (1, 3)), (1, (1,)), (2, (1,)), (4, (1,)))
    ]
    shown = [[tick for tick in choice if low <= tick <= high] for choice in choices]
    ticks = next((one for one in shown if len(one) <= MOST_TICKS), shown[-1])
    return Scale(low, high, tuple((tick, label(tick)) for tick in ticks), math.log)


def change_scale(changes: Iterable[float]) -> Scale:
    """Changes of AUC around zero: small ones to scale, large ones by their logarithm, so that all can be told apart."""
    known = [0.0, *changes]
    reach = max(abs(min(known)), abs(max(known)), 1e-4)
    low, high = min(min(known) * 1.15, -0.15 * reach), max(max(known) * 1.15, 0.15 * reach)
    # Zero before all, then the large ones, those of a single 1 first.
    wanted = [0.0, *(sign * step for steps in (_TENTHS, _HALVES) for step in reversed(steps) for sign in (1, -1))]
    inside = [tick for tick in wanted if low <= tick <= high]
    return Scale(low, high, _spread(Scale(low, high, (), _bend_change), inside, label_change), _bend_change)


def list_scale(values: Sequence[float], label: Callable[[float], str]) -> Scale:
    """By the logarithm, with a tick at every value and labels where there is room for them, the largest first."""
    known = sorted(set(values), reverse=True)
    low, high = known[-1] / 1.3, known[0] * 1.3
    labelled = dict(_spread(Scale(low, high, (), math.log), known, label))
    return Scale(low, high, tuple((value, labelled.get(value, "")) for value in reversed(known)), math.log)


def _spread(scale: Scale, wanted: Sequence[float], label: Callable[[float], str]) -> Ticks:
    """Those ticks of the wanted, the first before the others, that are far enough apart to be read."""
    kept: list[float] = []
    for tick in wanted:
        if all(abs(scale.share(tick) - scale.share(other)) >= APART for other in kept):
            kept.append(tick)
    return tuple((tick, label(tick)) for tick in sorted(kept))


def round_step(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in _STEPS if factor * power >= step * (1 - 1e-9))


def label_change(value: float) -> str:
    """+0.001, 0, -0.0005."""
    return f"{value:+.6g}" if value else "0"


def label_size(size: float) -> str:
    """10 MB, 200 kB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor * 0.9999:
            return f"{size / factor:g} {unit}"
    return f"{size:g} B"


def _bend_change(value: float) -> float:
    return math.asinh(value / TO_SCALE)
