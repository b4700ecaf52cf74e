"""Fair timing of several ways to do the same: interleaved repetitions, medians, and whether the machine is noisy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

NOISY_SPREAD = 1.5
"""A ninth decile this many times the median: the machine is busy with something else."""

LOOKUPS_IN_A_ROW, MOST_CALLS_IN_A_ROW = 131072, 200


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
    in_a_row: int = 1,
    lead: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Contenders take turns, one per repetition, the first to run changing each time; every call is timed by itself.

    A turn is `lead` calls that are not timed, then `in_a_row` that are: whoever serves a model calls it again and
    again, and what that leaves in the caches is part of how fast it is. A contender is called
    with the number of the call, so that it can take new ids each time; its result is kept until the time is taken. One
    repetition beforehand is not counted.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        first = (repetition % repetitions) * (lead + in_a_row)
        for name in names[turn:] + names[:turn]:
            for call in range(lead + in_a_row):
                start = clock()
                result = contenders[name](first + call)
                stop = clock()
                del result
                if repetition >= 0 and call >= lead:
                    seconds[name].append((stop - start) * 1e-9)
    return {name: summarise(found) for name, found in seconds.items()}


def calls_in_a_row(lookups: int) -> int:
    """How many calls of so many lookups make a turn: enough that what others left in the caches no longer matters."""
    return min(max(round(LOOKUPS_IN_A_ROW / max(lookups, 1)), 1), MOST_CALLS_IN_A_ROW)


def summarise(seconds: Sequence[float]) -> Timing:
    """Median, percentiles, and spread (ninth decile over median) of repetitions."""
    ordered = sorted(seconds)
    median = statistics.median(ordered)
    return Timing(median, median, _quantile(ordered, 0.99), _quantile(ordered, 0.9) / max(median, 1e-12))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
