"""Samples to look up: drawn from a click log, or by Zipf's law over the rows of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from memrec_convert.clicklog import Bag
from memrec_convert.conversion.inputs.from_checkpoint import LogBatches
from memrec_convert.encoding.index import list_ids
from memrec_convert.lookup import CompressedTable

POOL_SAMPLES = 1 << 18
"""Of a log so many samples are held, and drawn from."""


@dataclass(frozen=True)
class Draw:
    """Samples for one call: dense float32 [B, n]; ids int64 [B, inputs] or a `Bag` per input; the same by column."""

    dense: Tensor
    ids: Tensor | tuple[Bag, ...]
    columns: tuple[Bag, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, about."""
        ids = sum(part.nbytes for column in self.columns for part in column[:2])
        return self.dense.nbytes + ids * (2 if isinstance(self.ids, Tensor) else 1)


class Source(Protocol):
    """Where samples come from; each call gives others, of one distribution."""

    def draw_calls(self, calls: int, batch: int) -> list[Draw]:
        """The samples of so many calls, `batch` each."""

    def describe(self) -> dict[str, Any]:
        """{"source": "log" or "zipf", ...}."""


def make_draws(dense: Tensor, ids: Tensor, *, calls: int) -> list[Draw]:
    """Draws of one id per sample and input, of dense [calls * B, n] and ids [calls * B, inputs], B samples to a call.

    No two share an address. What the original's modules are called with is made here, untimed.
    """
    batch = len(ids) // calls
    grids = ids.reshape(calls, batch, ids.shape[1])
    columns, offsets = grids.transpose(1, 2).contiguous(), torch.arange(batch).repeat(calls, 1)
    parts = zip(dense.reshape(calls, batch, dense.shape[1]), grids, columns, offsets, strict=True)
    return [Draw(one, grid, tuple(Bag(column, starts) for column in own)) for one, grid, own, starts in parts]


class LogSource:
    """Samples of a click log, picked at random from its first POOL_SAMPLES."""

    def __init__(self, batches: LogBatches, seed: int = 0) -> None:
        parts = list(batches.stream(limit=POOL_SAMPLES))
        self.draw, self.dense = np.random.default_rng(seed), torch.cat([part.dense for part in parts])
        grids = [part.ids for part in parts if isinstance(part.ids, Tensor)]
        self.grid = torch.cat(grids) if len(grids) == len(parts) else None
        self.bags = None if self.grid is not None else _join_bags([_bags_of(part.ids) for part in parts])

    def draw_calls(self, calls: int, batch: int) -> list[Draw]:
        """So many calls of `batch` samples, with replacement."""
        picked = torch.from_numpy(self.draw.integers(0, len(self.dense), calls * batch))
        if self.grid is not None:
            return make_draws(self.dense[picked], self.grid[picked], calls=calls)
        assert self.bags is not None
        bags = zip(*(_cut_bag(_pick(ids, starts, picked), calls) for ids, starts in self.bags), strict=True)
        dense = torch.split(self.dense[picked], batch)
        return [Draw(own, columns, columns) for own, columns in zip(dense, bags, strict=True)]

    def describe(self) -> dict[str, Any]:
        """The number of samples drawn from."""
        return {"source": "log", "samples": len(self.dense)}


def _bags_of(ids: Tensor | tuple[Bag, ...]) -> tuple[Bag, ...]:
    if not isinstance(ids, Tensor):
        return ids
    return make_draws(ids, ids, calls=1)[0].columns


def _join_bags(parts: Sequence[tuple[Bag, ...]]) -> list[tuple[Tensor, Tensor]]:
    """Per input the ids of all parts, and the start of each sample's, with the end of the last."""
    joined = []
    for columns in zip(*parts, strict=True):
        ends = [torch.cat([bag.offsets[1:], bag.offsets.new_tensor([len(bag.ids)])]) for bag in columns]
        lengths = torch.cat([end - bag.offsets for end, bag in zip(ends, columns, strict=True)])
        joined.append((torch.cat([bag.ids for bag in columns]), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])))
    return joined


def _pick(ids: Tensor, starts: Tensor, picked: Tensor) -> Bag:
    """The bags of these samples as one."""
    first, lengths = starts[picked], starts[picked + 1] - starts[picked]
    offsets = lengths.cumsum(0) - lengths
    places = torch.arange(int(lengths.sum())) + (first - offsets).repeat_interleave(lengths)
    return Bag(ids[places], offsets)


