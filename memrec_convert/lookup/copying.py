"""Copies of a user's own model, and what its attributes, containers and functions refer to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from memrec_convert.errors import COMMON_FAILURES, ModelError
from memrec_convert.lookup.in_place import has_place, own_state
from memrec_convert.lookup.weight import CompressedWeight

Put = Callable[[Any], None] | None
"""Puts another object where one was found; None where nothing can."""


def copy_model(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy; ModelError that names the way where one cannot be made, or shares modules with the original."""
    shared = {id(one) for one in memo.values()}
    try:
        copied: nn.Module = copy.deepcopy(model, memo)
    except COMMON_FAILURES as error:
        raise _refuse_copy(model, " ".join(str(error).split())[:200] or type(error).__name__) from error
    given = {id(one) for one in model.modules()} - shared
    same = [type(one).__name__ for one in copied.modules() if id(one) in given]
    if same:
        raise _refuse_copy(model, f"a deep copy of its {same[0]} is that object itself")
    return copied


def _refuse_copy(model: nn.Module, problem: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} cannot be copied ({problem}); give inplace=True, which changes the given model, or "
        "take out what cannot be copied."
    )


def remember_settings(model: nn.Module) -> Callable[[nn.Module], None]:
    """What gives a compressed model's modules the training flag, max_norm and requires_grad that these have now."""
    kept = [
        (
            path,
            {"training": module.training}
            | ({"max_norm": module.max_norm} if isinstance(module, nn.Embedding | nn.EmbeddingBag) else {}),
            {name: one.requires_grad for name, one in module._parameters.items() if one is not None},
        )
        for path, module in model.named_modules(remove_duplicate=False)
    ]

    def restore(small: nn.Module) -> None:
        for path, settings, gradients in kept:
            module = small.get_submodule(path)
            for name, value in settings.items():
                setattr(module, name, value)
            for name, wanted in gradients.items():
                parameter = module._parameters[name]
                if parameter is not None and not isinstance(parameter, CompressedWeight):
                    parameter.requires_grad_(wanted)

    return restore


def walk(root: object) -> Iterator[tuple[str, object, Put]]:
    """All that an object refers to by attributes, containers, closures and bound arguments: path, object, Put."""
    seen, waiting = {id(root): root}, [("", root)]
    while waiting:
        path, holder = waiting.pop()
        for name, value, put in _list_parts(holder):
            where = f"{path}{name}"
            yield where.removeprefix("."), value, put
            if id(value) not in seen and not isinstance(value, Tensor | type | ModuleType | str | bytes | int | float):
                seen[id(value)] = value
                waiting.append((where, value))


def _list_parts(holder: Any) -> Iterator[tuple[str, Any, Put]]:  # noqa: ANN401 - any object
    if isinstance(holder, dict):
        for key, value in list(holder.items()):
            yield f".{key}", value, partial(holder.__setitem__, key)
    elif isinstance(holder, list):
        for number, value in enumerate(holder):
            yield f"[{number}]", value, partial(holder.__setitem__, number)
    elif isinstance(holder, tuple | set | frozenset):
        yield from ((f"[{number}]", value, None) for number, value in enumerate(holder))
    elif isinstance(holder, MethodType):
        yield from (("", one, None) for one in (holder.__self__, holder.__func__))
    elif isinstance(holder, FunctionType):
        yield from _list_captured(holder)
    elif isinstance(holder, partial):
        yield from (("()", one, None) for one in (holder.func, holder.args, holder.keywords))
    elif isinstance(getattr(holder, "__dict__", None), dict):
        for name, value in list(vars(holder).items()):
            shown = "" if name in ("_parameters", "_buffers", "_modules") else f".{name}"
            yield shown, value, partial(vars(holder).__setitem__, name)


def _list_captured(function: FunctionType) -> Iterator[tuple[str, Any, Put]]:
    """What a function has from where it was made, and models and tensors that it knows as global names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".<closure>.{name}", cell.cell_contents, partial(_fill_cell, cell)
        except ValueError:  # not filled yet
            continue
    for part in (function.__defaults__, function.__kwdefaults__, function.__dict__):
        yield ".<defaults>", part, None
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Tensor | nn.Module):
            yield f".<global>.{name}", value, None


def _fill_cell(cell: CellType, value: object) -> None:
    cell.cell_contents = value


def replace_references(model: nn.Module, swaps: Mapping[int, tuple[Tensor, Tensor]]) -> None:
    """Puts new tensors wherever a model refers to old ones: (old, new) by the old one's id.

    ModelError, before anything is changed, for a place that cannot be written, and for a view of an old one's memory.
    """
    own = {id(tensor) for tensor in own_state(model).values()}
    places = {old.untyped_storage().data_ptr() for old, _ in swaps.values() if has_place(old)}
    found = []
    for path, value, put in walk(model):
        if not isinstance(value, Tensor):
            continue
        if id(value) in swaps:
            problem = "cannot be written" if put is None else ""
            found.append((put, swaps[id(value)][1]))
        else:
            is_other = has_place(value) and id(value) not in own
            is_view = is_other and value.untyped_storage().data_ptr() in places
            problem = "is a view of its memory" if is_view else ""
        if problem:
            raise ModelError(
                f"{type(model).__name__} > {path} refers to the weight of a table besides its module, and {problem}; "
                "read the weight from its module instead."
            )
    for put, new in found:
        assert put is not None
        put(new)


def list_given(model: nn.Module, twin: nn.Module) -> dict[int, str]:
    """Names of the given model's parameters that its copy has not, by id."""
    own = {id(one) for one in twin.parameters()}
    return {id(one): name for name, one in model.named_parameters() if id(one) not in own}


def warn_of_captured(model: nn.Module, twin: nn.Module, *, inplace: bool) -> list[str]:
    """What a copy reaches of the given model, by functions that hold on to it."""
    given = {id(one): name for name, one in model.named_modules()} | list_given(model, twin)
    for one in twin.modules():
        given.pop(id(one), None)
    found = {given[id(value)] or type(model).__name__: path for path, value, _ in walk(twin) if id(value) in given}
    way = "measuring sees it uncompressed" if inplace else "the copy reads it there, uncompressed; give inplace=True"
    return [f"{path} refers to {name} of the given model itself: {way}" for name, path in list(found.items())[:1]]
