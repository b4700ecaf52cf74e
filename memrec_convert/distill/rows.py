"""Where the rows of a source table come from: a file read in chunks, or a live tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BYTES_PER_CHUNK = 4 << 20

CHUNKS_PER_RANGE = 16
"""Neighbouring chunks that one process takes at a time, where several share a pass."""

LARGE_ELEMENTS = 1 << 25
"""Numbers of a table (rows times dim) beyond which passes over all its rows are counted.

Curves then come from a sample, codes are searched for the levels' likely ids alone, and codebooks are refined on the
sample. Below, every row is coded at every depth."""


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether a table of (rows, dim) is too large for passes that nothing asks for."""
    return shape[0] * shape[1] > LARGE_ELEMENTS


class RowReader(Protocol):
    """Anything that hands out rows start..stop-1 of a matrix as float32 numpy [stop - start, dim]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""
        ...

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """float32, C-contiguous, the caller's own."""
        ...

    def read_ids(self, ids: np.ndarray) -> np.ndarray:
        """The rows of these rising row numbers (int64 [n]), as `read_rows` returns them."""
        ...


@dataclass(frozen=True)
class TensorRows:
    """The rows of a tensor in memory, of any floating dtype."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""
        return tuple(self.tensor.shape)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """A float32 copy."""
        return self.tensor.detach()[start:stop].to("cpu", torch.float32, copy=True).contiguous().numpy()

    def read_ids(self, ids: np.ndarray) -> np.ndarray:
        """A float32 copy."""
        return self.tensor.detach()[torch.from_numpy(ids)].to("cpu", torch.float32).contiguous().numpy()


def rows_per_chunk(dim: int) -> int:
    """Rows that make a chunk of about BYTES_PER_CHUNK: a multiple of 8, and the same on every machine."""
    return max(8, BYTES_PER_CHUNK // (4 * dim) // 8 * 8)


def chunk_bounds(rows: int, dim: int) -> list[tuple[int, int]]:
    """The chunks (start, stop) of a table of rows x dim."""
    step = rows_per_chunk(dim)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def read_chunks(reader: RowReader) -> Iterator[tuple[int, Tensor]]:
    """The first row's number and the rows of each chunk, float32."""
    rows, dim = reader.shape
    for start, stop in chunk_bounds(rows, dim):
        yield start, torch.from_numpy(reader.read_rows(start, stop))


def gather_rows(reader: RowReader, ids: np.ndarray) -> Tensor:
    """The rows of these ids (any order), read chunk by chunk."""
    rows = torch.empty(len(ids), reader.shape[1])
    for start, chunk in read_chunks(reader):
        inside = np.flatnonzero((ids >= start) & (ids < start + len(chunk)))
        if len(inside):
            rows[torch.from_numpy(inside)] = chunk[torch.from_numpy(ids[inside] - start)]
    return rows
