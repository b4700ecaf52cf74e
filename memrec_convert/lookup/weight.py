"""A compressed weight: a tensor subclass that replaces an embedding module's `weight`.

The module keeps its class, hooks and attributes. Lookups go to the compressed table. Any other torch operation on the
weight sees its rows, decoded on demand.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch
from torch.utils._pytree import tree_map

from memrec_convert.encoding.description import describe_form
from memrec_convert.encoding.spec import table_spec_from_json
from memrec_convert.errors import ModelError
from memrec_convert.lookup.modules import CompressedEmbedding, CompressedEmbeddingBag, CompressedModule, build_module
from memrec_convert.lookup.table import CompressedTable
from memrec_convert.lookup.tracing import is_recorded

ROWS_AT_ONCE = 1 << 16
"""Number of rows decoded at a time."""

_correct_aliasing: Any = _python_dispatch.return_and_correct_aliasing
FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""Torch's functions that have a way of their own here; one that gives None leaves the call to torch."""
OPERATORS: dict[Any, Callable[..., Any]] = {}
"""Torch operators -> their handlers here; if one returns None, the operator gets the decoded rows."""
PRODUCTS: set[Any] = set()
"""Functions that pass gradients to the rows in training."""
VIEWS: set[Any] = set()
"""Operators whose result shares memory with their argument."""
POOLED_MODES = ("sum", "mean")
_PART = "part_"
_FREEZE = (
    "a traced model that holds compressed weights must be frozen before torch.jit.save: torch.jit.freeze(traced). "
    "Otherwise torch stores memory that a compressed weight does not have."
)
_DENSE_FIRST = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


