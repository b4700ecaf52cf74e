"""Rows that a codec holds, as float parameters with the codec's rounding in the loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.encoding import CompressedTable
from memrec_convert.encoding.codecs import CODECS

MOST_TRAINED = 1 << 24
"""Numbers of one table's rows that are trained: Adam holds three more floats of each, and moves all at every step."""


def spread_of(values: Tensor) -> float:
    """Root mean square of the entries: parameters in this unit can share a learning rate."""
    return max(float(values.detach().square().mean().sqrt()), 1e-12) if values.numel() else 1.0


class TrainableRows(nn.Module):
    """Rows in units of their own spread, which one learning rate serves.

    parts: what the codec holds, of all rows.
    """

    def __init__(self, codec: str, parts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.codec = CODECS[codec]
        values = self.codec.decode(parts, torch.arange(len(parts["rows"])))
        self.spread = spread_of(values)
        self.rows = nn.Parameter(values / self.spread)

    def look_up(self, numbers: Tensor) -> Tensor:
        """Rows of these numbers (int64 [n]) as the codec would hold them, float32 [n, dim]; gradients pass straight."""
        rows = functional.embedding(numbers, self.rows) * self.spread  # gradients add up in one order on any threads
        with torch.no_grad():
            change = self.codec.decode(self.codec.encode(rows), torch.arange(len(rows))) - rows
        return rows + change

    @torch.no_grad()
    def encode(self) -> dict[str, Tensor]:
        """What the codec holds of them now."""
        return self.codec.encode(self.rows * self.spread)


class TrainableKept(TrainableRows):
    """All rows of a kept table."""

    def __init__(self, table: CompressedTable) -> None:
        super().__init__(table.spec.codec, dict(table.named_buffers(recurse=False)))
        self.held = [table]  # in a list: the table is not a part of this module

    def decode(self, ids: Tensor) -> Tensor:
        """Rows of ids (int64 [n]) as float32 [n, dim], with gradients."""
        return self.look_up(ids)

    def write_back(self) -> None:
        """Stores the trained rows in the table's buffers."""
        for name, tensor in self.encode().items():
            self.held[0].get_buffer(name).copy_(tensor)
