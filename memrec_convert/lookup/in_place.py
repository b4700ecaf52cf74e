"""Compressed tables in a user's own modules: where they are, and how a table takes the place of a weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.errors import COMMON_FAILURES, ModelError
from memrec_convert.lookup.modules import CompressedEmbedding, CompressedEmbeddingBag, CompressedModule
from memrec_convert.lookup.tracing import must_trace
from memrec_convert.lookup.weight import POOLED_MODES, CompressedWeight


class DirectEmbedding(nn.Embedding):
    """nn.Embedding that hands ids to its compressed weight itself: the way by torch's dispatch takes 5 us more."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Embedding's."""
        weight: Any = self._parameters.get("weight")  # None where it is pruned or parametrised
        if type(weight) is CompressedWeight and self.max_norm is None and not must_trace(input):
            return weight.look_up(input)
        return super().forward(input)


class DirectEmbeddingBag(nn.EmbeddingBag):
    """nn.EmbeddingBag that hands ids to its compressed weight itself."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """As nn.EmbeddingBag's."""
        weight: Any = self._parameters.get("weight")  # None where it is pruned or parametrised
        if (
            type(weight) is CompressedWeight
            and self.max_norm is None
            and self.mode in POOLED_MODES
            and not must_trace(input)
            and not input.is_nested
        ):
            return weight.pool(
                input, offsets, per_sample_weights, self.mode, self.include_last_offset, self.padding_idx
            )
        return super().forward(input, offsets, per_sample_weights)


_DIRECT: dict[type, type] = {nn.Embedding: DirectEmbedding, nn.EmbeddingBag: DirectEmbeddingBag}


def hold_table(table: CompressedModule, dtype: torch.dtype) -> Any:  # noqa: ANN401 - an nn.Parameter and a weight
    """A parameter that shows the table's rows in this dtype."""
    return nn.Parameter(CompressedWeight(table, dtype=dtype), requires_grad=False)


def hasten(model: nn.Module) -> None:
    """Modules with a compressed weight that are exactly torch's own take the direct way to it; none can be scripted."""
    for module in model.modules():
        if any(isinstance(one, CompressedWeight) for one in module._parameters.values()):
            module.__class__ = _DIRECT.get(type(module), type(module))
            module.__dict__["__prepare_scriptable__"] = refuse_scripting  # which torch asks before it compiles a module


def refuse_scripting() -> None:
    """ModelError: TorchScript would store memory that a compressed weight does not have."""
    raise ModelError("torch.jit.script cannot hold a compressed weight; use torch.jit.trace, or torch.export.")


def is_plain(module: nn.Module) -> bool:
    """Whether a module is exactly torch's nn.Embedding or nn.EmbeddingBag, with nothing hung on it."""
    hung = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    changed = "forward" in vars(module) or any(getattr(module, name) for name in hung)
    return type(module) in (*_DIRECT, *_DIRECT.values()) and not changed


def named_tables(model: nn.Module) -> Iterator[tuple[str, CompressedModule]]:
    """Compressed tables and the paths of the modules that they serve, once for each path.

    A table is a module itself, or stands behind the weight of an nn.Embedding or nn.EmbeddingBag.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CompressedEmbedding | CompressedEmbeddingBag):
            yield path, module
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            weight = module._parameters.get("weight")
            if isinstance(weight, CompressedWeight):
                yield path, weight.table


def find_tables(model: nn.Module) -> list[CompressedModule]:
    """The compressed tables of a model, each once."""
    return list({id(table): table for _, table in named_tables(model)}.values())


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer by name, tied ones under each: the memory itself, whatever hooks say."""
    state: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        kept = {name: one for name, one in module._buffers.items() if name not in module._non_persistent_buffers_set}
        for name, tensor in (*module._parameters.items(), *kept.items()):
            if tensor is not None:
                state[f"{path}.{name}" if path else name] = tensor
    return state


def refuse_other_state(model: nn.Module) -> None:
    """ModelError where the state dict shows more than parameters and buffers, which a file would lose."""
    kind, own = type(model).__name__, own_state(model)
    try:
        shown = dict(model.state_dict(keep_vars=True))
    except COMMON_FAILURES as error:
        raise ModelError(
            f"{kind}.state_dict() failed ({type(error).__name__}: {' '.join(str(error).split())[:200]}); mend it, or "
            "remove its hooks."
        ) from error
    places = {one.data_ptr() for one in own.values() if not isinstance(one, CompressedWeight) and one.numel()}
    for name in shown.keys() - own.keys():
        value = shown[name]
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{kind} > {name} is a {type(value).__name__} in the state dict; an artifact stores tensors alone."
            )
        if isinstance(value, CompressedWeight) or (value.layout is torch.strided and value.data_ptr() in places):
            continue  # a hook shows it by another name
        raise ModelError(
            f"{kind} > {name} is in the state dict and is no parameter or persistent buffer, which alone a file holds; "
            "register it as a buffer."
        )


def spread_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A model's state by the names of an artifact, and the names of what shares a compressed weight outside of tables.

    The tensors of a table behind a weight stand under the path of its module, as those of a compressed module do; the
    second result names the weight that such a name stands for, as "path.weight".
    """
    state = own_state(model)
    places: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        weight = module._parameters.get("weight") if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None
        if isinstance(weight, CompressedWeight):
            places.setdefault(id(weight.table), f"{path}.weight")
    tables = {f"{path}.weight" for path, _ in named_tables(model)}
    spread, ties = dict[str, Tensor](), dict[str, str]()
    for name, tensor in state.items():
        if not isinstance(tensor, CompressedWeight):
            spread[name] = tensor
        elif name in tables:
            own = {f"{name.removesuffix('weight')}{part}": one for part, one in own_state(tensor.table).items()}
            for part in own.keys() & state.keys():
                raise ModelError(f"{part} is the name of a part of the compressed table there; rename that buffer.")
            spread |= own
        elif id(tensor.table) in places:
            ties[name] = places[id(tensor.table)]
        else:
            raise ModelError(
                f"{name} shows a compressed table, and no embedding module has it as its plain weight any more; undo "
                "what was done to that weight, such as pruning or a parametrisation, and save then."
            )
    return spread, ties
