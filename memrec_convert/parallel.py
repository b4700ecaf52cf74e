"""Work on chunks in several threads with results in order, so that the number of threads never changes a bit."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made")


def usable_cores() -> int:
    """Cores that this process may run on; all of the machine's where the system does not tell them apart."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def even_out(workers: int, tasks: int) -> int:
    """Threads for so many long tasks: one more than `workers` for a few more tasks, so that none ends alone."""
    return workers + 1 if 1 < workers < tasks <= 2 * workers + 1 else workers


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1) -> Iterator[Result]:
    """`function` of each item, in the items' order, computed by up to `workers` threads a few items ahead."""
    if workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class Hands:
    """The caller's thread and workers - 1 more that stay for many short rounds of work."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers - 1) if workers > 1 else None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, in the items' order; an item's error is raised once no thread is at work."""
        if self._pool is None or len(items) < 2:
            return [function(item) for item in items]
        others = [self._pool.submit(function, item) for item in items[1:]]
        try:
            first = function(items[0])
        finally:
            wait(others)
        return [first, *(one.result() for one in others)]


@dataclass(frozen=True)
class Pass(Generic[Item, Result]):
    """What a crew shares: `function` of each of the items, `block` items at a time by one member.

    The name tells a pass, and what its results depend on, from all others. Results consist of plain values, tensors,
    arrays and the dataclasses `classes`. costs: about how long each item takes, in any unit; none where all take alike,
    or they rise or fall along the list.
    """

    name: str
    function: Callable[[Item], Result]
    items: Sequence[Item]
    workers: int = 1
    block: int = 1
    classes: Sequence[type] = ()
    costs: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.costs) not in (0, len(self.items)):
            raise ValueError(f"{len(self.costs)} costs of {len(self.items)} items")


@dataclass(frozen=True)
class Job(Generic[Made]):
    """A pass, and what is made of its results, which `join` takes in the items' order."""

    work: Pass[Any, Any]
    join: Callable[[Iterator[Any]], Made]

    def finish(self, crew: Crew | None = None) -> Made:
        """What comes of it, by a crew; by the threads of this process where none is named."""
        return self.join((crew or ALONE).run(self.work))


class Crew:
    """Who shares the passes of a conversion: here the threads of this process, elsewhere several processes too.

    Between two calls all members do the same.
    """

    def __repr__(self) -> str:
        return "ALONE"

    @property
    def leads(self) -> bool:
        """Whether this process evaluates and writes."""
        return True

    @property
    def size(self) -> int:
        """How many processes share the work."""
        return 1

    def map(
        self,
        name: str,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        workers: int = 1,
        block: int = 1,
        classes: Sequence[type] = (),
        costs: Sequence[float] = (),
    ) -> Iterator[Result]:
        """The results of a `Pass`, in the items' order; every member gets all of them."""
        return self.run(Pass(name, function, items, workers, block, classes, costs))

    def run(self, work: Pass[Item, Result]) -> Iterator[Result]:
        """The same of a pass that is put together already."""
        return ordered_map(work.function, work.items, workers=work.workers)

    def finish(self, jobs: Sequence[Job[Made]]) -> list[Made]:
        """What comes of jobs that need nothing of each other: members share them all, and wait for each other once.

        Their items have costs in one unit.
        """
        return [job.finish(self) for job in jobs]

    def count(
        self, name: str, function: Callable[[Sequence[int]], Sequence[np.ndarray]], units: int
    ) -> Sequence[np.ndarray]:
        """The sums of what `function` counts (int64 arrays, one shape each) in some of so many units, over all units.

        Each member calls it once, for units of its own.
        """
        return function(range(units))

    def agree(self, what: str, value: Callable[[], str]) -> None:
        """An error where a member has another value than the one that leads."""

    def decide(self, name: str, make: Callable[[], Result], classes: Sequence[type] = ()) -> Result:
        """What `make` gives to the member that leads."""
        return make()


ALONE = Crew()


@contextmanager
def plain_tensors() -> Iterator[None]:
    """New tensors are float32 on the CPU, whatever `torch.set_default_device` and `torch.set_default_dtype` say."""
    import torch

    elsewhere = torch.empty(0).device.type != "cpu"  # torch.get_default_device fails in some releases
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else nullcontext():
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """One thread inside each torch operation: its sums then have one order, whatever the machine's settings."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
