"""The subject of a conversion, made from a live nn.Module and its owner's batches."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from memrec_convert.artifact.writer import storage_key
from memrec_convert.conversion.inputs.batches import (
    FLOATING,
    LoaderBatches,
    count_rows,
    refuse_answer,
    refuse_missing,
    refuse_probabilities,
    wrap_loss,
)
from memrec_convert.conversion.inputs.finite_rows import find_nonfinite_rows, refuse_nonfinite
from memrec_convert.conversion.inputs.lookups import LookupPoint, WatchedLookups, count_lookups
from memrec_convert.conversion.inputs.subject import BatchSource, Subject, TableSite
from memrec_convert.distill.rows import RowReader, TensorRows
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.errors import COMMON_FAILURES, ModelError
from memrec_convert.evaluation.goal import CLICKS, Goal
from memrec_convert.evaluation.objectives import OwnLoss, tidy
from memrec_convert.evaluation.scoring import Forward
from memrec_convert.lookup import CompressedTable, CompressedWeight, is_plain, own_state, refuse_other_state
from memrec_convert.lookup.copying import copy_model, list_given, warn_of_captured

WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
"""torch's own wrappers by the attribute that holds the model."""
NORM_ALLOWANCE = 1e-3
"""Relative excess over max_norm that a row may have, because 16-bit rounding can cause it."""
_OWN_STATE = ("_parameters", "_buffers", "_modules")

Table = nn.Embedding | nn.EmbeddingBag


def unwrap(model: Any) -> tuple[nn.Module, str]:  # noqa: ANN401 - whatever the caller gave
    """Returns the module inside torch's wrappers, and their prefix; ModelError if `model` is not a live module."""
    if not isinstance(model, nn.Module):
        hint = "load it into an instance of your class first" if isinstance(model, Mapping) else "pass the live model"
        way = "; for a file, use convert(path, budget)" if not isinstance(model, Mapping) else ""
        raise ModelError(f"the model is a {type(model).__name__}, but a torch.nn.Module is needed: {hint}{way}.")
    prefix = ""
    while type(model).__name__ in WRAPPERS and type(model).__module__.startswith("torch."):
        inside = WRAPPERS[type(model).__name__]
        model, prefix = getattr(model, inside), f"{prefix}{inside}."
    return model, prefix


def make_subject(
    model: nn.Module,
    *,
    forward: Forward,
    train: BatchSource | None,
    hold_out: BatchSource | None,
    optimizer: torch.optim.Optimizer | None,
    allow_nonfinite: bool,
    keep: Sequence[str] = (),
    share: bool = False,
    goal: Goal = CLICKS,
) -> tuple[Subject, tuple[str, ...]]:
    """Returns the subject and warnings. The model does not change: all reading uses a copy in eval mode.

    keep   paths of tables that stay uncompressed
    share  share with the copy the parts of the model that cannot be copied

    ModelError if there is no embedding table, or a table that cannot be compressed.
    """
    _refuse_unfit(model)
    states = _find_states(model, optimizer)
    groups = _group_paths(model, _check_kept(model, keep))
    twin, uncopied = _copy_for_reading(model, share=share)
    parameters = dict(model.named_parameters())
    given: dict[int, tuple[str, ReferenceType[Tensor]]] = {
        one: (name, ref(parameters[name])) for one, name in list_given(model, twin).items()
    }
    warnings = warn_of_captured(model, twin, inplace=share)
    sites, points = [], dict[int, LookupPoint]()
    for names, paths in groups.items():
        weight = twin.get_parameter(names[0])
        for name in names[1:]:  # one object again, where the original has several over one memory
            holder, _, own = name.rpartition(".")
            setattr(twin.get_submodule(holder), own, weight)
        reader, note = _make_reader(paths[0], weight, allow_nonfinite=allow_nonfinite)
        warnings += [note] if note else []
        point = points[id(weight)] = LookupPoint().eval()
        sites.append(_make_site(model, names, paths, point, reader, states))
    if not sites:
        raise ModelError(
            f"{type(model).__name__} has no nn.EmbeddingBag or nn.Embedding, so there is no table to compress."
        )
    shapes, aliases = _describe_dense(twin, sites)

    watch = partial(_watch, twin, points, {} if share else given)
    subject = Subject(
        twin, tuple(sites), watch(forward), shapes, None, aliases, train, hold_out, uncopied=uncopied, goal=goal
    )
    subject = replace(subject, goal=wrap_loss(goal, watch))
    counted = [None if one is None else count_lookups(subject, one) for one in (train, hold_out)]
    return replace(subject, counts=counted[0]), tuple(warnings)


