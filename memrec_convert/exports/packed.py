"""Packed tables: an artifact's tables as one tensor of bytes, looked up by operators in C++ that need no Python.

The operators are in a library of their own, which any process can load that has torch 2.10 or later, and where compiled
and exported programs find them. `memrec::embed` (`lookup.operator`) is what serves without it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import collect_tensors, list_parts
from memrec_convert.errors import KernelError, ModelError
from memrec_convert.kernels.library import find_operator
from memrec_convert.lookup import CompressedModule, CompressedTable, describe_module

LEAST_TORCH = (2, 10)
"""From this version on torch has the interface that the library was built for."""


@functools.cache
def load_operators() -> Any:  # noqa: ANN401 - torch's own namespace of operators
    """`torch.ops.memrec` with the operators in C++, loaded when first asked for; KernelError where they cannot be.

    look_up_ids(tables, ids, plan, width)                       float32 [B, width] of ids [B, inputs]
    look_up_bags(tables, ids, offsets, weights, plan, inputs, width)
                                                                float32 [B, width] of ids [n] in bags
    look_up_rows(tables, ids, offsets, plan, inputs, dim)       float32 [n, dim] of ids [n]
    take_request(tensors, forms)                                copies of tensors that fit together (`CheckedNetwork`)

    tables are the bytes of an artifact, uint8; plan is int32 [vectors, 2], the table and the input of each vector.
    offsets [inputs * B + 1] cut the ids, one input after the other; weights are float32 [n], or empty.
    """
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found < LEAST_TORCH:
        raise KernelError(
            f"the operators in C++ need torch {'.'.join(map(str, LEAST_TORCH))} or later, and this is "
            f"{torch.__version__}; install a newer torch."
        )
    path = find_operator()
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call] # torch's own
    except OSError as error:
        raise KernelError(
            f"{path} cannot be loaded into torch {torch.__version__} ({error}); reinstall memrec-convert."
        ) from error
    torch.library.register_fake("memrec::look_up_ids", _shape_of_ids)
    torch.library.register_fake("memrec::look_up_bags", _shape_of_bags)
    torch.library.register_fake("memrec::look_up_rows", _shape_of_rows)
    torch.library.register_fake("memrec::take_request", _shapes_of_request)
    return torch.ops.memrec


def _shape_of_ids(tables: Tensor, ids: Tensor, plan: Tensor, width: int) -> Tensor:
    return ids.new_empty((ids.shape[0], width), dtype=torch.float32)


def _shape_of_bags(
    tables: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor, plan: Tensor, inputs: int, width: int
) -> Tensor:
    return ids.new_empty(((offsets.shape[0] - 1) // inputs, width), dtype=torch.float32)


def _shape_of_rows(tables: Tensor, ids: Tensor, offsets: Tensor, plan: Tensor, inputs: int, dim: int) -> Tensor:
    return ids.new_empty((ids.shape[0], dim), dtype=torch.float32)


def _shapes_of_request(tensors: list[Tensor], forms: Tensor) -> list[Tensor]:
    if any(one.is_meta for one in tensors):  # a tensor of a trace says the device that it stands for
        raise RuntimeError("memrec: a tensor of the request is on the device meta and has no values.")
    return [one.new_empty(one.shape, dtype=one.dtype if one.is_floating_point() else torch.int64) for one in tensors]


class PackedTables(nn.Module):
    """Tables looked up together, their bytes in one buffer.

    packed  uint8 [bytes], an artifact's; modules that look up in the same tables share it
    plan    per vector of the output the number of its table and of the input that feeds it
    dims    per vector its width
    inputs  how many inputs the ids have; by default as many as the plan uses
    """

    if TYPE_CHECKING:  # TorchScript takes no annotations of this kind
        packed: Tensor
        plan: Tensor
        no_weights: Tensor

    def __init__(
        self, packed: Tensor, plan: Sequence[tuple[int, int]], dims: Sequence[int], inputs: int | None = None
    ) -> None:
        super().__init__()
        load_operators()
        self.register_buffer("packed", packed)
        self.register_buffer("plan", torch.tensor(plan, dtype=torch.int32).reshape(-1, 2), persistent=False)
        self.register_buffer("no_weights", torch.empty(0), persistent=False)
        self.dims, self.width = list(dims), sum(dims)
        self.inputs = 1 + max((number for _, number in plan), default=-1) if inputs is None else inputs

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors side by side, float32 [B, width], of ids (int64 or int32 [B, inputs])."""
        vectors: Tensor = torch.ops.memrec.look_up_ids(self.packed, ids, self.plan, self.width)
        return vectors

    def pool(self, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """The pooled vectors float32 [B, width] of bags: ids [n] cut by offsets [inputs * B + 1], weights [n]."""
        scales = self.no_weights if weights is None else weights
        pooled: Tensor = torch.ops.memrec.look_up_bags(
            self.packed, ids, offsets, scales, self.plan, self.inputs, self.width
        )
        return pooled

    def look_up_rows(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """A row per id, float32 [n, dim], where each input has one table and all tables have one dim."""
        rows: Tensor = torch.ops.memrec.look_up_rows(self.packed, ids, offsets, self.plan, self.inputs, self.dims[0])
        return rows

    def extra_repr(self) -> str:
        """One line for print(model)."""
        return f"{len(self.dims)} vectors, {self.width} wide, {self.packed.numel():,} bytes"


def pack_tables(tables: Sequence[CompressedModule], inputs: Sequence[int] | None = None) -> PackedTables:
    """The tables as one module: one vector each, fed by `inputs` (by default each by its own), as they are now.

    ModelError for a table that is in training or was cast, KernelError where the operators cannot be loaded.
    """
    for table in tables:
        if not isinstance(table, CompressedTable) or table.decoder is not None:
            raise ModelError(
                f"a {type(table).__name__} cannot be packed; pass compressed tables that are not in training."
            )
    distinct = list(dict.fromkeys(tables))
    numbers = [distinct.index(table) for table in tables]
    feeds = range(len(tables)) if inputs is None else inputs
    plan = list(zip(numbers, feeds, strict=True))
    return PackedTables(pack_bytes(distinct), plan, [table.spec.dim for table in tables])


def pack_bytes(tables: Sequence[CompressedModule]) -> Tensor:
    """An artifact of these tables alone, as uint8 [bytes]; its tables are in the order of the list."""
    holder = nn.Module()
    holder.tables = nn.ModuleList(tables)
    modules = {f"tables.{number}": describe_module(table) for number, table in enumerate(tables)}
    _, aliases = collect_tensors(holder, dense="fp32")
    metadata = Metadata(modules=modules, architecture=None, dense="fp32", profile={}, plan={}, seed=0, aliases=aliases)
    return torch.frombuffer(bytearray().join(list_parts(holder, metadata)), dtype=torch.uint8)