class CompressedWeight(Tensor):
    """Rows of a compressed table as a tensor [rows, dim], or transposed [dim, rows], in any floating dtype.

    table   the compressed module; built from `parts` if a compiler passes only those
    cast    the dtype of returned rows; None for float32, which tables decode to
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
        """Returns the table's tensors, in the order that the operator expects."""
        return self._parts if self._table is None else _parts_of(self._table)

    def look_up(self, ids: Tensor) -> Tensor:
        """Returns the rows [..., dim] of ids (int64 or int32 [...]); for untraced calls."""
        table: Any = self._table or self.table
        if type(table) is not CompressedEmbedding:
            table = use_as(table)
        rows: Tensor = table.look_up(ids)
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
        """Returns pooled rows [bags, dim], as `functional.embedding_bag` with sum or mean; for untraced calls."""
        table: Any = self._table or self.table
        if (
            type(table) is not CompressedEmbeddingBag
            or mode != table.mode
            or with_end != table.include_last_offset
            or padding_idx != table.padding_idx
        ):
            table = use_as(table, mode, with_end, padding_idx)
        pooled: Tensor = table.pool(ids, offsets, weights)
        return pooled if self.cast is None else pooled.to(self.cast)

    def embed(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        **bags: Any,  # noqa: ANN401 - mode, include_last_offset, padding_idx
    ) -> Tensor:
        """Returns rows of ids, or pooled rows if `bags` says how, through the operator, which compilers do not open."""
        if is_recorded():
            warnings.warn(_FREEZE, stacklevel=2)
        plain = json.loads(self.description)
        pooled = "mode" in plain
        plain = {name: value for name, value in plain.items() if name not in ("mode", "include_last_offset")}
        if bags or pooled:
            plain.pop("padding_idx", None)
        plain |= {name: value for name, value in bags.items() if value not in (None, False)}
        description = json.dumps(plain)
        rows = torch.ops.memrec.embed(ids, offsets, per_sample_weights, list(self.parts().values()), description)
        result: Tensor = rows if self.cast is None else rows.to(self.cast)
        return result

    def decode(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Returns rows start to stop, [n, dim], decoded in chunks."""
        stop = self.table.spec.rows if stop is None else stop
        chunks = range(start, stop, ROWS_AT_ONCE)
        parts = [self.look_up(torch.arange(a, min(a + ROWS_AT_ONCE, stop), device=self._device())) for a in chunks]
        if not parts:
            return torch.empty(0, self.table.spec.dim, dtype=self.cast or torch.float32)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def dense(self) -> Tensor:
        """Returns the whole weight as a plain tensor."""
        if is_recorded() or not self.has_memory():
            plain = json.loads(self.description)
            ids = torch.arange(plain["rows"], device=self._device())
            rows = self.embed(ids)
        else:
            rows = self.decode()
        return rows.t() if self.turned else rows

    def has_memory(self) -> bool:
        """Whether its tensors are plain, not ones that a compiler passes."""
        return all(type(part) is Tensor for part in self.parts().values())

    def like(self, *, dtype: torch.dtype | None = None, turned: bool | None = None) -> CompressedWeight:
        """Returns another view of the table."""
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
        """Shows shape and form; the values would have to be decoded."""
        form = describe_form(table_spec_from_json(json.loads(self.description)))
        return f"{type(self).__name__}({[*self.size()]}, {form}, dtype={self.cast or torch.float32})"

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
        """Copies the tensors; weights that share a table share its copy too."""
        if id(self) not in memo:
            copied = _restore(copy.deepcopy(self.table, memo), self.cast, self.turned, isinstance(self, nn.Parameter))
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        known: CompressedWeight = memo[id(self)]
        return known

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        """Pickles the table, dtype and orientation."""
        return _restore, (self.table, self.cast, self.turned, isinstance(self, nn.Parameter))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Sends untraced lookups straight to the table, and everything else to `__torch_dispatch__`."""
        kwargs = kwargs or {}
        handle = FUNCTIONS.get(func)
        if handle is not None:
            found = handle(*args, **kwargs)
            if found is not None:
                return found
        if func in _DENSE_FIRST or (must_show(args) if func in PRODUCTS else is_recorded() and not _reads(func)):
            args, kwargs = tree_map(_to_dense, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Handles views, lookups and products with many rows; passes decoded rows to everything else."""
        kwargs = kwargs or {}
        handle = OPERATORS.get(func)
        if handle is not None:
            found = handle(*args, **kwargs)
            if found is not None:
                return _correct_aliasing(func, args, kwargs, found) if func in VIEWS else found
        if func._schema.is_mutable and _changes_weight(func._schema.arguments, args, kwargs):
            raise refuse_change(str(func))
        parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        args, kwargs = tree_map(_to_dense, (args, kwargs))
        return func(*args, **kwargs)


def refuse_change(what: str) -> ModelError:
    """The error for a call that would write into a compressed weight."""
    return ModelError(
        f"{what} would change a compressed weight in place, but its values are not stored singly; fine-tune the tables "
        "with compress(..., batches=, val=), or compress again."
    )


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


def use_as(
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


def _changes_weight(arguments: Any, args: Any, kwargs: Any) -> bool:  # noqa: ANN401 - of an operator
    """Whether one of the arguments that an operator writes into is a compressed weight."""
    for number, one in enumerate(arguments):
        if one.alias_info is not None and one.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(one.name)
            if any(isinstance(part, CompressedWeight) for part in (value if isinstance(value, list) else [value])):
                return True
    return False


def _to_dense(value: Any) -> Any:  # noqa: ANN401 - a leaf of any arguments
    return value.dense() if isinstance(value, CompressedWeight) else value


def _reads(func: Any) -> bool:  # noqa: ANN401 - a function of torch
    """Whether a function only asks for an attribute."""
    return bool(func.__name__ == "__get__")


def must_show(args: Any) -> bool:  # noqa: ANN401 - a function's arguments
    """Whether a product needs plain rows: in training for gradients, or while a tracer records."""
    return is_recorded() or any(isinstance(one, CompressedWeight) and one.table.decoder is not None for one in args)
