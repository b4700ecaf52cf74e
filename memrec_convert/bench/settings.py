"""What a caller can choose about a measurement of speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memrec_convert.errors import OptionError

BATCHES = (1, 64, 512, 2048, 16384)
SECONDS = 4.0
ZIPF = 1.05
MOST_BATCH, MOST_THREADS, MOST_SECONDS = 1 << 20, 4096, 3600.0


@dataclass(frozen=True)
class Settings:
    """Choices of a measurement; OptionError where one makes no sense.

    batches       samples of a call, measured one after the other
    threads       inside each operation
    seconds       aimed at per batch size, all contenders together; as much again per number of callers
    zipf          exponent of the ids where there is no log: the id of rank r is read in proportion to r**-zipf
    concurrency   numbers of threads that call at once
    """

    batches: tuple[int, ...] = BATCHES
    threads: int = 1
    seconds: float = SECONDS
    zipf: float = ZIPF
    seed: int = 0
    concurrency: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.batches:
            raise OptionError("no batch size was given; expected one or several, such as 1,64,2048.")
        for batch in self.batches:
            _check_whole("a batch size", batch, MOST_BATCH)
        _check_whole("threads", self.threads, MOST_THREADS)
        for callers in self.concurrency:
            _check_whole("a number of callers", callers, MOST_THREADS)
        _check_number("seconds", self.seconds, MOST_SECONDS)
        _check_number("the Zipf exponent", self.zipf, STEEPEST)


def _check_whole(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise OptionError(f"{name} is {value!r}; expected a whole number from 1 to {most}.")


def _check_number(name: str, value: object, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most or math.isnan(value):
        raise OptionError(f"{name} is {value!r}; expected a number above 0 and at most {most:g}.")


STEEPEST = 10.0