def _watch(
    twin: nn.Module,
    points: Mapping[int, LookupPoint],
    given: Mapping[int, tuple[str, ReferenceType[Tensor]]],
    call: Forward,
) -> Forward:
    """The caller's function of a model and a batch, whose lookups in `twin` run through the points."""

    def run(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
        if model is not twin or not any(point.is_watched for point in points.values()):
            return call(model, batch)
        with WatchedLookups(points, given):
            return call(model, batch)

    return run


def _refuse_unfit(model: nn.Module) -> None:
    if isinstance(model, Table):
        raise ModelError(f"the model is itself one {type(model).__name__}; pass the module that contains it.")
    for path, module in model.named_modules():
        _refuse_names(model, path, module)
        weight = module._parameters.get("weight")
        if isinstance(module, CompressedTable) or isinstance(weight, CompressedWeight):
            raise ModelError(f"{type(model).__name__} > {path} is compressed already; pass the original model.")
    refuse_other_state(model)
    for name, value in own_state(model).items():
        where = f"{type(model).__name__} > {name}"
        if is_lazy(value):
            raise ModelError(f"{where} has no shape yet; call the model once first.")
        if value.is_meta:
            raise ModelError(f"{where} is on the meta device and has no data; load its weights first.")
        if value.layout != torch.strided or type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            kind = str(value.layout) if value.layout != torch.strided else type(value).__name__
            raise ModelError(f"{where} is no plain tensor ({kind}); an artifact stores only plain tensors.")


def _refuse_names(model: nn.Module, path: str, module: nn.Module) -> None:
    """ModelError for a module that TorchScript holds, and for names that no file can hold."""
    where = f"{type(model).__name__} > {path or 'the model'}"
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"{where} is compiled by TorchScript; pass the Python module that it was made from.")
    names = (*module._parameters, *module._buffers, *module._modules)
    for name in names:
        if "." in name or name != name.encode(errors="ignore").decode():
            raise ModelError(f"{where} has a part named {name!r}; expected Unicode without dots.")
    for name in names if isinstance(module, Table) else ():
        if name in ("base", "codebook", "frame", "group", "rows", "scale") or name.startswith(("level0_", "level1_")):
            raise ModelError(f"{where}.{name} is the name of a part of the compressed table there; rename it.")


