"""What a click log hands out: batches of dense values, ids and labels, and the digest of its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memrec_convert.clicklog.block import MISSING_ID, Block, Ragged


class Bag(NamedTuple):
    """The lookups of one table for a batch of B samples, as `nn.EmbeddingBag` takes them.

    `ids` int64 [lookups]; `offsets` int64 [B], where each sample's lookups start (an empty bag repeats its
    successor's start); `weights` float32 [lookups] or None.
    """

    ids: Tensor
    offsets: Tensor
    weights: Tensor | None = None

    def cut(self, start: int, stop: int) -> Bag:
        """The lookups of the samples from `start` to before `stop`, as views."""
        bounds = torch.cat([self.offsets, self.offsets.new_tensor([len(self.ids)])])
        first, last = int(bounds[start]), int(bounds[stop])
        weights = None if self.weights is None else self.weights[first:last]
        return Bag(self.ids[first:last], self.offsets[start:stop] - first, weights)


@dataclass(frozen=True)
class Batch:
    """B samples of a click log.

    `dense` float32 [B, n], after the dense transform; `ids` int64 [B, T], or a tuple of T `Bag`s as soon as one table
    of the log is multi-hot or a lookup of this batch was dropped (`oov="zero"`); `labels` float32 [B], or None for a
    log without labels; `groups` int64 [B], equal where the group column is, or None without one; `places` int64 [B],
    where in its log each sample stands, or None for samples of no log.
    """

    dense: Tensor
    ids: Tensor | tuple[Bag, ...]
    labels: Tensor | None
    groups: Tensor | None = None
    places: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of samples."""
        return int(self.dense.shape[0])

    def cut(self, start: int, stop: int) -> Batch:
        """The samples from `start` to before `stop`, as views."""
        ids = tuple(bag.cut(start, stop) for bag in self.ids) if isinstance(self.ids, tuple) else self.ids[start:stop]
        beside = (self.labels, self.groups, self.places)
        return Batch(self.dense[start:stop], ids, *(None if one is None else one[start:stop] for one in beside))


@dataclass(frozen=True)
class LogDigest:
    """What the files of a log contain, as hashes.

    `combined` is the first 32 hex digits of the SHA-256 over the sorted SHA-256 digests of the files (the same files
    in another order or under other names make the same log); `files` the first 16 hex digits of each file's own, in
    the log's order; `names` the files' base names, for messages only.
    """

    combined: str
    files: tuple[str, ...]
    names: tuple[str, ...] = field(default=(), compare=False)


def make_batch(block: Block) -> Batch:
    """A block of rows as tensors; the ids are widened to int64."""
    beside = (block.labels, block.groups, block.places)
    columns = (None if one is None else torch.from_numpy(one) for one in beside)
    return Batch(torch.from_numpy(block.dense), _make_ids(block.ids), *columns)


def _make_ids(ids: np.ndarray | tuple[Ragged, ...]) -> Tensor | tuple[Bag, ...]:
    if isinstance(ids, tuple):
        return tuple(_make_bag(column) for column in ids)
    if ids.size and int(ids.min()) == MISSING_ID:
        return tuple(_make_bag(Ragged.from_single(ids[:, table])) for table in range(ids.shape[1]))
    return torch.from_numpy(ids.astype(np.int64))


def _make_bag(column: Ragged) -> Bag:
    ids = torch.from_numpy(column.values.astype(np.int64))
    return Bag(ids=ids, offsets=torch.from_numpy(column.offsets[:-1].copy()))
