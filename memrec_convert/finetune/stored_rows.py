"""Rows that a codec holds, as float parameters with the codec's rounding in the loop."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.encoding.codecs import CODECS, INT8, RowCodec
from memrec_convert.encoding.codecs.floats import FP32
from memrec_convert.finetune.row_map import make_map
from memrec_convert.kernels.loading import load_kernel
from memrec_convert.lookup import CompressedTable

MOST_TRAINED = 1 << 24
"""Numbers of one table's rows that are trained: an optimizer holds two or three more floats of each."""

MANY_ROWS = 1 << 16
"""A batch touches few of so many rows: their gradients are sparse."""


def spread_of(values: Tensor) -> float:
    """Root mean square of the entries: parameters in this unit can share a learning rate."""
    return max(math.sqrt(float(values.detach().square().mean())), 1e-12) if values.numel() else 1.0


class TrainableRows(nn.Module):
    """Rows in units of their own spread, which one learning rate serves, and on request the map of all or some of them.

    parts: what the codec holds, of all rows; mapped: whether they go through a map, or which (bool [rows]); pace: how
    fast they move, float32 [rows, 1] or [1, 1].
    """

    def __init__(
        self,
        codec: str,
        parts: Mapping[str, Tensor],
        dim: int,
        *,
        mapped: bool | Tensor = False,
        pace: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.codec = CODECS[codec]
        values = self.codec.decode(parts, torch.arange(len(next(iter(parts.values())))), dim)
        self.units = spread_of(values) * (torch.ones(1, 1) if pace is None else pace)
        self.rows = nn.Parameter(values / self.units)
        members = torch.full((len(values),), mapped) if isinstance(mapped, bool) else mapped
        self.map = make_map(values[members]) if bool(members.any()) else None
        self.members = None if bool(members.all()) else members

    @property
    def is_sparse(self) -> bool:
        """Whether the rows' gradients name those that a batch touched."""
        return len(self.rows) >= MANY_ROWS

    def look_up(self, numbers: Tensor) -> Tensor:
        """Rows of these numbers (int64 [n]) as the codec would hold them, float32 [n, dim]; gradients pass straight."""
        if len(self.rows) < len(numbers) and not self.is_sparse:
            return functional.embedding(numbers, self._round(self._place(self.rows, self.units, self.members)))
        # Gradients add up in one order on any threads.
        units = self.units if len(self.units) == 1 else self.units[numbers]
        members = None if self.members is None else self.members[numbers]
        return self._round(self._place(functional.embedding(numbers, self.rows, sparse=self.is_sparse), units, members))

    @torch.no_grad()
    def encode(self) -> dict[str, Tensor]:
        """What the codec holds of them now."""
        return self.codec.encode(self._place(self.rows, self.units, self.members))

    def _round(self, rows: Tensor) -> Tensor:
        if self.codec is FP32:
            return rows
        with torch.no_grad():
            change = round_as(self.codec, rows) - rows
        return rows + change

    def _place(self, rows: Tensor, units: Tensor, members: Tensor | None) -> Tensor:
        rows = rows * units
        if self.map is None:
            return rows
        if members is None:
            mapped: Tensor = self.map(rows)
            return mapped
        at = members.nonzero().squeeze(1)
        return rows.index_copy(0, at, self.map(rows[at]))


def round_as(codec: RowCodec, rows: Tensor) -> Tensor:
    """What a codec holds of rows (float32 [n, dim]); int8 in one call: a step has thousands of the small ones."""
    native = load_kernel() if codec is INT8 and rows.is_cpu and rows.dtype == torch.float32 else None
    if native is None:
        return codec.decode(codec.encode(rows), torch.arange(len(rows)), rows.shape[1])
    held = rows.contiguous()
    out = torch.empty_like(held)
    native.round_int8(held.data_ptr(), *held.shape, out.data_ptr())
    return out


class TrainableKept(TrainableRows):
    """All rows of a kept table."""

    def __init__(self, table: CompressedTable, *, mapped: bool | Tensor, pace: Tensor | None = None) -> None:
        held = dict(table.named_buffers(recurse=False))
        super().__init__(table.spec.codec, held, table.spec.dim, mapped=mapped, pace=pace)
        self.held = [table]  # in a list: the table is not a part of this module

    def decode(self, ids: Tensor) -> Tensor:
        """Rows of ids (int64 [n]) as float32 [n, dim], with gradients."""
        return self.look_up(ids)

    def write_back(self) -> None:
        """Stores the trained rows in the table's buffers."""
        for name, tensor in self.encode().items():
            self.held[0].get_buffer(name).copy_(tensor)
