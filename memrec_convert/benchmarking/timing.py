"""Fair timing of several ways to do the same: interleaved repetitions, medians, and whether the machine is noisy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

NOISY_SPREAD = 1.5
"""A ninth decile this many times the median: the machine is busy with something else."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender over its repetitions."""

    median: float
    p50: float
    p99: float
    spread: float

    @property
    def noisy(self) -> bool:
        """Whether the repetitions differ too much for a figure to be trusted."""
        return self.spread > NOISY_SPREAD


def time_interleaved(
    contenders: Mapping[str, Callable[[int], object]],
    repetitions: int,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Runs every contender once per repetition, one after the other, the first to run changing each time.

    A contender is called with the number of the repetition, so that it can take new ids each time; its result is kept
    until the time is taken. One repetition beforehand is not counted.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            result = contenders[name](max(repetition, 0))
            stop = clock()
            del result
            if repetition >= 0:
                seconds[name].append((stop - start) * 1e-9)
    return {name: summarise(found) for name, found in seconds.items()}


def summarise(seconds: Sequence[float]) -> Timing:
    """Median, percentiles, and spread (ninth decile over median) of repetitions."""
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    return Timing(median, median, _quantile(ordered, 0.99), _quantile(ordered, 0.9) / max(median, 1e-12))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
