"""Crews that keep what they have finished, and crews of several ranks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import load, save

from memrec_convert.conversion.inputs.kept_fits import NO_STORE, FitStore, flatten, restore
from memrec_convert.conversion.ranks.wire import Wire
from memrec_convert.errors import RankError
from memrec_convert.parallel import Crew, Job, Pass, ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made")


@dataclass(frozen=True)
class KeepingCrew(Crew):
    """One process, which finds what an earlier run has finished of a pass."""

    store: FitStore

    def run(self, work: Pass[Item, Result]) -> Iterator[Result]:
        """As any crew's; blocks are found in the store, or put there."""
        blocks = _Blocks(work, self.store)
        for results in blocks.make_all(range(len(blocks))):
            yield from results


@dataclass(frozen=True)
class RankedCrew(Crew):
    """Several processes that do the same, but for what they share."""

    wire: Wire
    store: FitStore = NO_STORE
    deciding: list[str] = field(default_factory=list, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.wire.rank == 0

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.wire.size

    def keeping(self, store: FitStore) -> RankedCrew:
        """The same ranks, each with a store for what it finishes."""
        return replace(self, store=store)

    def run(self, work: Pass[Item, Result]) -> Iterator[Result]:
        """As any crew's; blocks that no store holds are shared out by what they cost."""
        return next(self._share([work]))

    def finish(self, jobs: Sequence[Job[Made]]) -> list[Made]:
        """As any crew's; the blocks of all jobs are shared out at once."""
        return [job.join(found) for job, found in zip(jobs, self._share([job.work for job in jobs]), strict=True)]

    def _share(self, passes: Sequence[Pass[Any, Any]]) -> Iterator[Iterator[Any]]:
        """The results of each pass, which are to be taken to their end before those of the next one."""
        of_pass = [_Blocks(work, self.store) for work in passes]
        owners = _by_pass(self._share_out(of_pass), of_pass)
        own = [
            blocks.pack_all([number for number, taker in enumerate(takers) if taker == self.wire.rank])
            for blocks, takers in zip(of_pass, owners, strict=True)
        ]
        sizes = [
            len(made.get(number, b""))
            for blocks, made in zip(of_pass, own, strict=True)
            for number in range(len(blocks))
        ]
        if sizes:
            sizes = self.wire.gather(np.array(sizes, dtype=np.int64)).max(axis=0).tolist()
        for work, takers, made, nbytes in zip(passes, owners, own, _by_pass(sizes, of_pass), strict=True):
            yield self._spread(work, takers, made, nbytes)

    def _spread(
        self, work: Pass[Any, Any], owners: Sequence[int], made: dict[int, bytes], sizes: Sequence[int]
    ) -> Iterator[Any]:
        """The results of one pass, of whose blocks some were made here; each is let go once it is sent."""
        for number, (owner, nbytes) in enumerate(zip(owners, sizes, strict=True)):
            yield from _unpack(self.wire.spread(owner, made.pop(number, None), nbytes), work.classes)

    def decide(self, name: str, make: Callable[[], Result], classes: Sequence[type] = ()) -> Result:
        """What rank 0 makes, at every rank."""
        self._agree_on(name)
        own = b""
        if self.leads:
            self.deciding.append(name)
            own = _pack([make()], classes)
            self.deciding.remove(name)
        nbytes = int(self.wire.gather(np.array([len(own)], dtype=np.int64))[0, 0])
        found: list[Result] = _unpack(self.wire.spread(0, own if self.leads else None, nbytes), classes)
        return found[0]

    def count(
        self, name: str, function: Callable[[Sequence[int]], Sequence[np.ndarray]], units: int
    ) -> Sequence[np.ndarray]:
        """As any crew's; units are taken in turn, to and fro."""
        self._agree_on(f"{name}, {units}")
        owners = _to_and_fro(units, self.wire.size)
        return [self.wire.add(one) for one in function(np.flatnonzero(owners == self.wire.rank).tolist())]

    def agree(self, what: str, value: Callable[[], str]) -> None:
        """RankError where a rank has another value than rank 0."""
        values = self.wire.gather_texts(value())
        for rank, other in enumerate(values):
            if other != values[0]:
                raise RankError(
                    f"rank {rank} differs from rank 0 in {what}: {_shorten(other)}, and rank 0 has "
                    f"{_shorten(values[0])}; all ranks must be given the same."
                )

    def all_have(self, held: bool) -> bool:
        """Whether every rank has something."""
        return bool(self.wire.gather(np.array([held], dtype=np.uint8)).all())

    def _share_out(self, of_pass: Sequence[_Blocks]) -> list[int]:
        """The rank that each block's content comes from, pass by pass."""
        # The costs too: where they differ, so would the owners, and each rank would wait for another one's block.
        self._agree_on(
            "; ".join(f"{blocks.work.name}, {len(blocks)}, {[*map(float, blocks.work.costs)]}" for blocks in of_pass)
        )
        held_here = [blocks.is_held(number) for blocks in of_pass for number in range(len(blocks))]
        if not held_here:
            return []
        held = self.wire.gather(np.array(held_here, dtype=np.uint8))
        missing = np.flatnonzero(held.max(axis=0) == 0)
        owners = held.argmax(axis=0)
        if all(len(blocks.work.costs) for blocks in of_pass if len(blocks)):
            costs = np.array([blocks.cost(number) for blocks in of_pass for number in range(len(blocks))])
            owners[missing] = _by_cost(costs[missing], self.wire.size)
        else:
            owners[missing] = _to_and_fro(len(missing), self.wire.size)
        return [int(owner) for owner in owners]

    def _agree_on(self, name: str) -> None:
        """RankError where ranks are at different steps, since they have decided differently."""
        mark = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], dtype=np.int64)
        marks = self.wire.gather(mark)[:, 0]
        if (marks != marks[0]).any():
            other = int(np.flatnonzero(marks != marks[0])[0])
            raise RankError(
                f"rank {other} has come to another step than rank 0 (here: {_shorten(name)}): their processors or "
                "libraries decide differently; use machines of one kind, or one process."
            )


