"""Compression of a live model: `compress` gives a smaller copy and its report, `save` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import KEPT_MODULE, collect_tensors, write_model
from memrec_convert.checkpoint import READINGS
from memrec_convert.conversion.inputs.batches import (
    call_with_batch,
    choose_forward,
    guard_forward,
    last_part,
    make_loader,
)
from memrec_convert.conversion.inputs.from_module import (
    check_answers,
    describe_use,
    make_subject,
    restore_norms,
    unwrap,
)
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.conversion.inputs.preparing import plain_options, resolve, stay_silent
from memrec_convert.conversion.inputs.stopwatch import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.measuring.reporting import make_report
from memrec_convert.conversion.shrink import shrink
from memrec_convert.errors import ModelError, OutputError, RecipeError
from memrec_convert.evaluation.scoring import Forward
from memrec_convert.lookup import CompressedTable, describe_module, hasten, is_plain, named_tables
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.recipe import Recipe
from memrec_convert.report import Report
from memrec_convert.safe_files import check_target
from memrec_convert.units import parse_budget


def compress(
    model: nn.Module,
    budget: str | int,
    *,
    batches: Iterable[Any] | None = None,
    val: Iterable[Any] | None = None,
    forward: Forward | None = None,
    labels: Callable[[Any], Tensor] | None = None,
    outputs: str = "auto",
    keep: Sequence[str] = (),
    inplace: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Progress = stay_silent,
    **choices: Any,  # noqa: ANN401 - fields of Options
) -> tuple[nn.Module, Report]:
    """A copy of the model, the weights of its nn.EmbeddingBag and nn.Embedding compressed, and the report of it.

    batches     training data, as often iterable as needed: counts the lookups, shows how sensitive the logits are, and
                teaches (with val); without it the weights come from `optimizer` (Adagrad) or from the rows themselves
    val         hold-out batches, held in memory: decides between plans; with it and `batches` the copy is fine-tuned
    forward     logits (one per sample) of a model on a batch; where it is not given model(*batch), or
                model(*batch[:-1]) where the last part is the label
    labels      labels float32 [rows] of a batch; with them the hold-out judges by AUC, else by divergence
    outputs     "logits" or "probabilities": what forward gives; "auto" takes logits and refuses what looks otherwise
    keep        paths of embedding modules, or of modules that hold them, whose tables stay as they are
    inplace     compress the given model itself; for models that cannot be copied
    choices     any field of Options: method, threshold, epochs, seed, ...

    Modules, their classes, hooks and attributes stay; of torch's wrappers, such as DataParallel, the model inside is
    taken. The budget counts the whole file that `save` writes, tensors of the rest of the model included. Unless
    `inplace`, the given model is left as it was. Raises a MemrecError.
    """
    watch = Stopwatch()
    _refuse_log_choices(choices)
    options, _, _ = resolve(Recipe(), choices)
    spending = parse_budget(budget)
    inner, prefix = unwrap(model)
    with watch.stage("read"), plain_torch() as as_called, single_threaded_torch():
        sources = [make_loader(batches, labels, "batches"), make_loader(val, labels, "val", hold=True)]
        given = [one for one in sources if one is not None]
        call, labelled = forward, False
        if call is None:
            call, labelled = choose_forward(inner, next(given[0].stream())) if given else (call_with_batch, False)
        if labelled and labels is None:
            sources = [None if one is None else replace(one, labels=last_part) for one in sources]
        train, hold_out = sources
        subject, warnings = make_subject(
            inner,
            forward=as_called(guard_forward(call, outputs)),
            train=train,
            hold_out=hold_out,
            optimizer=optimizer,
            allow_nonfinite=options.allow_nonfinite,
            keep=keep,
            share=inplace,
        )
        check_answers(subject, outputs)
        facts: dict[str, object] = {"digest": None, "files": [], "samples": 0}
        shrunk = shrink(subject, spending, options, profile=facts, progress=progress, watch=watch)
    report = make_report(
        subject,
        shrunk,
        path=None,
        nbytes=shrunk.chosen.nbytes,
        options=plain_options(options),
        judgement=None,
        source={"layout": type(inner).__name__, "container": "live module", "assumed": ()},
        evaluation=None,
        seconds=watch.rounded(),
        warnings=(*_warn_of_wrapper(model, prefix), *warnings, *shrunk.warnings),
    )
    small = _settle_in(inner, shrunk.model) if inplace else shrunk.model
    restore_norms(inner, small)
    setattr(small, METADATA_ATTRIBUTE, shrunk.metadata)
    return small, report


def _warn_of_wrapper(model: nn.Module, prefix: str) -> tuple[str, ...]:
    if not prefix:
        return ()
    return (f"the model inside {type(model).__name__} was compressed; its names have no prefix {prefix!r}",)


def _settle_in(model: nn.Module, small: nn.Module) -> nn.Module:
    """The given model with the parameters and buffers of its compressed copy."""
    for path, module in small.named_modules(remove_duplicate=False):
        target = model.get_submodule(path)
        target._parameters.update(module._parameters)
        target._buffers.update(module._buffers)
    hasten(model)
    return model.eval()


def _refuse_log_choices(choices: Mapping[str, Any]) -> None:
    """RecipeError for what would say how to read a click log: there is none."""
    for name in choices:
        if name in ("columns", "id_map", "modulus", "assume", *READINGS):
            raise RecipeError(f"the option {name!r} is for click logs; batches reach a live model as they are.")


def save(model: nn.Module, path: str | Path, *, force: bool = False) -> int:
    """Writes a model that `compress` or `load` gave; returns the file's bytes. Nothing is left behind by a failure.

    ModelError where the model has no compressed table; OutputError where the file cannot be written.
    """
    if not isinstance(path, str | Path):
        raise OutputError(f"the path is a {type(path).__name__}; give the name of the file to write.")
    path = Path(path)
    model, _ = unwrap(model)
    check_target(path, force=force)
    known = getattr(model, METADATA_ATTRIBUTE, None)
    modules = _describe_modules(model)
    if not modules:
        raise ModelError(
            f"{type(model).__name__} has no compressed table to save; give what compress() or load() returned."
        )
    if not isinstance(known, Metadata):
        plan = {"budget": "", "budget_bytes": 0, "method": "auto"}
        known = Metadata(modules={}, architecture=None, dense="fp32", profile={"weights": "unknown"}, plan=plan, seed=0)
    _, aliases = collect_tensors(model, dense=known.dense)
    nbytes = write_model(path, model, replace(known, modules=modules, aliases=aliases))
    read_artifact(path)  # which checks the digest of every tensor
    return nbytes


def _describe_modules(model: nn.Module) -> dict[str, dict[str, Any]]:
    paths: dict[int, list[str]] = {}
    tables = dict(named_tables(model))
    for path, table in tables.items():
        paths.setdefault(id(table), []).append(path)
    described: dict[str, dict[str, Any]] = {}
    for first, *others in paths.values():
        modules = [model.get_submodule(path) for path in (first, *others)]
        weights = [module for module in modules if not isinstance(module, CompressedTable)]
        alike = all(map(is_plain, weights)) and len(set(map(describe_use, weights))) < 2
        described[first] = describe_module(tables[first]) | ({} if alike else KEPT_MODULE)
        described |= {path: {"same_as": first} for path in others}
    return described