def _cut_bag(bag: Bag, calls: int) -> list[Bag]:
    """The bags of so many calls, which all have as many samples."""
    offsets = bag.offsets.reshape(calls, len(bag.offsets) // calls)
    ends = [*offsets[1:, :1].flatten().tolist(), len(bag.ids)]
    parts = zip(offsets, offsets[:, 0].tolist(), ends, strict=True)
    return [Bag(bag.ids[start:end], own - start) for own, start, end in parts]


class ZipfSource:
    """Ids by Zipf's law: rank r in proportion to r**-exponent. The first ranks are ids that the artifact holds as hot
    ones, the others lie scattered over the rows.
    """

    def __init__(
        self, rows: Sequence[int], *, exponent: float, dense: int, hottest: Mapping[int, np.ndarray], seed: int = 0
    ) -> None:
        self.rows, self.exponent, self.dense_width, self.hottest = tuple(rows), exponent, dense, hottest
        self.draw = np.random.default_rng(seed)
        self.strides = tuple(map(find_stride, rows))

    def draw_calls(self, calls: int, batch: int) -> list[Draw]:
        """So many calls of `batch` samples; dense values uniform in [0, 1)."""
        ids = np.empty((calls * batch, len(self.rows)), dtype=np.int64)
        for number, rows in enumerate(self.rows):
            ids[:, number] = self.id_of(number, draw_ranks(rows, self.exponent, len(ids), self.draw))
        dense = torch.from_numpy(self.draw.random((len(ids), self.dense_width), dtype=np.float32))
        return make_draws(dense, torch.from_numpy(ids), calls=calls)

    def id_of(self, number: int, ranks: np.ndarray) -> np.ndarray:
        """Ids of an input with these ranks (int64, 0 is the most frequent)."""
        hot = self.hottest.get(number, np.empty(0, dtype=np.int64))
        ids = (ranks * self.strides[number] + number) % self.rows[number]
        is_hot = ranks < len(hot)
        ids[is_hot] = hot[ranks[is_hot]]
        return ids

    def describe(self) -> dict[str, Any]:
        """The exponent."""
        return {"source": "zipf", "exponent": self.exponent}


def find_stride(rows: int) -> int:
    """A step that visits every row and never a near one next: coprime to `rows`, at their golden section."""
    stride = max(1, round(rows * 0.6180339887))
    while math.gcd(stride, rows) != 1:
        stride += 1
    return stride


def draw_ranks(rows: int, exponent: float, count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` ranks int64 in [0, rows), rank r in proportion to (r + 1)**-exponent; exact, in memory for `count` alone.

    Rejection-inversion (Hörmann and Derflinger, 1996).
    """

    def area(x: np.ndarray | float) -> np.ndarray:  # of x**-exponent, from 1 to x
        logs = np.log(np.asarray(x, dtype=np.float64))
        return logs if exponent == 1 else np.expm1((1 - exponent) * logs) / (1 - exponent)

    def inverse(u: np.ndarray | float) -> np.ndarray:
        given = np.asarray(u, dtype=np.float64)
        if exponent == 1:
            return np.exp(given)
        return np.exp(np.log1p(np.maximum((1 - exponent) * given, -1 + 1e-15)) / (1 - exponent))

    low, high = float(area(1.5)) - 1.0, float(area(rows + 0.5))
    shortcut = 2.0 - float(inverse(float(area(2.5)) - 2.0**-exponent))
    found = np.empty(count, dtype=np.int64)
    open_places = np.arange(count)
    while len(open_places):
        u = high + draw.random(len(open_places)) * (low - high)
        x = inverse(u)
        k = np.clip(np.floor(x + 0.5), 1, rows)
        taken = (k - x <= shortcut) | (u >= area(k + 0.5) - k**-exponent)
        found[open_places[taken]] = k[taken].astype(np.int64) - 1
        open_places = open_places[~taken]
    return found


def list_hottest(tables: Iterable[object], inputs: Sequence[int], seed: int = 0) -> dict[int, np.ndarray]:
    """Per input the ids that its largest table holds best: stored rows first, then long codes, shuffled within."""
    largest: dict[int, CompressedTable] = {}
    for table, number in zip(tables, inputs, strict=True):
        if isinstance(table, CompressedTable) and table.spec.levels:
            known = largest.get(number)
            if known is None or table.spec.rows > known.spec.rows:
                largest[number] = table
    draw, found = np.random.default_rng(seed), {}
    for number, table in largest.items():
        levels = sorted(enumerate(table.spec.levels), key=lambda entry: (entry[1].kind != "rows", -entry[1].depth))
        ids = [list_ids(level.index, table.get_buffer(f"level{n}_index")).numpy() for n, level in levels]
        found[number] = np.concatenate([draw.permutation(part) for part in ids])
    return found
