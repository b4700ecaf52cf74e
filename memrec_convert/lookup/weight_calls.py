"""What torch's functions and operators do with a compressed weight: lookups, views, copies, products."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn import functional

from memrec_convert.encoding.description import describe_form
from memrec_convert.errors import ModelError
from memrec_convert.lookup.tracing import is_recorded, is_transformed, must_trace
from memrec_convert.lookup.tracking import Changes
from memrec_convert.lookup.weight import (
    FUNCTIONS,
    OPERATORS,
    POOLED_MODES,
    PRODUCTS,
    ROWS_AT_ONCE,
    VIEWS,
    CompressedWeight,
    must_show,
    refuse_change,
)

aten = torch.ops.aten

# ---- functions


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    """`functional.embedding`; None leaves the call to torch."""
    if type(weight) is not CompressedWeight or weight.turned:
        return None
    if must_trace(input):
        return weight.embed(input) if is_recorded() else None
    rows = weight.look_up(input)
    return rows if max_norm is None else _renorm(rows, max_norm, norm_type)


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor | None:
    """`functional.embedding_bag`; None leaves the call to torch."""
    if type(weight) is not CompressedWeight or weight.turned or (must_trace(input) and not is_recorded()):
        return None
    if max_norm is None and mode in POOLED_MODES and not input.is_nested:
        padding = padding_idx if padding_idx is None or padding_idx >= 0 else padding_idx + weight.table.spec.rows
        if not must_trace(input):
            return weight.pool(input, offsets, per_sample_weights, mode, include_last_offset, padding)
        bags = {"mode": mode, "include_last_offset": include_last_offset, "padding_idx": padding}
        return weight.embed(input, offsets, per_sample_weights, **bags)
    ids, numbers = torch.unique(input.values() if input.is_nested else input, return_inverse=True)
    rows = weight.look_up(ids)
    padding_rows = None if padding_idx is None else (ids == padding_idx % weight.table.spec.rows).nonzero()
    if input.is_nested:
        numbers = torch.nested.nested_tensor_from_jagged(numbers, offsets=input.offsets())  # type: ignore[attr-defined]
    return functional.embedding_bag(
        numbers,
        rows if max_norm is None else _renorm(rows, max_norm, norm_type),
        offsets,
        mode=mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=None if padding_rows is None or not len(padding_rows) else int(padding_rows[0]),
    )


def _index(weight: Any, index: Any) -> Tensor | None:  # noqa: ANN401 - tensor and index of any kind
    """`weight[index]`, from the rows that are asked for where the index is of rows."""
    if type(weight) is not CompressedWeight or is_dynamo_compiling() or is_transformed() or not weight.has_memory():
        return None
    if weight.turned or isinstance(index, tuple) or index is None or index is Ellipsis or must_show([weight]):
        rows: Tensor = weight.dense()[index]
        return rows
    return weight.look_up(torch.arange(weight.table.spec.rows, device=weight._device())[index])


def _renorm(rows: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """Rows [..., dim] shortened to the norm that a lookup with `max_norm` would leave them."""
    norms = rows.norm(p=norm_type, dim=-1, keepdim=True)
    return torch.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)


def _share(weight: Tensor) -> Tensor | None:
    """`weight.share_memory_()`: the table gets tensors in shared memory, and what reads them learns of it."""
    if type(weight) is not CompressedWeight:
        return None
    for module in (weight.table, weight.table.group):
        for name, part in () if module is None else list(module.named_buffers(recurse=False)):
            if not part.is_shared():  # type: ignore[no-untyped-call]
                setattr(module, name, part.clone().share_memory_())  # type: ignore[no-untyped-call]
    return weight


def _is_shared(weight: Tensor) -> bool | None:
    if type(weight) is not CompressedWeight:
        return None
    return all(part.is_shared() for part in weight.parts().values())  # type: ignore[no-untyped-call]


def _set_data(weight: Tensor, value: Tensor) -> None:
    """`weight.data = value`, which a compressed weight takes from one of its kind alone."""
    if type(weight) is CompressedWeight and type(value) is not CompressedWeight:
        raise ModelError("the .data of a compressed weight cannot be set: its numbers are not stored one by one.")


def _set_item(weight: Any, *_: object) -> None:  # noqa: ANN401 - a tensor of any kind
    """`weight[index] = value`, which torch would do to rows that are decoded for it, and lost."""
    if isinstance(weight, CompressedWeight):
        raise refuse_change("weight[...] = ...")


FUNCTIONS |= {
    Tensor.__setitem__: _set_item,
    Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    Tensor.__getitem__: _index,
    Tensor.share_memory_: _share,
    Tensor.is_shared: _is_shared,
}
PRODUCTS |= {
    functional.linear,
    torch.matmul,
    torch.mm,
    torch.addmm,
    Tensor.matmul,
    Tensor.mm,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    Tensor.T.__get__,  # type: ignore[attr-defined]
    Tensor.mT.__get__,  # type: ignore[attr-defined]
    Tensor.t,
    torch.t,
    Tensor.transpose,
    torch.transpose,
}


# ---- operators


def _run_embedding(weight: Any, indices: Tensor, *_: object, **__: object) -> Tensor | None:  # noqa: ANN401
    return weight.embed(indices) if isinstance(weight, CompressedWeight) and not weight.turned else None


def _run_bag(
    weight: Any,  # noqa: ANN401 - a tensor of any kind
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    if not isinstance(weight, CompressedWeight) or weight.turned or mode >= len(POOLED_MODES):
        return None
    bags = {
        "mode": POOLED_MODES[mode],
        "include_last_offset": include_last_offset,
        "padding_idx": None if padding_idx < 0 else padding_idx,
    }
    pooled = weight.embed(indices, offsets, per_sample_weights, **bags)
    empty = offsets.new_empty(0)
    return pooled, empty, offsets.new_empty(pooled.shape[0]), empty


def _detach(weight: CompressedWeight, *_: object, **__: object) -> CompressedWeight:
    return weight.like()


def _view(weight: CompressedWeight, size: Any) -> CompressedWeight | None:  # noqa: ANN401 - a shape
    """The view of a tracer that meets one weight twice; None for another shape."""
    return weight.like() if tuple(size) == tuple(weight.shape) else None


def _clone(weight: CompressedWeight, **_: object) -> CompressedWeight:
    return CompressedWeight(copy.deepcopy(weight.table), dtype=weight.cast or torch.float32, turned=weight.turned)


def _to_copy(
    weight: CompressedWeight, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: object
) -> CompressedWeight | None:
    dtype = dtype or weight.cast or torch.float32
    if not dtype.is_floating_point:
        return None
    if device is None or device == weight._device():
        return weight.like(dtype=dtype)
    return CompressedWeight(copy.deepcopy(weight.table).to(device), dtype=dtype, turned=weight.turned)


def _copy(target: Any, source: Any, *_: object) -> Tensor | None:  # noqa: ANN401 - tensors of any kind
    """`copy_` between weights of one form, or of the rows as they are, which every rank of DDP sends to the others."""
    if not isinstance(target, CompressedWeight):
        return None
    if not isinstance(source, CompressedWeight):
        alike = target.has_memory() and source.shape == target.shape
        return target if alike and torch.equal(target.dense(), source.to(target.dtype)) else None
    old, new = target.parts(), source.parts()
    if target.table.spec != source.table.spec or target.turned != source.turned:
        raise ModelError(
            f"a weight of {describe_form(target.table.spec)} cannot take over one of "
            f"{describe_form(source.table.spec)}; both must come from the same compression."
        )
    for name, part in old.items():
        part.copy_(new[name])
    for module in (target.table, target.table.group):
        if module is not None:
            module._buffers.latest = Changes.count()
    return target


def _turn(weight: Any, *axes: Any) -> CompressedWeight | None:  # noqa: ANN401
    """A transposed view; None where the axes stay as they are."""
    flat = [axis % 2 for axis in (axes[0] if axes and isinstance(axes[0], list | tuple) else axes)]
    if flat in ([], [1, 0]) or (len(axes) == 2 and flat == [0, 1]):
        return weight.like(turned=not weight.turned) if isinstance(weight, CompressedWeight) else None
    return None


def _multiply(left: Tensor, right: Tensor) -> Tensor | None:
    """A matrix product, some rows of the table at a time; None where they are decoded at once."""
    ours, other = (left, right) if isinstance(left, CompressedWeight) else (right, left)
    if not isinstance(ours, CompressedWeight) or isinstance(other, CompressedWeight) or not ours.has_memory():
        return None
    if type(other) is not Tensor or ours.turned is (ours is left):  # the rows are what is summed over
        return None
    rows = ours.table.spec.rows
    parts = []
    for a in range(0, rows, ROWS_AT_ONCE):
        piece = ours.decode(a, min(a + ROWS_AT_ONCE, rows))
        parts.append(piece @ other if ours is left else other @ piece.t())
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=0 if ours is left else 1)


def _add_product(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor | None:
    product = _multiply(left, right)
    return None if product is None else product * alpha + bias * beta


_TURNS = (aten.t.default, aten.transpose.int, aten.permute.default)
VIEWS |= {aten.detach.default, aten.alias.default, *_TURNS}
OPERATORS |= {
    aten.embedding.default: _run_embedding,
    aten._embedding_bag_forward_only.default: _run_bag,
    aten.detach.default: _detach,
    aten.alias.default: _detach,
    aten.view.default: _view,
    aten.clone.default: _clone,
    aten._to_copy.default: _to_copy,
    aten.copy_.default: _copy,
    **dict.fromkeys(_TURNS, _turn),
    aten.mm.default: _multiply,
    aten.addmm.default: _add_product,
}
