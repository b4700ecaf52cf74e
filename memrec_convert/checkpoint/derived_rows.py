"""Rows that a checkpoint stores in another form, computed chunk by chunk into the rows that the network looks up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memrec_convert.checkpoint.tensor_ref import Array, StoredTensor, TensorRef


@dataclass(frozen=True)
class _Derived(StoredTensor):
    """Float32 values of a shape, computed from other stored tensors."""

    shape: tuple[int, ...]
    sources: tuple[StoredTensor, ...]
    dtype: str = "float32"

    @property
    def pieces(self) -> tuple[TensorRef, ...]:
        """What it is computed from, each once."""
        return tuple(dict.fromkeys(piece for source in self.sources for piece in source.pieces))


@dataclass(frozen=True)
class RowRange(_Derived):
    """The rows from `start` on of a longer table: one field of a joint table."""

    start: int = 0

    @property
    def nbytes(self) -> int:
        """Its own share of the joint table's bytes."""
        return self.sources[0].nbytes * self.rows // max(self.sources[0].rows, 1)

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows counted from the range's first."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        return self.sources[0].read_rows(self.start + start, self.start + max(stop, start))


@dataclass(frozen=True)
class QuotientRemainderRows(_Derived):
    """row i = quotient[i // c] (operation) remainder[i % c], c being the rows of the remainder table.

    "Compositional Embeddings Using Complementary Partitions", https://arxiv.org/abs/1909.02107
    """

    operation: str = "mult"

    def read_rows(self, start: int, stop: int) -> Array:
        """The two rows of each id, joined."""
        quotient, remainder = self.sources
        start, stop, _ = slice(start, stop).indices(self.rows)
        ids = np.arange(start, max(stop, start))
        first = start // remainder.rows
        upper = quotient.read_rows(first, -(-stop // remainder.rows))[ids // remainder.rows - first]
        lower = remainder.read()[ids % remainder.rows]
        if self.operation == "concat":
            return np.concatenate([upper, lower], axis=1)
        joined: Array = upper + lower if self.operation == "add" else upper * lower
        return joined


@dataclass(frozen=True)
class ProjectedRows(_Derived):
    """row i = stored[i] @ projection.T, for tables that are stored narrower than the network reads them.

    "Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation Systems",
    https://arxiv.org/abs/1909.11810
    """

    @property
    def stored_width(self) -> int:
        """Columns of the stored rows."""
        return self.sources[0].shape[1]

    def read_rows(self, start: int, stop: int) -> Array:
        """Projected rows."""
        stored, projection = self.sources
        rows: Array = stored.read_rows(start, stop) @ projection.read().T
        return np.ascontiguousarray(rows)


@dataclass(frozen=True)
class WeightedRows(_Derived):
    """row i = weight[i] * stored[i]: a learned weight per row that the network applies inside its sums."""

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows times their weights."""
        stored, weights = self.sources
        rows: Array = stored.read_rows(start, stop) * weights.read_rows(start, stop)[:, None]
        return rows


@dataclass(frozen=True)
class QuantisedRows(_Derived):
    """Rows of fbgemm's inference tables, stored as bytes.

    `kind` "int8": two fp16 (scale, shift), then a code per column; value = code * scale + shift. "float16", "float32":
    the values themselves. Zeros fill each row up to a multiple of 16 bytes.
    """

    kind: str = "int8"

    def read_rows(self, start: int, stop: int) -> Array:
        """Dequantised rows."""
        stored, dim = self.sources[0].read_rows(start, stop), self.shape[1]
        if self.kind != "int8":
            dtype = np.dtype("<f2" if self.kind == "float16" else "<f4")
            return np.ascontiguousarray(stored[:, : dim * dtype.itemsize]).view(dtype).astype(np.float32)
        frame = np.ascontiguousarray(stored[:, :4]).view("<f2").astype(np.float32)
        rows: Array = stored[:, 4 : 4 + dim].astype(np.float32) * frame[:, :1] + frame[:, 1:]
        return rows


@dataclass(frozen=True)
class ScaledRows(_Derived):
    """row i = (stored[i] - zero) * scale + bias, each of these one number, one per row, one per column, or per both.

    `sources` are the stored rows, then the tensors that `parts` names: "scale", "zero", "bias". Columns of the stored
    rows past the shape's are filling, and not read.
    """

    parts: tuple[str, ...] = ("scale",)

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows in float32."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        own = dict(zip(self.parts, self.sources[1:], strict=True))
        rows = self.sources[0].read_rows(start, stop)[:, : self.shape[1]].astype(np.float32)
        for name, operation in (("zero", np.subtract), ("scale", np.multiply), ("bias", np.add)):
            if name in own:
                rows = operation(rows, self._fit(own[name], start, stop))
        return np.ascontiguousarray(rows, dtype=np.float32)

    def _fit(self, part: StoredTensor, start: int, stop: int) -> Array:
        """A part's values for these rows, [n or 1, dim or 1]."""
        if part.shape and part.rows == self.rows:
            return part.read_rows(start, max(stop, start)).astype(np.float32).reshape(max(stop - start, 0), -1)
        return part.read().astype(np.float32).reshape(1, -1)


@dataclass(frozen=True)
class Computed(_Derived):
    """A small tensor of the dense part as a function of others, read whole: formula(*arrays) in float64."""

    formula: Callable[..., Array] = np.asarray

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows of the result in float32."""
        values = self.formula(*(source.read().astype(np.float64) for source in self.sources))
        return np.ascontiguousarray(values[start:stop], dtype=np.float32)
