"""What a conversion tells of its work: seconds per stage, and bytes read by stages that read large tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from memrec_convert.distill.rows import RowReader, is_large

Progress = Callable[[str, int, int], None]
"""Told of (stage, done, total) as work goes on."""


@dataclass
class Meter:
    """Adds up the bytes that metered readers hand out, and tells a stage's progress.

    seconds: what their readings took, of all threads together.
    """

    progress: Progress | None = None
    stage_name: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    lock: Lock = field(default_factory=Lock, repr=False)

    @contextmanager
    def stage(self, name: str, total_bytes: int, progress: Progress) -> Iterator[None]:
        """Until the block ends, what is read counts towards `name`; a stage that reads nothing large tells nothing."""
        if not total_bytes:
            yield
            return
        self.progress, self.stage_name, self.done, self.total = progress, name, 0, total_bytes
        progress(name, 0, total_bytes)
        try:
            yield
        finally:
            self.progress = None
        progress(name, total_bytes, total_bytes)

    def add(self, nbytes: int, seconds: float) -> None:
        """That so much was read in such a time, by whichever thread."""
        with self.lock:
            self.seconds += seconds
            self.done = min(self.done + nbytes, self.total)
            if self.progress is not None:
                self.progress(self.stage_name, self.done, self.total)


@dataclass(frozen=True)
class MeteredRows:
    """The rows of a reader, each reading told to a meter."""

    inner: RowReader
    meter: Meter

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""
        return self.inner.shape

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """As the inner reader's."""
        begun = time.perf_counter()
        rows = self.inner.read_rows(start, stop)
        self.meter.add(rows.nbytes, time.perf_counter() - begun)
        return rows

    def read_ids(self, ids: np.ndarray) -> np.ndarray:
        """As the inner reader's."""
        begun = time.perf_counter()
        rows = self.inner.read_ids(ids)
        self.meter.add(rows.nbytes, time.perf_counter() - begun)
        return rows


def count_large_bytes(readers: Sequence[RowReader]) -> int:
    """Bytes of one pass over the large ones among them, as float32."""
    return sum(4 * reader.shape[0] * reader.shape[1] for reader in readers if is_large(reader.shape))


@dataclass
class Stopwatch:
    """Adds up wall-clock seconds under the name of each stage, and what of a meter's seconds fell into it."""

    seconds: dict[str, float] = field(default_factory=dict)
    reading: dict[str, float] = field(default_factory=dict)
    meter: Meter | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time until the block ends towards `name`."""
        start, read = time.perf_counter(), self._read()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.reading[name] = self.reading.get(name, 0.0) + self._read() - read

    def _read(self) -> float:
        return 0.0 if self.meter is None else self.meter.seconds

    def rounded(self) -> dict[str, float]:
        """Seconds to the millisecond, with their total."""
        found = {name: round(value, 3) for name, value in self.seconds.items()}
        return found | {"total": round(sum(self.seconds.values()), 3)}

    def rounded_reading(self) -> dict[str, float]:
        """The seconds of readings to the millisecond, of stages that read; those of several threads add up."""
        return {name: round(value, 3) for name, value in self.reading.items() if value >= 0.0005}
