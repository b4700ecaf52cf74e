"""An artifact's network as an export runs it: tensors in, and its tables in one operator that needs no Python."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.exports.golden import find_single_inputs
from memrec_convert.exports.packed import PackedTables, pack_tables
from memrec_convert.exports.place import Subject
from memrec_convert.exports.request import CheckedNetwork


class PackedNetwork(nn.Module):
    """Called with the tensors that a golden sample has, in the order of their names; returns logits [B]."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        model: Any = subject.model
        self.tables = pack_tables(list(model.tables), model.table_inputs)
        self.network = copy.copy(model)
        self.network._modules = {name: part for name, part in model._modules.items() if name != "tables"}
        dims = self.tables.dims
        self.dim = dims[0] if len(set(dims)) == 1 else None
        self.single, self.weighted = find_single_inputs(subject.architecture), subject.inputs == "weighted-bags"
        self.bagged = subject.inputs != "ids"

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits float32 [B] of dense [B, n] and ids [B, inputs], or of each input's ids, offsets and weights."""
        dense, *ids = tensors
        vectors = self.tables.pool(*self._join(ids)) if self.bagged else self.tables(*ids)
        if self.dim is not None:
            parts: Tensor | Sequence[Tensor] = vectors.unflatten(1, (len(self.tables.dims), self.dim))
        else:
            parts = vectors.split(self.tables.dims, dim=1)
        logits: Tensor = self.network.interact(dense, parts)
        return logits

    def _join(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """All inputs' ids one after the other, their offsets with the end, and their weights."""
        ids, offsets, weights, before = list[Tensor](), list[Tensor](), list[Tensor](), 0
        for own, starts, scales in cut_inputs(tensors, self.tables.inputs, self.single, weighted=self.weighted):
            ids.append(own)
            offsets.append(starts + before)
            weights.append(own.new_ones(own.shape, dtype=torch.float32) if scales is None else scales)
            before = before + own.shape[0]
        offsets.append(torch.full((1,), before, dtype=torch.int64))
        return torch.cat(ids), torch.cat(offsets), torch.cat(weights) if self.weighted else None


class PooledNetwork(nn.Module):
    """As `PackedNetwork`, around a model that pools over the sample and has no tables."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        model: Any = subject.model
        self.network, self.inputs, self.kind = model, int(model.inputs), subject.inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits float32 [B]."""
        dense, *ids = tensors
        taken: Any = ids[0]
        if self.kind != "ids":
            taken = list(cut_inputs(ids, self.inputs, frozenset(), weighted=self.kind == "weighted-bags"))
        logits: Tensor = self.network(dense, taken)
        return logits


class PackedRows(nn.Module):
    """Tables without a network: ids [n] for each table in, its rows float32 [n, dim] out."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        tables: Any = subject.model.tables
        packed = pack_tables(list(tables)).packed
        self.tables = nn.ModuleList(
            PackedTables(packed, [(number, 0)], [table.spec.dim]) for number, table in enumerate(tables)
        )

    def forward(self, *ids: Tensor) -> tuple[Tensor, ...]:
        """Per table its rows."""
        return tuple(table(own.unsqueeze(1)) for table, own in zip(self.tables, ids, strict=True))


def build_network(subject: Subject) -> nn.Module:
    """The network of an artifact with packed tables, in eval mode, which refuses malformed requests.

    KernelError where the operators cannot be loaded.
    """
    kinds = {"tables": PackedRows, "sample-pooled": PooledNetwork}
    network = kinds.get(subject.architecture["name"], PackedNetwork)(subject)
    return CheckedNetwork(network, subject.golden.feeds).eval()


def cut_inputs(
    tensors: Sequence[Tensor], inputs: int, single: frozenset[int], *, weighted: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Each input's ids, offsets and weights from tensors in the order of a sample's names; `single` ones bring ids."""
    rest = iter(tensors)
    for number in range(inputs):
        ids = next(rest)
        if number in single:
            yield ids, torch.arange(ids.shape[0]), None
        else:
            offsets = next(rest)
            yield ids, offsets, next(rest) if weighted else None
