"""A compressed weight: a tensor of its own kind in the place of an embedding module's `weight`.

The module, its class, hooks and attributes stay as they were. Lookups go to the compressed table; all else that torch
does with the weight sees its rows, decoded when they are needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn import functional
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_map

from memrec_convert.encoding.description import describe_form
from memrec_convert.errors import ModelError
from memrec_convert.lookup.modules import CompressedEmbedding, CompressedEmbeddingBag, CompressedModule, build_module
from memrec_convert.lookup.table import CompressedTable
from memrec_convert.lookup.tracing import is_recorded, must_trace
from memrec_convert.lookup.tracking import Changes

ROWS_AT_ONCE = 1 << 16
"""Rows that are decoded at a time."""

aten = torch.ops.aten
_correct_aliasing: Any = _python_dispatch.return_and_correct_aliasing
POOLED_MODES = ("sum", "mean")
_PART = "part_"
_DENSE_FIRST = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


class CompressedWeight(Tensor):
    """Rows of a table, [rows, dim] or turned [dim, rows], in any floating dtype; the table holds them compressed.

    table   the compressed module whose tensors these are, built from `parts` where a compiler brings those alone
    cast    the dtype that rows are given in; None for float32, which tables decode to
    """

    _table: CompressedModule | None
    _parts: dict[str, Tensor]
    description: str
    cast: torch.dtype | None
    turned: bool

    @staticmethod
    def __new__(  # noqa: D102 - the class says it
        cls: type[CompressedWeight],
        table: CompressedModule | None,
        *,
        dtype: torch.dtype = torch.float32,
        turned: bool = False,
        parts: dict[str, Tensor] | None = None,
        description: str = "",
    ) -> CompressedWeight:
        held = _parts_of(table) if table is not None else parts or {}
        description = table.description if table is not None else description
        plain = json.loads(description)
        rows, dim = plain["rows"], plain["dim"]
        weight: Any = Tensor._make_wrapper_subclass(
            cls,
            (dim, rows) if turned else (rows, dim),
            strides=(1, dim) if turned else (dim, 1),
            dtype=dtype,
            device=next(iter(held.values())).device,
        )
        weight._table, weight._parts, weight.description = table, held if table is None else {}, description
        weight.cast, weight.turned = None if dtype is torch.float32 else dtype, turned
        made: CompressedWeight = weight
        return made

    @property
    def table(self) -> CompressedModule:
        """The compressed table."""
        if self._table is None:
            self._table = build_module(json.loads(self.description), {})
            for module, prefix in ((self._table, ""), (self._table.group, "group_")):
                for name in module.spec.tensors() if module is not None else ():
                    setattr(module, name, self._parts[f"{_PART}{prefix}{name}"])
        return self._table

    def parts(self) -> dict[str, Tensor]:
        """The table's tensors, in the order in which the operator takes them."""
        return self._parts if self._table is None else _parts_of(self._table)

    def look_up(self, ids: Tensor) -> Tensor:
        """The rows of ids (int64 or int32 [...]), [..., dim], for a call that nothing traces."""
        table: Any = self._table or self.table
        rows: Tensor = (table if type(table) is CompressedEmbedding else _use_as(table)).look_up(ids)
        return rows if self.cast is None else rows.to(self.cast)

    def pool(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        mode: str,
        with_end: bool,
        padding_idx: int | None,
    ) -> Tensor:
        """Pooled rows [bags, dim] of a call of `functional.embedding_bag` that nothing traces; mode is sum or mean."""
        table: Any = self._table or self.table
        if (
            type(table) is not CompressedEmbeddingBag
            or mode != table.mode
            or with_end != table.include_last_offset
            or padding_idx != table.padding_idx
        ):
            table = _use_as(table, mode, with_end, padding_idx)
        pooled: Tensor = table.pool(ids, offsets, weights)
        return pooled if self.cast is None else pooled.to(self.cast)

    def decode(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start to stop, [n, dim], decoded some at a time."""
        stop = self.table.spec.rows if stop is None else stop
        chunks = range(start, stop, ROWS_AT_ONCE)
        parts = [self.look_up(torch.arange(a, min(a + ROWS_AT_ONCE, stop), device=self._device())) for a in chunks]
        if not parts:
            return torch.empty(0, self.table.spec.dim, dtype=self.cast or torch.float32)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def dense(self) -> Tensor:
        """The whole weight as a plain tensor."""
        if self._table is None and any(type(part) is not Tensor for part in self._parts.values()):
            plain = json.loads(self.description)
            ids = torch.arange(plain["rows"], device=self._device())
            rows = _embed(self, ids)
        else:
            rows = self.decode()
        return rows.t() if self.turned else rows

    def like(self, *, dtype: torch.dtype | None = None, turned: bool | None = None) -> CompressedWeight:
        """Another view of the table."""
        with torch.inference_mode(False):  # torch takes no inference tensor for a view of a plain one
            return CompressedWeight(
                self._table,
                dtype=dtype or self.cast or torch.float32,
                turned=self.turned if turned is None else turned,
                parts=self._parts,
                description=self.description,
            )

    def _device(self) -> torch.device:
        return next(iter(self.parts().values())).device

    def __getattr__(self, name: str) -> Tensor:
        """The parts by the names that `__tensor_flatten__` gives them."""
        if name.startswith(_PART) and name in (parts := self.parts()):
            return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # noqa: ANN401
        """Shape and form; the numbers would have to be decoded."""
        shape, spec = [*self.size()], self.table.spec
        return f"{type(self).__name__}({shape}, {describe_form(spec)}, dtype={self.cast or torch.float32})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[str, torch.dtype | None, bool]]:
        """For compilers: the names of the parts, and the rest."""
        return list(self.parts()), (self.description, self.cast, self.turned)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], rest: Any, _size: Any, _stride: Any) -> CompressedWeight:  # noqa: ANN401
        description, cast, turned = rest
        return CompressedWeight(
            None, dtype=cast or torch.float32, turned=turned, parts=dict(inner), description=description
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressedWeight:
        """With tensors of its own; weights of one table share it in the copy too."""
        if id(self) not in memo:
            copied = _restore(copy.deepcopy(self.table, memo), self.cast, self.turned, isinstance(self, nn.Parameter))
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        known: CompressedWeight = memo[id(self)]
        return known

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        """The table and how it is shown."""
        return _restore, (self.table, self.cast, self.turned, isinstance(self, nn.Parameter))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Lookups go straight to the table, where nothing traces the call; the rest goes on to `__torch_dispatch__`."""
        kwargs = kwargs or {}
        handle = _FUNCTIONS.get(func)
        if handle is not None:
            found = handle(*args, **kwargs)
            if found is not None:
                return found
        if func in _DENSE_FIRST or (func in _PRODUCTS and _must_show(args)):
            args, kwargs = tree_map(_to_dense, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        """What keeps the kind, lookups, products with many rows; for everything else the decoded rows."""
        kwargs = kwargs or {}
        handle = _OPERATORS.get(func)
        if handle is not None:
            found = handle(*args, **kwargs)
            if found is not None:
                return _correct_aliasing(func, args, kwargs, found) if func in _VIEWS else found
        if func._schema.is_mutable and isinstance(args[0], CompressedWeight):
            raise ModelError(
                f"{func} would change a compressed weight in place, and its numbers are not stored one by one; train "
                "the tables by compress(..., batches=, val=), or compress again."
            )
        parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        args, kwargs = tree_map(_to_dense, (args, kwargs))
        return func(*args, **kwargs)


def _parts_of(table: CompressedTable) -> dict[str, Tensor]:
    parts = {f"{_PART}{name}": table.get_buffer(name) for name in sorted(table.spec.tensors())}
    if table.group is not None:
        names = sorted(table.group.spec.tensors())
        parts |= {f"{_PART}group_{name}": table.group.get_buffer(name) for name in names}
    return parts


def _restore(table: CompressedModule, cast: torch.dtype | None, turned: bool, is_parameter: bool) -> Any:  # noqa: ANN401
    weight = CompressedWeight(table, dtype=cast or torch.float32, turned=turned)
    shown: Any = nn.Parameter(weight, requires_grad=False) if is_parameter else weight
    return shown


def _use_as(
    table: CompressedModule, mode: str = "", with_end: bool = False, padding_idx: int | None = None
) -> CompressedModule:
    """A module over the same buffers for calls that pool in another way; `mode` "" gives rows.

    Kept beside the table, and made anew while a decoder stands in for it in training.
    """
    use, (generation, kept) = (mode, with_end, padding_idx), table._uses
    if generation != table.generation:
        kept = {}
        table.__dict__["_uses"] = (table.generation, kept)
    if table.decoder is None and use in kept:
        found: CompressedModule = kept[use]
        return found
    other: Any = nn.Module.__new__(CompressedEmbeddingBag if mode else CompressedEmbedding)
    other.__dict__.update({name: value for name, value in table.__dict__.items() if name not in ("_kernel", "_uses")})
    zero_row = table.padding_idx if type(table) is CompressedEmbedding else None
    other.__dict__.update(padding_idx=padding_idx if mode else zero_row, mode=mode, include_last_offset=with_end)
    other.describe()
    if table.decoder is None:
        kept[use] = other
    made: CompressedModule = other
    return made


def _to_dense(value: Any) -> Any:  # noqa: ANN401 - a leaf of any arguments
    return value.dense() if isinstance(value, CompressedWeight) else value


def _must_show(args: Any) -> bool:  # noqa: ANN401 - a function's arguments
    """Whether a product needs plain rows: gradients go through them in training, and a tracer records them."""
    return is_recorded() or any(isinstance(one, CompressedWeight) and one.table.decoder is not None for one in args)


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
        return _embed(weight, input) if is_recorded() else None
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
        return _embed(weight, input, offsets, per_sample_weights, **bags)
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
    if type(weight) is not CompressedWeight or weight._table is None or is_dynamo_compiling():
        return None
    if weight.turned or isinstance(index, tuple) or index is None or index is Ellipsis or _must_show([weight]):
        rows: Tensor = weight.dense()[index]
        return rows
    return weight.look_up(torch.arange(weight.table.spec.rows, device=weight._device())[index])


def _renorm(rows: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """Rows [..., dim] shortened to the norm that a lookup with `max_norm` would leave them."""
    norms = rows.norm(p=norm_type, dim=-1, keepdim=True)
    return torch.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)


_FUNCTIONS: dict[Any, Callable[..., Tensor | None]] = {
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    Tensor.__getitem__: _index,
}
_PRODUCTS = {
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


def _embed(
    weight: CompressedWeight,
    ids: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    **bags: Any,  # noqa: ANN401 - mode, include_last_offset, padding_idx
) -> Tensor:
    """The lookup by the operator, which compilers keep as it is."""
    plain = json.loads(weight.description)
    pooled = "mode" in plain
    plain = {name: value for name, value in plain.items() if name not in ("mode", "include_last_offset")}
    if bags or pooled:
        plain.pop("padding_idx", None)
    plain |= {name: value for name, value in bags.items() if value not in (None, False)}
    description = json.dumps(plain)
    rows = torch.ops.memrec.embed(ids, offsets, per_sample_weights, list(weight.parts().values()), description)
    result: Tensor = rows if weight.cast is None else rows.to(weight.cast)
    return result


def _run_embedding(weight: Any, indices: Tensor, *_: object, **__: object) -> Tensor | None:  # noqa: ANN401
    return _embed(weight, indices) if isinstance(weight, CompressedWeight) and not weight.turned else None


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
    pooled = _embed(weight, indices, offsets, per_sample_weights, **bags)
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
    """`copy_` between weights of one form."""
    if not isinstance(target, CompressedWeight) or not isinstance(source, CompressedWeight):
        return None
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
    if not isinstance(ours, CompressedWeight) or isinstance(other, CompressedWeight) or ours._table is None:
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
_VIEWS = frozenset({aten.detach.default, aten.alias.default, aten.view.default, *_TURNS})
_OPERATORS: dict[Any, Callable[..., Any]] = {
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
