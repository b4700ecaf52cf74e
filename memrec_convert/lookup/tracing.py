"""Calls that are compiled, exported or traced: they go through the operator `memrec::embed`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from memrec_convert.errors import ModelError
from memrec_convert.lookup.table import CompressedTable

_tracing_state = torch._C._get_tracing_state
is_transformed = torch._C._are_functorch_transforms_active
"""Whether `torch.vmap`, `jacrev` or the like runs the call, which wrap all tensors."""


def must_trace(ids: Tensor) -> bool:
    """Whether a call is being compiled, exported, traced or transformed, or its ids are no tensor with memory.

    What exports without Dynamo brings tensors of its own type.
    """
    if is_dynamo_compiling() or type(ids) is not Tensor or is_transformed():
        return True
    return _tracing_state() is not None and is_recorded()


def is_recorded() -> bool:
    """Whether `torch.jit.trace` records the call; ModelError where it does so for the ONNX exporter that uses it."""
    if _tracing_state() is None:
        return False
    if torch.onnx.is_in_onnx_export():
        raise ModelError(
            "the TorchScript-based ONNX exporter has no operator for compressed tables and would store numbers of this "
            "one batch; export the model before it is compressed, or serve it with torch.export."
        )
    return True


def embed(table: CompressedTable, ids: Tensor, offsets: Tensor | None, weights: Tensor | None) -> Tensor:
    """`table(ids, offsets, weights)` through the operator."""
    # getattr, as torch 2.7 cannot trace get_buffer
    tensors = [getattr(table, name) for name in sorted(table.spec.tensors())]
    if table.group is not None:
        tensors += [getattr(table.group, name) for name in sorted(table.group.spec.tensors())]
    result: Tensor = torch.ops.memrec.embed(ids, offsets, weights, tensors, table.description)
    return result
