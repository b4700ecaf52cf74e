"""Rows of a log between reading and batching: numpy arrays that can be cut, joined and permuted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_ROW_BITS = 40
"""Of a row's place, the bits that number it within its part of the log; those above number the part."""

MISSING_ID = -1
"""Stands in a single-valued column for a lookup that was dropped (`oov="zero"`)."""


@dataclass(frozen=True)
class Ragged:
    """A multi-hot column of B rows: `values` ids [lookups]; `offsets` int64 [B + 1], with the closing end."""

    values: np.ndarray
    offsets: np.ndarray

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    @staticmethod
    def from_single(ids: np.ndarray) -> Ragged:
        """A column of one id per row; the rows of dropped lookups become empty."""
        present = ids != MISSING_ID
        return Ragged(ids[present], _offsets_of(present))

    @staticmethod
    def from_lengths(values: np.ndarray, lengths: np.ndarray) -> Ragged:
        """A column of `lengths[i]` ids in row i; dropped lookups vanish from their rows."""
        offsets = _offsets_of(lengths)
        present = values != MISSING_ID
        if present.all():
            return Ragged(values, offsets)
        kept_before = np.concatenate([[0], np.cumsum(present, dtype=np.int64)])
        return Ragged(values[present], kept_before[offsets])

    def cut(self, start: int, stop: int) -> Ragged:
        """The rows from `start` to before `stop`."""
        ends = self.offsets[start : stop + 1]
        return Ragged(self.values[ends[0] : ends[-1]], ends - ends[0])

    def take(self, order: np.ndarray) -> Ragged:
        """The rows in another order; `order` holds row numbers."""
        lengths = np.diff(self.offsets)[order]
        offsets = _offsets_of(lengths)
        shift = np.repeat(self.offsets[:-1][order] - offsets[:-1], lengths)
        return Ragged(self.values[np.arange(offsets[-1]) + shift], offsets)

    @staticmethod
    def join(parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one part after the other."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return Ragged(np.concatenate([part.values for part in parts]), _offsets_of(lengths))


@dataclass(frozen=True)
class Block:
    """B rows of a log: `dense` float32 [B, n]; `ids` int32 or int64 [B, T], or one `Ragged` per table; `labels` [B].

    `groups`, int64 [B], are equal where the group column is; None for a log without one. `places`, int64 [B], say where
    in the log each row stands (see `split_places`); None outside a log.
    """

    dense: np.ndarray
    ids: np.ndarray | tuple[Ragged, ...]
    labels: np.ndarray | None
    groups: np.ndarray | None = None
    places: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.dense.shape[0])

    def table_ids(self, table: int) -> np.ndarray:
        """All ids looked up in one table, dropped lookups left out."""
        if isinstance(self.ids, tuple):
            return self.ids[table].values
        ids: np.ndarray = self.ids[:, table]
        present: np.ndarray = ids[ids != MISSING_ID]
        return present

    def cut(self, start: int, stop: int) -> Block:
        """The rows from `start` to before `stop`, as views."""
        ids = tuple(c.cut(start, stop) for c in self.ids) if isinstance(self.ids, tuple) else self.ids[start:stop]
        labels, groups, places = (None if one is None else one[start:stop] for one in self._beside())
        return Block(self.dense[start:stop], ids, labels, groups, places)

    def take(self, order: np.ndarray) -> Block:
        """The rows in another order, as copies."""
        ids = tuple(c.take(order) for c in self.ids) if isinstance(self.ids, tuple) else self.ids[order]
        labels, groups, places = (None if one is None else one[order] for one in self._beside())
        return Block(self.dense[order], ids, labels, groups, places)

    def _beside(self) -> tuple[np.ndarray | None, ...]:
        return self.labels, self.groups, self.places


def number_places(part: int, first: int, rows: int) -> np.ndarray:
    """The places, int64 [rows], of consecutive rows of a log's part, from the row `first` on."""
    places: np.ndarray = (part << _ROW_BITS) + np.arange(first, first + rows, dtype=np.int64)
    return places


def split_places(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each place, which part of the log it is in, and which row of that part, int64 [B] both."""
    return places >> _ROW_BITS, places & ((1 << _ROW_BITS) - 1)


def join_blocks(blocks: Sequence[Block]) -> Block:
    """The rows of all blocks in order; all are of one log, so they agree in columns, labels and groups."""
    if len(blocks) == 1:
        return blocks[0]
    dense = np.concatenate([block.dense for block in blocks])
    ragged = [block.ids for block in blocks if isinstance(block.ids, tuple)]
    ids: np.ndarray | tuple[Ragged, ...]
    if ragged:
        ids = tuple(Ragged.join(parts) for parts in zip(*ragged, strict=True))
    else:
        ids = np.concatenate([block.ids for block in blocks if isinstance(block.ids, np.ndarray)])
    labels, groups, places = map(_join_columns, zip(*(block._beside() for block in blocks), strict=True))
    return Block(dense, ids, labels, groups, places)


def _join_columns(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One column of all blocks, which all have or all lack."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


def rebatch(blocks: Iterable[Block], batch_size: int) -> Iterator[Block]:
    """The same rows in blocks of exactly `batch_size` (the last one may be shorter), each row copied once at most."""
    waiting: list[Block] = []
    rows_waiting = 0
    for block in blocks:
        waiting.append(block)
        rows_waiting += block.rows
        if rows_waiting < batch_size:
            continue
        joined = join_blocks(waiting)
        end = rows_waiting - rows_waiting % batch_size
        # Copied, so that a few rows left over do not keep a whole window in memory.
        waiting = [joined.take(np.arange(end, rows_waiting))]
        rows_waiting -= end
        for start in range(0, end, batch_size):
            yield joined.cut(start, start + batch_size)
        del joined
    if rows_waiting:
        yield join_blocks(waiting)


def shuffle_windows(
    blocks: Iterable[Block], generator: np.random.Generator, *, window_rows: int, batch_size: int
) -> Iterator[Block]:
    """The rows in batches, permuted inside consecutive windows of `window_rows`."""
    for window in rebatch(blocks, window_rows):
        order = generator.permutation(window.rows)
        for start in range(0, window.rows, batch_size):
            yield window.take(order[start : start + batch_size])
        del window  # before the next one is read


def limit_rows(blocks: Iterable[Block], limit: int | None) -> Iterator[Block]:
    """The first `limit` rows; reading stops there."""
    left = limit
    for block in blocks:
        if left is None:
            yield block
            continue
        yield block if block.rows <= left else block.cut(0, left)
        left -= min(left, block.rows)
        if left == 0:
            return


def _offsets_of(lengths: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
