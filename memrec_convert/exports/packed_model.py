"""A compressed model of any class for programs that run without Python: its modules look up in packed tables."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from memrec_convert.errors import ModelError
from memrec_convert.exports.packed import PackedTables, pack_bytes
from memrec_convert.lookup import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedModule,
    CompressedWeight,
    is_plain,
    named_tables,
)
from memrec_convert.lookup.weight import use_as


class PackedEmbedding(nn.Module):
    """Called as nn.Embedding: ids of any shape -> rows of that shape and dim."""

    def __init__(self, tables: PackedTables, dtype: torch.dtype) -> None:
        super().__init__()
        self.tables, self.dtype = tables, dtype

    def forward(self, input: Tensor) -> Tensor:
        """ids int64 or int32 [...] -> [..., dim]."""
        rows: Tensor = self.tables(input.reshape(-1, 1))
        return rows.reshape(*input.shape, self.tables.width).to(self.dtype)


class PackedEmbeddingBag(nn.Module):
    """Called as nn.EmbeddingBag: ids [n] with offsets [b], or ids [b, length] -> pooled rows [b, dim]."""

    def __init__(self, tables: PackedTables, dtype: torch.dtype, *, include_last_offset: bool) -> None:
        super().__init__()
        self.tables, self.dtype, self.include_last_offset = tables, dtype, include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sum or mean per bag, as the module that it replaces."""
        ids, weights = input.reshape(-1), per_sample_weights
        if input.dim() == 2:
            starts = torch.arange(input.shape[0] + 1, device=ids.device) * input.shape[1]
        elif offsets is None:
            raise ValueError("ids of one dimension need offsets")
        else:
            end = offsets.new_full((1,), ids.shape[0])
            starts = offsets if self.include_last_offset else torch.cat([offsets, end])
        pooled = self.tables.pool(ids, starts, None if weights is None else weights.reshape(-1).float())
        return pooled.to(self.dtype)


def pack_model(model: nn.Module) -> nn.Module:
    """A copy of a compressed model whose modules look up through operators in C++, in eval mode.

    It runs under `torch.export`, and its AOTInductor package without Python. Every compressed `nn.Embedding` and
    `nn.EmbeddingBag` gives place to a module that is called alike and has no `weight`. ModelError for one that does
    more than look up, or whose weight is used elsewhere; KernelError where the operators cannot be loaded.
    """
    packed = copy.deepcopy(model).eval()
    found = {path: packed.get_submodule(path) for path, _ in named_tables(packed)}
    if not found:
        raise ModelError(f"{type(model).__name__} has no compressed table; pass what compress() or load() returned.")
    uses = {path: _read_use(path, module) for path, module in found.items()}
    distinct = list(dict.fromkeys(uses.values()))
    tables = pack_bytes(distinct)
    for path, module in found.items():
        table = uses[path]
        packed.set_submodule(
            path, _replace(module, PackedTables(tables, [(distinct.index(table), 0)], [table.spec.dim]))
        )
    left = next((name for name, one in packed.named_parameters() if isinstance(one, CompressedWeight)), None)
    if left is not None:
        raise ModelError(
            f"{type(model).__name__} > {left} is a compressed weight with another use than lookups, which alone have "
            "an operator without Python. Serve the model with load()."
        )
    return packed


def _read_use(path: str, module: nn.Module) -> CompressedModule:
    """The table of a module, as the module uses it; ModelError where it does more."""
    if isinstance(module, CompressedEmbedding | CompressedEmbeddingBag):
        return module
    weight = module.weight
    if not is_plain(module) or not isinstance(weight, CompressedWeight):
        raise ModelError(
            f"{path} is a {type(module).__name__} that does more than look up; only plain nn.Embedding and "
            "nn.EmbeddingBag modules have an operator without Python. Serve the model with load()."
        )
    if isinstance(module, nn.EmbeddingBag):
        return use_as(weight.table, module.mode, module.include_last_offset, module.padding_idx)
    return use_as(weight.table)


def _replace(module: nn.Module, tables: PackedTables) -> nn.Module:
    weight = getattr(module, "weight", None)
    dtype = weight.dtype if isinstance(weight, Tensor) else torch.float32
    if isinstance(module, nn.EmbeddingBag | CompressedEmbeddingBag):
        return PackedEmbeddingBag(tables, dtype, include_last_offset=module.include_last_offset)
    return PackedEmbedding(tables, dtype)
