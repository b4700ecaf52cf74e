"""A tensor whose rows or columns lie in several places: the shards of a distributed run, joined as they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle
from memrec_convert.checkpoint.tensor_ref import Array, StoredTensor, TensorRef


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor and where in it the block begins, one offset per dimension."""

    offsets: tuple[int, ...]
    tensor: StoredTensor


@dataclass(frozen=True)
class Band:
    """Rows that begin at `start`, cut into `parts` side by side."""

    start: int
    parts: tuple[StoredTensor, ...]

    @property
    def stop(self) -> int:
        """One past the last row."""
        return self.start + self.parts[0].rows

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows of the whole tensor's numbering."""
        found = [part.read_rows(start - self.start, stop - self.start) for part in self.parts]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


@dataclass(frozen=True)
class ChunkedRef(StoredTensor):
    """A tensor in bands of rows, the bands one below the other; made by `join_chunks`, which checks them."""

    dtype: str
    shape: tuple[int, ...]
    bands: tuple[Band, ...]

    @property
    def pieces(self) -> tuple[TensorRef, ...]:
        """The tensors of all chunks."""
        return tuple(piece for band in self.bands for part in band.parts for piece in part.pieces)

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop`, from whichever chunks hold them."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        touched = [band for band in self.bands if band.start < stop and band.stop > start] or [self.bands[0]]
        found = [band.read_rows(max(start, band.start), max(min(stop, band.stop), band.start)) for band in touched]
        return found[0] if len(found) == 1 else np.concatenate(found)


def join_chunks(shape: tuple[int, ...], chunks: Sequence[Chunk]) -> StoredTensor:
    """One tensor of this shape from its chunks, which must tile it: MalformedPickle says where they do not.

    Chunks are cut by rows, by columns within equal rows, or both; dimensions after the second must be whole.
    """
    if not chunks:
        raise MalformedPickle("none of its chunks is there")
    dtypes = {chunk.tensor.dtype for chunk in chunks}
    if len(dtypes) > 1:
        raise MalformedPickle(f"its chunks are of different types ({', '.join(sorted(dtypes))})")
    for chunk in chunks:
        _check_chunk(shape, chunk)
    if len(chunks) == 1 and chunks[0].tensor.shape == shape:
        return chunks[0].tensor
    by_rows: dict[tuple[int, int], list[Chunk]] = {}
    for chunk in chunks:
        by_rows.setdefault((chunk.offsets[0], chunk.tensor.rows), []).append(chunk)
    bands, end = [], 0
    for (start, rows), members in sorted(by_rows.items()):
        if start != end:
            raise MalformedPickle(f"its chunks {'overlap' if start < end else 'leave a gap'} at row {min(start, end)}")
        end = start + rows
        bands.append(Band(start, _tile_columns(shape, members)))
    if end != shape[0]:
        raise MalformedPickle(f"its chunks end at row {end} of {shape[0]}")
    return ChunkedRef(next(iter(dtypes)), shape, tuple(bands))


def _check_chunk(shape: tuple[int, ...], chunk: Chunk) -> None:
    sizes, offsets = chunk.tensor.shape, chunk.offsets
    if not shape or len(sizes) != len(shape) or len(offsets) != len(shape) or 0 in sizes:
        raise MalformedPickle(f"a chunk of shape {sizes} at {offsets} is no part of a tensor of shape {shape}")
    if sizes[2:] != shape[2:] or any(offsets[2:]):
        raise MalformedPickle("it is cut along its third dimension, which is not read")


def _tile_columns(shape: tuple[int, ...], members: list[Chunk]) -> tuple[StoredTensor, ...]:
    """Chunks of the same rows from left to right; a tensor of one dimension has one."""
    if len(shape) == 1:
        if len(members) > 1:
            raise MalformedPickle(f"its chunks overlap at row {members[0].offsets[0]}")
        return (members[0].tensor,)
    end = 0
    for chunk in sorted(members, key=lambda chunk: chunk.offsets[1]):
        if chunk.offsets[1] != end:
            raise MalformedPickle(f"its chunks overlap or leave a gap at column {min(end, chunk.offsets[1])}")
        end += chunk.tensor.shape[1]
    if end != shape[1]:
        raise MalformedPickle(f"its chunks end at column {end} of {shape[1]}")
    return tuple(chunk.tensor for chunk in sorted(members, key=lambda chunk: chunk.offsets[1]))
