"""A tensor that stays on disk: where its elements lie in which file, read in chunks of rows with plain file reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from memrec_convert.errors import CheckpointError
from memrec_convert.kernels.files import read_pieces
from memrec_convert.remote import RemotePath

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

_STORED = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "float8_e4m3fn": "<u1",
    "float8_e5m2": "<u1",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "<i1",
    "uint8": "<u1",
    "bool": "<u1",
}
DTYPES = frozenset(_STORED)
"""The element types that can be read; numpy knows no bfloat16 and no float8, so their bits travel as integers."""

FLOATING = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})

_SPARSE_READ = 4
"""Read a strided block in one piece while at most this many times its elements lie between its ends."""


_LARGEST_GAP = 16
"""Rows between two wanted ones that are read along rather than read around."""


def itemsize(dtype: str) -> int:
    """Bytes of one element of a dtype of `DTYPES`."""
    return np.dtype(_STORED[dtype]).itemsize


def span_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last element of a strided view, both included; 0 for an empty one."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class StoredTensor:
    """A tensor that can be read in chunks of rows: one in a file, one in pieces, or one computed from others."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the checkpoint."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def pieces(self) -> tuple[TensorRef, ...]:
        """The tensors in files that it is read from."""
        raise NotImplementedError

    @property
    def stored_width(self) -> int:
        """Columns as stored, where those differ from the shape's."""
        return self.shape[-1] if self.shape else 1

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` (cut at the last row, as slices are) as a C-contiguous copy.

        Floating dtypes come as float32, all others as they are; CheckpointError where a file has changed.
        """
        raise NotImplementedError

    def read_ids(self, ids: Array) -> Array:
        """The rows of these rising row numbers (int64 [n]), as `read_rows` returns them, neighbours in one read."""
        if not len(ids):
            return self.read_rows(0, 0)
        runs = np.split(ids, np.flatnonzero(np.diff(ids) > _LARGEST_GAP) + 1)
        found = [self.read_rows(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def read(self) -> Array:
        """The whole tensor, as `read_rows` returns it."""
        return self.read_rows(0, self.rows)

    def chunks(self, rows_per_chunk: int) -> Iterator[tuple[int, Array]]:
        """Pairs (first row, rows) over the tensor, `rows_per_chunk` rows at a time."""
        for start in range(0, self.rows, max(rows_per_chunk, 1)):
            yield start, self.read_rows(start, start + max(rows_per_chunk, 1))

    def as_tensor(self) -> torch.Tensor:
        """The whole tensor as a float32 torch tensor of the same shape (a copy)."""
        import torch

        whole: torch.Tensor = torch.from_numpy(self.read()).to(torch.float32)
        return whole


@dataclass(frozen=True)
class TensorRef(StoredTensor):
    """A strided little-endian tensor inside a file: element 0 at byte `offset`, strides in elements.

    The container that makes one has checked that the whole view lies inside its storage.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements in the stored dtype."""
        return math.prod(self.shape) * itemsize(self.dtype)

    @property
    def pieces(self) -> tuple[TensorRef, ...]:
        """Itself."""
        return (self,)

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` (cut at the last row, as slices are) as a C-contiguous copy.

        Floating dtypes come as float32, all others as they are; CheckpointError where the file has changed.
        """
        start, stop, _ = slice(start, stop).indices(self.rows)
        shape = (max(stop - start, 0), *self.shape[1:]) if self.shape else ()
        first = self.offset + (start * self.strides[0] * itemsize(self.dtype) if self.shape else 0)
        try:
            with self.path.open("rb") as file:
                stored = self._gather(file, first, shape, self.strides)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror or error}).") from error
        return _decode(stored, self.dtype)

    def read_ids(self, ids: Array) -> Array:
        """The rows of these rising row numbers, one read for each that lies in one piece."""
        inner, item = self.shape[1:], itemsize(self.dtype)
        width = math.prod(inner) * item
        local = not isinstance(self.path, RemotePath)
        if not local or not inner or self.strides[1:] != contiguous_strides(inner) or len(ids) == 0:
            return super().read_ids(ids)
        stored = np.empty((len(ids), *inner), _STORED[self.dtype])
        positions = self.offset + np.asarray(ids, dtype=np.int64) * (self.strides[0] * item)
        try:
            with self.path.open("rb", buffering=0) as file:
                whole = read_pieces(file.fileno(), positions, stored)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror or error}).") from error
        if whole < len(ids):
            raise CheckpointError(
                f"{self.path}: it ends before byte {positions[whole] + width}: the file was changed or cut while it "
                "was read; copy it again."
            )
        return _decode(stored, self.dtype)

    def _gather(self, file: BinaryIO, position: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
        """The strided block at byte `position`, still in its stored dtype.

        A block that is thinly spread over its storage (a few rows of a transposed table) is read slice by slice along
        its widest stride, so that a chunk never costs the memory of the whole storage.
        """
        item, wanted, span = itemsize(self.dtype), math.prod(shape), span_of(shape, strides)
        if wanted == 0:
            return np.empty(shape, _STORED[self.dtype])
        if span <= _SPARSE_READ * wanted:
            flat = self._read_span(file, position, span)
            if span == wanted and strides == contiguous_strides(shape):
                return flat.reshape(shape)
            view: Array = np.lib.stride_tricks.as_strided(flat, shape, [stride * item for stride in strides])
            return np.array(view, order="C")
        axis = max((axis for axis, size in enumerate(shape) if size > 1), key=strides.__getitem__)
        block = np.empty(shape, _STORED[self.dtype])
        target = np.moveaxis(block, axis, 0)
        for place in range(shape[axis]):
            inner = position + place * strides[axis] * item
            target[place] = self._gather(file, inner, _without(shape, axis), _without(strides, axis))
        return block

    def _read_span(self, file: BinaryIO, position: int, elements: int) -> Array:
        flat: Array = np.empty(elements, _STORED[self.dtype])
        file.seek(position)
        got = file.readinto(flat.view(np.uint8).data)  # type: ignore[attr-defined]
        if got != flat.nbytes:
            raise CheckpointError(
                f"{self.path}: {flat.nbytes} bytes were expected at byte {position}, {got} are there: "
                "the file was changed or cut while it was read; copy it again."
            )
        return flat


@dataclass(frozen=True)
class HeldTensor(TensorRef):
    """An array that lay inside a pickle and is held in memory; a negative `offset` tells it from others there."""

    values: Array = field(compare=False, repr=False)

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows of the array as a copy: floats as float32, all others as they are."""
        rows = self.values[start:stop] if self.shape else self.values
        return _decode(np.array(rows, dtype=_STORED[self.dtype], order="C"), self.dtype)

    def read_ids(self, ids: Array) -> Array:
        """The rows of these row numbers."""
        return _decode(np.array(self.values[ids], dtype=_STORED[self.dtype], order="C"), self.dtype)


