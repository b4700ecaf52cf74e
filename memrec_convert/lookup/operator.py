"""The lookup as one torch operator, `memrec::embed`, so that torch.compile and torch.export trace through it.

Its arguments say everything: the ids, the table's tensors in the order of their names, and its description. Eager calls
do not come this way.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from memrec_convert.lookup.modules import CompressedModule, build_module

MOST_TABLES = 4096
"""Tables that the operator remembers between calls."""

_tables: dict[tuple[str, tuple[int, ...]], tuple[list[Tensor], CompressedModule]] = {}


@torch.library.custom_op("memrec::embed", mutates_args=(), device_types="cpu")
def _embed(
    ids: Tensor, offsets: Tensor | None, weights: Tensor | None, tensors: list[Tensor], description: str
) -> Tensor:
    table = _find_table(tensors, description)
    result: Tensor = table(ids) if offsets is None and weights is None else table(ids, offsets, weights)
    return result


@_embed.register_fake
def _shape_of(
    ids: Tensor, offsets: Tensor | None, weights: Tensor | None, tensors: list[Tensor], description: str
) -> Tensor:
    plain = json.loads(description)
    if "mode" not in plain:
        return ids.new_empty((*ids.shape, plain["dim"]), dtype=torch.float32)
    bags = ids.shape[0] if offsets is None else offsets.shape[0] - int(plain.get("include_last_offset", False))
    return ids.new_empty((bags, plain["dim"]), dtype=torch.float32)


@_embed.register_vmap
def _map_over(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:  # noqa: ANN401 - torch's own
    """Under `torch.vmap`: plain rows of all ids at once; bags call by call, for their offsets are each call's own."""
    ids, offsets, weights, tensors, description = arguments
    if dims[0] is not None and "mode" not in json.loads(description):
        return torch.ops.memrec.embed(ids.movedim(dims[0], 0), offsets, weights, tensors, description), 0
    calls = [
        [one if dim is None else one.select(dim, number) for one, dim in zip(arguments[:3], dims[:3], strict=True)]
        for number in range(info.batch_size)
    ]
    return torch.stack([torch.ops.memrec.embed(*call, tensors, description) for call in calls]), 0


def _find_table(tensors: list[Tensor], description: str) -> Any:  # noqa: ANN401 - one of two callable modules
    """The module of these tensors; made once, as the same ones come with every call of a compiled model."""
    key = (description, tuple(tensor.data_ptr() for tensor in tensors))
    if key not in _tables:
        module = build_module(json.loads(description), {})
        tensors = [tensor.detach() for tensor in tensors]  # export may hold them as parameters, which are no buffers
        names = sorted(module.spec.tensors())
        module.fill(dict(zip(names, tensors, strict=False)))
        if module.group is not None:
            for name, tensor in zip(sorted(module.group.spec.tensors()), tensors[len(names) :], strict=True):
                setattr(module.group, name, tensor)
        if len(_tables) >= MOST_TABLES:
            _tables.clear()
        _tables[key] = (tensors, module)  # which keeps the tensors alive, so that their addresses stay theirs
    return _tables[key][1]
