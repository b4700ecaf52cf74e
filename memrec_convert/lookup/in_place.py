"""Compressed tables in a user's own modules: find them, and put a table in the place of a weight."""

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
    """An nn.Embedding that passes ids directly to its compressed weight; torch's dispatch would take 5 us more."""

    def forward(self, input: Tensor) -> Tensor:
        """Does what nn.Embedding.forward does."""
        weight: Any = self._parameters.get("weight")  # None where it is pruned or parametrised
        if type(weight) is CompressedWeight and self.max_norm is None and not must_trace(input):
            return weight.look_up(input)
        return super().forward(input)


class DirectEmbeddingBag(nn.EmbeddingBag):
    """An nn.EmbeddingBag that passes ids directly to its compressed weight."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Does what nn.EmbeddingBag.forward does."""
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
    """Returns a parameter that shows the table's rows in this dtype."""
    return nn.Parameter(CompressedWeight(table, dtype=dtype), requires_grad=False)


def hasten(model: nn.Module) -> None:
    """Makes torch's own modules with a compressed weight look up rows directly; bars scripting of all that have one."""
    for module in model.modules():
        if any(isinstance(one, CompressedWeight) for one in module._parameters.values()):
            module.__class__ = _DIRECT.get(type(module), type(module))
            module.__dict__["__prepare_scriptable__"] = refuse_scripting  # torch calls it before it compiles a module


def refuse_scripting() -> None:
    """Raises ModelError: TorchScript would store memory that a compressed weight does not have."""
    raise ModelError("torch.jit.script cannot store a compressed weight; use torch.jit.trace or torch.export.")


def is_plain(module: nn.Module) -> bool:
    """Whether a module's class is exactly nn.Embedding or nn.EmbeddingBag, without hooks or a replaced forward."""
    hung = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    changed = "forward" in vars(module) or any(getattr(module, name) for name in hung)
    return type(module) in (*_DIRECT, *_DIRECT.values()) and not changed


def named_tables(model: nn.Module) -> Iterator[tuple[str, CompressedModule]]:
    """Yields the path of each module with a compressed table, and the table.

    The table is the module itself, or belongs to the weight of an nn.Embedding or nn.EmbeddingBag.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CompressedEmbedding | CompressedEmbeddingBag):
            yield path, module
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            weight = module._parameters.get("weight")
            if isinstance(weight, CompressedWeight):
                yield path, weight.table


def find_tables(model: nn.Module) -> list[CompressedModule]:
    """Lists the compressed tables of a model, each once."""
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
    places = {one.data_ptr() for one in own.values() if has_place(one)}
    for name in shown.keys() - own.keys():
        value = shown[name]
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{kind} > {name} is a {type(value).__name__} in the state dict; an artifact stores tensors alone."
            )
        if isinstance(value, CompressedWeight) or (has_place(value) and value.data_ptr() in places):
            continue  # a hook shows it by another name
        raise ModelError(
            f"{kind} > {name} is in the state dict and is no parameter or persistent buffer, which alone a file holds; "
            "register it as a buffer."
        )


def has_place(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie one by one in memory: a plain one, neither sparse, empty, nor without data."""
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return False
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() > 0


def spread_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns a model's state under an artifact's names, and the other names that share a compressed weight.

    A table behind a weight has its tensors under the path of its module, as a compressed module does. The second
    result maps each sharing name to its weight, as "path.weight".
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
