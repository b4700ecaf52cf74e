"""Tables that are still rows, open for training: what the uncompressed model can be fine-tuned through."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.finetune.adam import Adam, Optimizer
from memrec_convert.finetune.row_map import RowMap, make_map
from memrec_convert.finetune.stored_rows import spread_of
from memrec_convert.finetune.trainable import MAP_FACTOR, ROWS_EPSILON, ROWS_FACTOR
from memrec_convert.kernels.reference import pool_bags

Table = nn.EmbeddingBag | nn.Embedding


class MappedRows:
    """The rows of one table, trained apart from its module together with the map that all of them go through."""

    def __init__(self, table: Table, row_map: RowMap) -> None:
        self.table, self.map = table, row_map
        self.rows = nn.Parameter(table.weight.detach().clone())

    def forward(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """As the table's own."""
        rows: Tensor = self.map(functional.embedding(ids, self.rows, sparse=True))
        if isinstance(self.table, nn.Embedding):
            return rows
        if offsets is None:  # bags of one size, a row of ids each
            offsets = torch.arange(len(ids)) * ids.shape[1]
        weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        return pool_bags(rows.reshape(-1, rows.shape[-1]), offsets, weights=weights, mode=self.table.mode, counted=None)

    @torch.no_grad()
    def write_back(self) -> None:
        """Into the table."""
        self.table.weight.copy_(self.map(self.rows))


class RowsTrainee:
    """The rows of a model's nn.EmbeddingBag and nn.Embedding modules, some of them with a map."""

    def __init__(self, tables: list[Table], mapped: list[MappedRows]) -> None:
        self.tables, self.mapped = tables, mapped

    def make_optimizers(
        self, model: nn.Module, *, rate: float, dense_rate: float, train_dense: bool
    ) -> list[Optimizer]:
        """Adam on the rows of each batch, in units of the table's spread; maps and dense part at their own rates."""
        trained = [*(table.weight for table in self.tables), *(one.rows for one in self.mapped)]
        of_tables = {id(table.weight) for table in self.tables} | {id(one.table.weight) for one in self.mapped}
        groups = [
            {"params": [rows], "lr": rate * ROWS_FACTOR * spread, "eps": ROWS_EPSILON / spread}
            for rows in trained
            for spread in [spread_of(rows)]
        ]
        optimizers: list[Optimizer] = [torch.optim.SparseAdam(groups)] if groups else []
        if self.mapped:
            matrices = [one.map.matrix for one in self.mapped]
            optimizers.append(Adam([{"params": matrices, "lr": rate * MAP_FACTOR}]))
        dense = [p for p in model.parameters() if p.requires_grad and id(p) not in of_tables] if train_dense else []
        if dense:
            optimizers.append(Adam([{"params": dense, "lr": dense_rate}]))
        return optimizers

    def write_back(self) -> None:
        """The model answers from its rows already, but for those that have a map."""
        for one in self.mapped:
            one.write_back()


@contextmanager
def open_rows(model: nn.Module, *, mapped: Collection[str] = ()) -> Iterator[RowsTrainee]:
    """The model's rows take sparse gradients while this is open: a step costs what its batch has, not the tables.

    mapped: paths of the tables whose rows go through a map besides, where their modules pool plainly.
    """
    tables = {path: one for path, one in model.named_modules() if isinstance(one, nn.EmbeddingBag | nn.Embedding)}
    maps = {path: make_map(tables[path].weight) for path in mapped if path in tables and _is_plain(tables[path])}
    trained = {path: MappedRows(tables[path], row_map) for path, row_map in maps.items() if row_map is not None}
    alone = [table for path, table in tables.items() if path not in trained]
    before = {path: (table.sparse, table.weight.requires_grad) for path, table in tables.items()}
    try:
        for table in alone:
            table.sparse = True
            table.weight.requires_grad_(True)
        for one in trained.values():
            one.table.weight.requires_grad_(False)
            setattr(one.table, "forward", one.forward)  # noqa: B010 - of two types with different signatures
        yield RowsTrainee(alone, list(trained.values()))
    finally:
        for path, (sparse, requires_grad) in before.items():
            if path in trained:
                tables[path].__dict__.pop("forward", None)
            tables[path].sparse = sparse
            tables[path].weight.requires_grad_(requires_grad)


def _is_plain(table: Table) -> bool:
    """Whether its answer is the sum or mean of the rows of its ids, or the rows."""
    if table.padding_idx is not None or table.max_norm is not None or "forward" in table.__dict__:
        return False
    return isinstance(table, nn.Embedding) or (table.mode in ("sum", "mean") and not table.include_last_offset)
