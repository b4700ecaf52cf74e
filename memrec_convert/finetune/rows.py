"""Tables that are still rows, open for training: what the uncompressed model can be fine-tuned through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from memrec_convert.finetune.stored_rows import spread_of
from memrec_convert.finetune.trainable import ROWS_EPSILON, ROWS_FACTOR


class RowsTrainee:
    """The rows of a model's nn.EmbeddingBag and nn.Embedding modules."""

    def __init__(self, tables: list[nn.EmbeddingBag | nn.Embedding]) -> None:
        self.tables = tables

    def make_optimizers(
        self, model: nn.Module, *, rate: float, dense_rate: float, train_dense: bool
    ) -> list[torch.optim.Optimizer]:
        """Adam on the rows of each batch, in units of the table's spread; the dense part at its own rate."""
        rows = {id(table.weight) for table in self.tables}
        groups = [
            {"params": [table.weight], "lr": rate * ROWS_FACTOR * spread, "eps": ROWS_EPSILON / spread}
            for table in self.tables
            for spread in [spread_of(table.weight)]
        ]
        optimizers: list[torch.optim.Optimizer] = [torch.optim.SparseAdam(groups)] if groups else []
        dense = [p for p in model.parameters() if p.requires_grad and id(p) not in rows] if train_dense else []
        if dense:
            optimizers.append(torch.optim.Adam(dense, lr=dense_rate, foreach=False))
        return optimizers

    def write_back(self) -> None:
        """The model answers from its rows already."""


@contextmanager
def open_rows(model: nn.Module) -> Iterator[RowsTrainee]:
    """The model's rows take sparse gradients while this is open: a step costs what its batch has, not the tables."""
    tables = [module for module in model.modules() if isinstance(module, nn.EmbeddingBag | nn.Embedding)]
    before = [(table.sparse, table.weight.requires_grad) for table in tables]
    try:
        for table in tables:
            table.sparse = True
            table.weight.requires_grad_(True)
        yield RowsTrainee(tables)
    finally:
        for table, (sparse, requires_grad) in zip(tables, before, strict=True):
            table.sparse = sparse
            table.weight.requires_grad_(requires_grad)
