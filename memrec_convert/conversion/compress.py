"""Compression of a live model: `compress` gives a smaller copy and its report, `save` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import collect_tensors, write_model
from memrec_convert.conversion.inputs.from_module import make_loader, make_subject
from memrec_convert.conversion.inputs.preparing import stay_silent
from memrec_convert.conversion.inputs.stopwatch import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.measuring.reporting import make_report
from memrec_convert.conversion.options import InputChoices, OptionChoices, make_options, names_of, refuse_unknown
from memrec_convert.conversion.shrink import shrink
from memrec_convert.errors import ModelError, OptionError
from memrec_convert.evaluation.scoring import Forward, check_logits
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag, describe_module
from memrec_convert.parallel import single_threaded_torch
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
    optimizer: torch.optim.Optimizer | None = None,
    progress: Progress = stay_silent,
    **choices: Unpack[OptionChoices],
) -> tuple[nn.Module, Report]:
    """A copy of the model whose nn.EmbeddingBag and nn.Embedding modules are compressed, and the report of it.

    batches     training data, as often iterable as needed: counts the lookups, shows how sensitive the logits are, and
                teaches (with val); without it the weights come from `optimizer` (Adagrad) or from the rows themselves
    val         hold-out batches, held in memory: decides between plans; with it and `batches` the copy is fine-tuned
    forward     logits (one per sample) of a model on a batch; model(*batch) where it is not given
    labels      labels float32 [rows] of a batch; with them the hold-out judges by AUC, else by divergence
    choices     any field of Options: method, threshold, epochs, seed, ...

    The budget counts the whole file that `save` writes, tensors of the rest of the model included. The given model is
    left as it was. Raises a MemrecError.
    """
    watch = Stopwatch()
    for name in choices:
        if name in names_of(InputChoices) - names_of(OptionChoices):
            raise OptionError(f"the option {name!r} is for files; batches reach a live model as they are.")
    refuse_unknown(choices, OptionChoices)
    options = make_options(choices)
    train, hold_out = make_loader(batches, labels, "batches"), make_loader(val, labels, "val", hold=True)
    with watch.stage("read"), single_threaded_torch():
        subject, warnings = make_subject(
            model,
            forward=forward,
            train=train,
            hold_out=hold_out,
            optimizer=optimizer,
            allow_nonfinite=options.allow_nonfinite,
        )
        for source in (subject.train, subject.hold_out):
            if source is not None:  # what forward gives is refused here, not after minutes of fitting
                check_logits(subject.model, source.stream(limit=1), subject.forward)
    facts: dict[str, object] = {"digest": None, "files": [], "samples": 0}
    shrunk = shrink(subject, parse_budget(budget), options, profile=facts, progress=progress, watch=watch)
    report = make_report(
        subject,
        shrunk,
        path=None,
        nbytes=shrunk.chosen.nbytes,
        options=options.differing(),
        judgement=None,
        source={"layout": type(model).__name__, "container": "live module", "assumed": ()},
        evaluation=None,
        seconds=watch.rounded(),
        warnings=(*warnings, *shrunk.warnings),
    )
    setattr(shrunk.model, METADATA_ATTRIBUTE, shrunk.metadata)
    return shrunk.model, report


def save(model: nn.Module, path: str | Path, *, force: bool = False) -> int:
    """Writes a model that `compress` or `load` gave; returns the file's bytes. Nothing is left behind by a failure.

    ModelError where the model has no compressed table; OutputError where the file cannot be written.
    """
    path = Path(path)
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
    described: dict[str, dict[str, Any]] = {}
    first_path: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CompressedEmbedding | CompressedEmbeddingBag):
            known = first_path.setdefault(id(module), path)
            described[path] = describe_module(module) if known == path else {"same_as": known}
    return described