def _check_kept(model: nn.Module, keep: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths to keep; ModelError for a path without a table."""
    tables = [path for path, module in model.named_modules(remove_duplicate=False) if isinstance(module, Table)]
    for path in keep:
        if not any(f"{table}.".startswith(f"{path}.") for table in tables):
            near = get_close_matches(path, tables, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(tables[:5]) or 'none'}."
            raise ModelError(f"keep names {path!r}, but {type(model).__name__} has no table there{hint}")
    return tuple(keep)


def _copy_for_reading(model: nn.Module, *, share: bool) -> tuple[nn.Module, tuple[object, ...]]:
    """A copy in eval mode on the CPU, and what it shares with the model. Lookups change none of its rows."""
    uncopied = tuple(_find_uncopied(model)) if share else ()
    twin = copy_model(model, {id(one): one for one in uncopied}).to("cpu").eval()
    for module in twin.modules():
        if isinstance(module, Table):
            module.max_norm = None
    return twin, uncopied


def _find_uncopied(model: nn.Module) -> Iterator[object]:
    """Attributes of a model's modules that cannot be copied."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _OWN_STATE:
                continue
            try:
                copy.deepcopy(value)
            except COMMON_FAILURES:
                yield value


def _group_paths(model: nn.Module, keep: Collection[str]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Per table the names of the parameters that show its rows, those of embedding modules first, and the modules."""
    tables: dict[tuple[object, ...], list[str]] = {}
    shown: dict[tuple[object, ...], list[str]] = {}
    left = set()
    for path, module in model.named_modules(remove_duplicate=False):
        is_kept = any(f"{path}.".startswith(f"{one}.") for one in keep)
        if isinstance(module, Table) and is_kept:
            left |= {storage_key(parameter) for parameter in module._parameters.values() if parameter is not None}
        elif isinstance(module, Table):
            _refuse_weight(path, module)
            if module.weight.numel():
                tables.setdefault(storage_key(module.weight), []).append(path)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.numel():
                shown.setdefault(storage_key(parameter), []).append(f"{path}.{name}" if path else name)
    groups = {}
    for key, paths in tables.items():
        if key in left:  # tied to one that is kept
            continue
        first = [f"{path}.weight" for path in paths]
        others = [name for name in shown[key] if name not in first]
        groups[tuple(first + others)] = tuple(paths)
    return groups


def _refuse_weight(path: str, module: Table) -> None:
    """ModelError for a module whose weight is computed, or of a kind that has no compressed form."""
    problem = ""
    weight: Any = module._parameters.get("weight")
    if parametrize.is_parametrized(module) or weight is None:
        problem = "computes its weight (parametrised, pruned or normalised); make it a plain parameter first"
    elif id(weight) != id(getattr(module, "weight", None)):
        problem = "computes its weight in a way of its own; make it plain first"
    elif weight.dim() != 2:
        problem = f"has a weight of {weight.dim()} dimensions, expected 2"
    elif weight.dtype not in FLOATING:
        problem = f"has a weight of {weight.dtype}, expected a floating-point type of 16 to 64 bits"
    elif getattr(module, "mode", "") == "max":
        problem = "pools with max, which a sum of tokens cannot represent; use sum or mean"
    elif module.max_norm is not None:
        norms = weight.detach().norm(p=module.norm_type, dim=1)
        longer = int((norms > module.max_norm * (1 + NORM_ALLOWANCE)).sum())
        if longer:
            problem = (
                f"would still shorten {longer:,} rows at their first lookup (max_norm {module.max_norm:g}); rescale "
                "them first, such as by looking up every id once"
            )
    if problem:
        raise ModelError(f"{path} {problem}, or exclude it with keep=[{path!r}].")


def _make_site(
    model: nn.Module,
    names: tuple[str, ...],
    paths: tuple[str, ...],
    point: LookupPoint,
    reader: RowReader,
    states: Mapping[int, Tensor],
) -> TableSite:
    """The site of one table. A table that is used in several ways is described as rows, and each module pools them."""
    modules: list[Any] = [model.get_submodule(path) for path in paths]
    weight, uses = modules[0].weight, {describe_use(module) for module in modules}
    use: dict[str, Any] = {"pooling": "", "include_last_offset": False, "padding_idx": None}
    if len(uses) == 1 and isinstance(modules[0], nn.EmbeddingBag):
        use["pooling"], use["include_last_offset"], use["padding_idx"] = next(iter(uses))[1:]
    elif len(uses) == 1 and modules[0].padding_idx is not None and not bool(weight[modules[0].padding_idx].any()):
        use["padding_idx"] = modules[0].padding_idx  # an nn.Embedding reads that row like any other, unless it is zero
    state = next((states[id(module.weight)] for module in modules if id(module.weight) in states), None)
    return TableSite(
        name=paths[0],
        paths=paths,
        module=point,
        reader=reader,
        nbytes=weight.numel() * weight.element_size(),
        dtype=str(weight.dtype).removeprefix("torch."),
        optimizer=None if state is None else TensorRows(state),
        weights=names,
        borrowed=_is_borrowed(model, weight),
        kept_module=len(uses) > 1 or not all(map(is_plain, modules)),
        **use,
    )


def describe_use(module: Any) -> tuple[Any, ...]:  # noqa: ANN401 - either kind of table
    """Describes how a module uses its rows: whether it pools, and how."""
    pools = isinstance(module, nn.EmbeddingBag)
    return pools, module.mode if pools else "", pools and module.include_last_offset, module.padding_idx


def _is_borrowed(model: nn.Module, weight: Tensor) -> bool:
    """Whether a larger table's memory holds all of this weight."""
    start, stop = _span(weight)
    for module in model.modules():
        if isinstance(module, Table) and isinstance(other := module._parameters.get("weight"), Tensor):
            first, last = _span(other)
            if first <= start and stop <= last and last - first > stop - start:
                return True
    return False


def _span(tensor: Tensor) -> tuple[int, int]:
    """First and last address of a tensor."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def _make_reader(path: str, weight: Tensor, *, allow_nonfinite: bool) -> tuple[RowReader, str]:
    reader = TensorRows(weight)
    count, first = find_nonfinite_rows(reader, path)
    if not count:
        return reader, ""
    if weight.dtype is torch.float64 and bool((weight.isfinite() & ~weight.float().isfinite()).any()):
        raise ModelError(
            f"{path} holds numbers beyond the range of float32, which tables decode to; leave it with keep=."
        )
    if not allow_nonfinite:
        raise refuse_nonfinite(path, count, first)
    with torch.no_grad():
        weight.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return reader, f"{path}: {count} rows have NaN or infinite values, which are read as zeros (first: {first})"


def _find_states(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[int, Tensor]:
    """Adagrad's accumulated squares by the id of the parameter."""
    if optimizer is None:
        return {}
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ModelError(
            f"optimizer is a {type(optimizer).__name__}; expected the torch.optim.Adagrad that trained the model."
        )
    state = optimizer.state
    return {
        id(p): state[p]["sum"] for p in model.parameters() if p in state and isinstance(state[p].get("sum"), Tensor)
    }


def _describe_dense(model: nn.Module, sites: Sequence[TableSite]) -> tuple[TensorShapes, dict[str, str]]:
    """Returns the shapes of all other tensors, and the names that share one of them or a table's rows."""
    shapes: TensorShapes = {}
    aliases = {name: f"{site.paths[0]}.weight" for site in sites for name in site.weights[len(site.paths) :]}
    tables = {name for site in sites for name in site.weights}
    first_name: dict[tuple[object, ...], str] = {}
    for name, tensor in own_state(model).items():
        if name in tables:
            continue
        key = storage_key(tensor)
        if tensor.numel() and key in first_name:
            aliases[name] = first_name[key]
        else:
            first_name[key] = name
            shapes[name] = (tensor.dtype, tuple(tensor.shape))
    return shapes, aliases


def check_answers(subject: Subject, outputs: str, *more: BatchSource | None) -> None:
    """Raises an error if the first batches do not give logits (ModelError) or one label per logit (LogError).

    more   sources to check besides the subject's own
    """
    objective = subject.goal.objective
    for source in (subject.train, subject.hold_out, *more):
        if not isinstance(source, LoaderBatches):
            continue
        batch = next(source.stream(limit=1))
        logits = subject.forward(subject.model, batch)
        refuse_answer(logits, count_rows(batch), wide=objective.wide)
        if outputs == "auto" and not objective.wide:
            refuse_probabilities(logits)
        if source.has_labels:
            objective.check_fit(source.labels_of(batch), logits, source.name)
        elif objective.wide:
            refuse_missing(logits, batch)
        if isinstance(objective, OwnLoss):
            objective.check_length(objective.run(subject.model, batch), count_rows(batch), len(tidy(logits)))
