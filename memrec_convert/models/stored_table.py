"""A source table whose rows stay in the checkpoint: looked up by reading the rows that a batch asks for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class IdReader(Protocol):
    """Rows of a table by id."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""
        ...

    def read_ids(self, ids: np.ndarray) -> np.ndarray:
        """Rows float32 [n, dim] of rising ids (int64 [n])."""
        ...


class StoredTable(nn.Module):
    """Called as an nn.EmbeddingBag with mode "sum" or "mean"; the same bits, with a batch's rows in memory alone."""

    def __init__(self, reader: IdReader, mode: str = "sum") -> None:
        super().__init__()
        self.mode = mode
        self.reader = reader

    def extra_repr(self) -> str:
        """One line for print(model)."""
        rows, dim = self.reader.shape
        return f"{rows} x {dim}, in the checkpoint"

    def forward(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Pooled rows float32 [bags, dim] of ids int64 [n]; IndexError for ids outside the table."""
        rows = self.reader.shape[0]
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
            raise IndexError(f"ids from {int(ids.min())} to {int(ids.max())} for a table of {rows} rows")
        distinct, places = torch.unique(ids, return_inverse=True)
        held = torch.from_numpy(self.reader.read_ids(distinct.numpy()))
        if not len(held):
            held = torch.zeros(1, self.reader.shape[1])
        pooled: Tensor = functional.embedding_bag(
            places, held, offsets, mode=self.mode, per_sample_weights=per_sample_weights
        )
        return pooled