def hold_array(path: Path, number: int, values: Array) -> HeldTensor | None:
    """The array numbered `number` (from 0) of a pickle as a tensor; None for a type that is not read."""
    dtype = values.dtype.name
    if dtype not in DTYPES:
        return None
    return HeldTensor(path, -1 - number, dtype, values.shape, contiguous_strides(values.shape), values)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major tensor of this shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _list_e4m3fn() -> Array:
    """The values of all 256 codes of float8_e4m3fn: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity.

    "FP8 Formats for Deep Learning", https://arxiv.org/abs/2209.05433
    """
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    sizes = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    sizes[codes & 127 == 127] = np.nan
    return np.where(codes < 128, sizes, -sizes).astype(np.float32)


_E4M3FN = _list_e4m3fn()


def _without(values: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return values[:axis] + values[axis + 1 :]


def _decode(stored: Array, dtype: str) -> Array:
    """Stored elements as float32 (floating dtypes) or as their own dtype."""
    if dtype == "float8_e5m2":
        return (stored.astype(np.uint16) << 8).view(np.float16).astype(np.float32)  # the upper half of a float16
    if dtype == "float8_e4m3fn":
        return _E4M3FN[stored]
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of a float32
    if dtype in FLOATING:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which the conversion reports
            return stored.astype(np.float32, copy=False)
    return stored.astype(np.bool_) if dtype == "bool" else stored
