"""The best split of a budget over tables: one price of a byte for all of them, then the rest spent greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memrec_convert.lab.rivals.rival import Option

_STEPS = 70
_LOWEST, _HIGHEST = -110.0, 90.0

CountBytes = Callable[[Sequence[Option]], int]
"""Exact bytes of the whole file for one option per table."""


@dataclass(frozen=True)
class Split:
    """One option per table, and the exact bytes of the file; `fits` is false where even the smallest is too large."""

    options: tuple[Option, ...]
    nbytes: int
    fits: bool

    @property
    def distortion(self) -> float:
        """Predicted loss over all tables."""
        return sum(option.distortion for option in self.options)


def split_budget(tables: Sequence[Sequence[Option]], budget_bytes: int, count: CountBytes) -> Split:
    """The options of least summed distortion within the budget (Shoham and Gersho, 1988), to its last bytes."""
    sizes = [np.array([option.nbytes for option in options], dtype=np.float64) for options in tables]
    losses = [np.array([option.distortion for option in options]) for options in tables]

    def pick(numbers: Sequence[int]) -> tuple[Option, ...]:
        return tuple(options[number] for options, number in zip(tables, numbers, strict=True))

    def at(exponent: float) -> list[int]:
        return [int((loss + 2.0**exponent * size).argmin()) for loss, size in zip(losses, sizes, strict=True)]

    best = [int(size.argmin()) for size in sizes]
    smallest = count(pick(best))
    if smallest > budget_bytes:
        return Split(pick(best), smallest, fits=False)
    low, high = _LOWEST, _HIGHEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = at(middle)
        if count(pick(found)) <= budget_bytes:
            high, best = middle, found
        else:
            low = middle
    best = _spend_rest(best, sizes, losses, budget_bytes, lambda numbers: count(pick(numbers)))
    return Split(pick(best), count(pick(best)), fits=True)


def _spend_rest(
    chosen: list[int],
    sizes: list[np.ndarray],
    losses: list[np.ndarray],
    budget_bytes: int,
    count: Callable[[Sequence[int]], int],
) -> list[int]:
    """Better options for single tables, the best bargain first, until none fits any more."""
    refused: set[tuple[int, int]] = set()
    while True:
        rest = budget_bytes - count(chosen)
        bargains = list[tuple[float, int, int]]()
        for table, (size, loss) in enumerate(zip(sizes, losses, strict=True)):
            more, gain = size - size[chosen[table]], loss[chosen[table]] - loss
            for number in map(int, np.flatnonzero((gain > 0) & (more <= rest))):
                if (table, number) not in refused:
                    bargains.append((float(gain[number] / max(more[number], 1.0)), table, number))
        if not bargains:
            return chosen
        _, table, number = max(bargains)
        tried = [*chosen[:table], number, *chosen[table + 1 :]]
        if count(tried) <= budget_bytes:
            chosen = tried
        else:
            refused.add((table, number))
