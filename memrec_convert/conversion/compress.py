"""Compression of a live model: `compress` returns a smaller copy and its report, `save` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import KEPT_MODULE, collect_tensors, write_model
from memrec_convert.conversion.gating import Bounds, shrink_within
from memrec_convert.conversion.inputs.batches import count_rows, guard_forward, guard_loss, open_loaders, wrap_loss
from memrec_convert.conversion.inputs.from_module import check_answers, describe_use, make_subject, unwrap
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.conversion.inputs.preparing import profile_facts, stay_silent
from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject
from memrec_convert.conversion.measuring.live import judge_live
from memrec_convert.conversion.measuring.precision import settle_dense
from memrec_convert.conversion.measuring.reporting import make_report
from memrec_convert.conversion.options import (
    InputChoices,
    LiveChoices,
    OptionChoices,
    Options,
    make_options,
    names_of,
    refuse_unknown,
)
from memrec_convert.conversion.steps.outcome import GateResult, Shrunk
from memrec_convert.errors import ModelError, OptionError, OutputError
from memrec_convert.evaluation.goal import Goal, choose_goal
from memrec_convert.evaluation.scoring import Forward
from memrec_convert.lookup import CompressedTable, describe_module, hasten, is_plain, named_tables, refuse_other_state
from memrec_convert.lookup.copying import remember_settings
from memrec_convert.parallel import plain_tensors, single_threaded_torch
from memrec_convert.report import Report
from memrec_convert.safe_files import as_path, check_target
from memrec_convert.units import parse_budget


def compress(
    model: nn.Module,
    budget: str | int | None = None,
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
    **choices: Unpack[LiveChoices],
) -> tuple[nn.Module, Report]:
    """Returns a copy of the model with compressed nn.EmbeddingBag and nn.Embedding weights, and a report.

    batches     training data, iterable several times: counts the lookups, measures how sensitive the logits are, and
                fine-tunes (with val); without it, row weights come from `optimizer` (Adagrad) or from the rows
    val         hold-out batches, kept in memory: decides between plans; with `batches`, the copy is fine-tuned
    forward     returns logits (one per sample) of a model on a batch; default: model(*batch), or
                model(*batch[:-1]) if the last part is the label. Other objectives take float [B] or [B, k]
    labels      returns labels float32 [rows] of a batch; with them the hold-out measures the metric, else divergence
    outputs     "logits" or "probabilities": what forward returns; "auto" expects logits and refuses other outputs
    keep        paths of embedding modules, or of modules that contain them, whose tables stay uncompressed
    inplace     compress the given model itself; for models that cannot be copied
    choices     `LiveChoices`: objective, metric, eval, max_drop, ...; any field of Options: method, epochs, seed, ...

    Modules keep their classes, hooks and attributes. A wrapper such as DataParallel is replaced by the model inside.
    The budget covers the whole file that `save` writes, including the model's other tensors. Unless `inplace` is set,
    the given model does not change. Raises a MemrecError.
    """
    watch, options, goal = Stopwatch(), *_read_choices(choices)
    bounds = _read_bounds(budget, goal, choices)
    inner, prefix = unwrap(model)
    of_batch: dict[str, Any] = {"forward": forward, "labels": labels, "groups": choices.get("groups")}
    keep = _check_arguments(keep, progress=progress, **of_batch)
    restore = remember_settings(inner)
    with watch.stage("read"), plain_torch() as as_called, single_threaded_torch():
        sources, call = open_loaders(inner, batches, val, choices.get("eval"), objective=goal.objective, **of_batch)
        subject, warnings = make_subject(
            inner,
            forward=as_called(guard_forward(call, outputs)),
            train=sources[0],
            hold_out=sources[1],
            optimizer=optimizer,
            allow_nonfinite=options.allow_nonfinite,
            keep=keep,
            share=inplace,
            goal=wrap_loss(goal, lambda own: as_called(guard_loss(own))),
        )
        check_answers(subject, outputs, sources[2])
        outcome = _run(subject, budget, settle_dense(subject, options), bounds, sources[2], progress, watch)
    small = _settle_in(inner, outcome.shrunk.model) if inplace else outcome.shrunk.model
    restore(small)
    setattr(small, METADATA_ATTRIBUTE, outcome.shrunk.metadata)
    warnings = (*_warn_of_wrapper(model, prefix), *warnings, *outcome.warnings)
    with plain_tensors():
        return small, _report(subject, outcome, inner, watch, warnings)


def _read_choices(choices: Any) -> tuple[Options, Goal]:  # noqa: ANN401 - whatever the caller gave by name
    for name in choices:
        if name in names_of(InputChoices) - names_of(OptionChoices):
            raise OptionError(f"the option {name!r} is for files; batches reach a live model as they are.")
    refuse_unknown(choices, LiveChoices)
    goal = choose_goal(choices.get("objective"), choices.get("metric"), choices.get("higher_is_better"))
    return make_options({name: one for name, one in choices.items() if name in names_of(OptionChoices)}), goal


def _read_bounds(budget: object, goal: Goal, choices: LiveChoices) -> Bounds:
    """What may be lost; OptionError where there is neither a budget nor a bound to search within."""
    bounds = Bounds(choices.get("max_drop"), choices.get("fail_if_worse_than"))
    if budget is None and bounds.search is None:
        raise OptionError("no budget was given; pass a size such as '48MB' or '100x', or max_drop.")
    if budget is not None:
        parse_budget(cast("str | int", budget))
    bounds.check(goal.metric)
    return bounds


def _check_arguments(keep: Any, **functions: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever the caller gave
    """The paths to keep; OptionError for arguments of another type than the documented one."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise OptionError(f"{name} is a {type(function).__name__}; expected a function.")
    if functions["progress"] is None:
        raise OptionError("progress is None; expected a function, or leave it out.")
    paths = (keep,) if isinstance(keep, str) else tuple(keep or ()) if isinstance(keep, Iterable | None) else (keep,)
    if not all(isinstance(path, str) for path in paths):
        raise OptionError(f"keep is {keep!s:.200}; expected a list of paths of modules.")
    return paths