@dataclass(frozen=True)
class AgreedStore(FitStore):
    """A store from which all ranks take a thing, or none does."""

    crew: RankedCrew

    def find(self, name: str, classes: Sequence[type]) -> Any:  # noqa: ANN401 - any fit
        """As any store's, where every rank finds it; else None."""
        found = super().find(name, classes)
        if self.crew.deciding:  # the others wait for what comes of it
            return found
        return found if self.crew.all_have(found is not None) else None


@dataclass(frozen=True)
class _Blocks:
    """The items of a pass, some at a time, and what came of them."""

    work: Pass[Any, Any]
    store: FitStore

    def __len__(self) -> int:
        return -(-len(self.work.items) // self.work.block)

    def _name(self, number: int) -> str:
        return f"{self.work.name}, part {number} of {len(self)}"

    def cost(self, number: int) -> float:
        """What its items cost together."""
        return float(sum(self.work.costs[number * self.work.block : (number + 1) * self.work.block]))

    def is_held(self, number: int) -> bool:
        """Whether the store has it."""
        return self.store.find(self._name(number), self.work.classes) is not None

    def make(self, number: int) -> list[Any]:
        """The results of a block, from the store or made now."""
        own = self.work.items[number * self.work.block : (number + 1) * self.work.block]

        def run() -> list[Any]:
            return list(ordered_map(self.work.function, own, workers=self.work.workers))

        found: list[Any] = self.store.recall(self._name(number), run, self.work.classes)
        return found

    def make_all(self, numbers: Sequence[int]) -> Iterator[list[Any]]:
        """The same of several blocks, in their order; those of one item by the pass's threads."""
        return ordered_map(self.make, numbers, workers=self.work.workers if self.work.block == 1 else 1)

    def pack_all(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The same as bytes, by number."""
        packed = (_pack(results, self.work.classes) for results in self.make_all(numbers))
        return dict(zip(numbers, packed, strict=True))


def _by_pass(values: Sequence[int], of_pass: Sequence[_Blocks]) -> list[list[int]]:
    """A value for each block, pass by pass."""
    rest = iter(values)
    return [list(islice(rest, len(blocks))) for blocks in of_pass]


def _to_and_fro(tasks: int, size: int) -> np.ndarray:
    """Who of so many takes each task: 0 1 2 2 1 0 0 1 2.

    Costs rise or fall along a list: the first rows of a table are often those that are looked up most.
    """
    places = np.arange(tasks) % (2 * size)
    owners: np.ndarray = np.minimum(places, 2 * size - 1 - places)
    return owners


def _by_cost(costs: np.ndarray, size: int) -> np.ndarray:
    """Who of so many takes each task: the dearest first, each to whoever has least to do so far."""
    owners, loads, numbers = np.zeros(len(costs), dtype=np.int64), np.zeros(size), np.zeros(size, dtype=np.int64)
    for task in np.argsort(-costs, kind="stable"):
        owner = owners[task] = np.lexsort((numbers, loads))[0]  # those that cost nothing are shared evenly too
        loads[owner] += costs[task]
        numbers[owner] += 1
    return owners


def _pack(results: list[Any], classes: Sequence[type]) -> bytes:
    tensors: dict[str, Any] = {}
    plain = flatten(results, tensors, {one.__name__: one for one in classes})
    return bytes(save(tensors, metadata={"results": json.dumps(plain)}))


def _unpack(content: bytes, classes: Sequence[type]) -> list[Any]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    known = {one.__name__: one for one in classes}
    found: list[Any] = restore(json.loads(header["__metadata__"]["results"]), load(content), known)
    return found


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