@dataclass(frozen=True)
class _Outcome:
    """A conversion's end: the options that it came to, and what a report says of quality and of where that is from."""

    shrunk: Shrunk
    gate: GateResult | None
    options: Options
    figures: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def _run(
    subject: Subject,
    budget: str | int | None,
    options: Options,
    bounds: Bounds,
    judged: BatchSource | None,
    progress: Progress,
    watch: Stopwatch,
) -> _Outcome:
    """Measures on the evaluation data; without it, another goal than the AUC of clicks on a labelled hold-out."""
    facts = profile_facts(None)
    shrunk, gate = shrink_within(
        subject, budget, options, bounds, judged=judged, profile=facts, progress=progress, watch=watch
    )
    source, named = judged, "eval"
    if source is None and not subject.goal.is_plain and subject.hold_out is not None and subject.hold_out.has_labels:
        source, named = subject.hold_out, "val, which also chose the plan"
    if source is None:
        return _Outcome(shrunk, gate, options, warnings=shrunk.warnings)
    with watch.stage("evaluate"):
        figures, warnings = judge_live(subject, shrunk.model, source, workers=options.workers, seed=options.seed)
        samples = sum(count_rows(batch) for batch in source.stream())
    return _Outcome(shrunk, gate, options, figures, {"log": named, "samples": samples}, (*shrunk.warnings, *warnings))


def _report(
    subject: Subject, outcome: _Outcome, model: nn.Module, watch: Stopwatch, warnings: tuple[str, ...]
) -> Report:
    return make_report(
        subject,
        outcome.shrunk,
        path=None,
        nbytes=outcome.shrunk.chosen.nbytes,
        options=outcome.options.differing(),
        figures=outcome.figures,
        source={"layout": type(model).__name__, "container": "live module", "assumed": ()},
        evaluation=outcome.evaluation,
        watch=watch,
        warnings=warnings,
        gate=outcome.gate,
    )


def _warn_of_wrapper(model: nn.Module, prefix: str) -> tuple[str, ...]:
    if not prefix:
        return ()
    return (f"the model inside {type(model).__name__} was compressed; its names lack the prefix {prefix!r}",)


def _settle_in(model: nn.Module, small: nn.Module) -> nn.Module:
    """The given model with the parameters and buffers of its compressed copy."""
    for path, module in small.named_modules(remove_duplicate=False):
        target = model.get_submodule(path)
        target._parameters.update(module._parameters)
        target._buffers.update(module._buffers)
    hasten(model)
    return model


def save(model: nn.Module, path: str | Path, *, force: bool = False) -> int:
    """Writes a model that `compress` or `load` returned, and returns the file size in bytes. A failure leaves no file.

    ModelError if the model has no compressed table; OutputError if the file cannot be written.
    """
    path = as_path(path, OutputError)
    check_target(path, force=force)
    model, _ = unwrap(model)
    refuse_other_state(model)
    known = getattr(model, METADATA_ATTRIBUTE, None)
    modules = _describe_modules(model)
    if not modules:
        raise ModelError(
            f"{type(model).__name__} has no compressed table to save; pass what compress() or load() returned."
        )
    if not isinstance(known, Metadata):
        plan = {"budget": "", "budget_bytes": 0, "method": "auto"}
        known = Metadata(modules={}, architecture=None, dense="fp32", profile={"weights": "unknown"}, plan=plan, seed=0)
    _, aliases = collect_tensors(model, dense=known.dense)
    nbytes = write_model(path, model, replace(known, modules=modules, aliases=aliases))
    with plain_tensors():
        read_artifact(path)  # this checks the digest of every tensor
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
