"""`evaluate`: an artifact or a checkpoint measured on a log, by itself or beside its original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from typing_extensions import Unpack

from memrec_convert.artifact.reader import is_artifact, load, read_artifact
from memrec_convert.checkpoint import Facts, SourceModel, parse_assumed, read_facts
from memrec_convert.choices import Oov
from memrec_convert.clicklog import LogDigest, refuse_leak
from memrec_convert.conversion.inputs.from_checkpoint import (
    LogBatches,
    LogChoices,
    make_schema,
    open_batches,
    read_checked,
    read_choices,
    run_on_batch,
)
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.conversion.inputs.readings import try_readings, warn_of_auc
from memrec_convert.conversion.measuring.ablation import ablate
from memrec_convert.conversion.measuring.figures import compare_figures, report_ablation, report_groups
from memrec_convert.conversion.measuring.judging import (
    ONE_CLASS_WARNING,
    read_groups,
    read_labels,
    torch_threads,
    write_scores,
)
from memrec_convert.conversion.options import LogPaths, ReadingChoices, make_options
from memrec_convert.errors import ArtifactError, LogError, ModelError
from memrec_convert.evaluation.delong import compare_auc
from memrec_convert.evaluation.groups import compare_groups
from memrec_convert.evaluation.metrics import Decile, measure
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.models import build_original
from memrec_convert.remote import as_source
from memrec_convert.report import AblationReport, ArtifactFile, AucComparison, Comparison, DecileComparison, GroupReport
from memrec_convert.results import Result
from memrec_convert.safe_files import check_target


@dataclass(frozen=True)
class Evaluation(Result):
    """What was measured; None is what nobody asked for, or what the log does not define.

    With `against`, figures are comparisons of the original (before) and the artifact (after): those of a `Report`.
    Without it they are the artifact's own: numbers, its deciles, and its GAUC in `groups`.
    """

    artifact: ArtifactFile
    samples: int
    warnings: tuple[str, ...] = ()
    scores: str | None = None
    positives: int | None = None
    auc: AucComparison | float | None = None
    log_loss: Comparison | float | None = None
    normalized_entropy: Comparison | float | None = None
    calibration: Comparison | float | None = None
    deciles: DecileComparison | tuple[Decile, ...] | None = None
    groups: GroupReport | Mapping[str, Any] | None = None
    assumed: tuple[str, ...] = ()
    ablation: tuple[AblationReport, ...] | None = None
    against: str | None = None


@plain_torch()
def evaluate(
    path: str | Path,
    eval: LogPaths,
    *,
    against: str | Path | None = None,
    scores: str | Path | None = None,
    oov: Oov | None = None,
    group: str | None = None,
    ablation: bool = False,
    batch_size: int = 4096,
    threads: int = 0,
    force: bool = False,
    **reading: Unpack[ReadingChoices],
) -> Evaluation:
    """Measures an artifact (or a checkpoint) on a log.

    `against` measures the original on the same rows, the AUC with its interval and verdict. `scores` writes the logits
    (float32 .npy), those of `load()` at this batch size and number of threads. `group` is the log's column that says
    which rows belong together: GAUC, and with `against` a bootstrap over groups. `ablation` measures the original with
    each replaced table alone compressed. `reading` is as `ReadingChoices` says. ProfileLeakError where the log is one
    that the artifact's profile was taken from.
    """
    make_options({"batch_size": batch_size, "threads": threads})  # refuses what convert would refuse
    if scores is not None:
        check_target(Path(scores), force=force)
    choices = read_choices(reading, oov=oov or "error")
    if ablation and against is None:
        raise LogError("--ablation needs the original; add --against.")
    measured = open_measured(as_source(path), choices.facts)
    choices = replace(choices, oov=oov or measured.oov)
    schema = replace(make_schema(measured.architecture, measured.names, choices), group=group)
    batches = open_batches(eval, schema, batch_size)
    _refuse_profiled(measured.profile, batches.log.digest())
    needs_labels = against is not None or group is not None
    labels = read_labels(batches) if batches.has_labels or needs_labels else None  # refuses where they are needed
    with torch_threads(threads):
        logits = score_batches(measured.model, batches.stream(), run_on_batch)
    found = Evaluation(ArtifactFile(str(path), measured.nbytes), len(logits))
    if scores is not None:
        write_scores(Path(scores), logits)
        found = replace(found, scores=str(scores))
    if labels is None:
        return found
    groups = read_groups(batches)
    found = _measure_alone(found, measured, choices, batches, (labels, logits, None if against else groups))
    if against is None:
        return found
    stated = parse_assumed(reading.get("assume") or {}, read_facts(measured.architecture))
    original = _open_checkpoint(as_source(against), stated)
    _refuse_other_tables(as_source(path), measured, original, as_source(against))
    with torch_threads(threads):
        figures = _compare_with(original.model, measured.model, batches, (labels, logits, groups), ablation=ablation)
    return replace(found, **figures, against=str(against))


Known = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Labels and logits float32 [samples], and groups int64 [samples] where they were asked for."""


def _measure_alone(
    found: Evaluation, measured: _Measured, choices: LogChoices, batches: LogBatches, known: Known
) -> Evaluation:
    """`found` with one model's own figures, and the doubts that they cast on what was assumed of a checkpoint."""
    labels, logits, groups = known
    figures = measure(labels, logits)
    plain = {one.name: getattr(figures, one.name) for one in fields(figures)}
    warnings: tuple[str, ...] = () if figures.auc is not None else (ONE_CLASS_WARNING,)
    found = replace(found, **plain, warnings=warnings, groups=_measure_groups(labels, logits, groups, batches))
    if measured.source is None:
        return found
    source, paths, size = measured.source, batches.log.paths, batches.batch_size
    warnings += warn_of_auc(source, figures.auc, paths[0].name)
    assumed = source.assumed
    tried = try_readings(source, choices, paths, batch_size=size, workers=1)
    if tried is not None and tried.better is not None:
        warnings += (tried.better.describe(source, tried.samples, tried.log),)
    elif tried is not None and tried.note:
        assumed += (tried.note,)
    return replace(found, assumed=assumed, warnings=warnings)


def _measure_groups(
    labels: np.ndarray, logits: np.ndarray, groups: np.ndarray | None, batches: LogBatches
) -> dict[str, Any] | None:
    """GAUC of a model alone, and what it covers."""
    found = None if groups is None else compare_groups(labels, logits, logits, groups, resamples=1)
    if found is None:
        return None
    return {
        "column": batches.log.group_column,
        "groups": found.groups,
        "both_classes": found.both_classes,
        "covered": found.covered,
        "gauc": found.gauc_after,
    }


def _compare_with(
    original: nn.Module, model: nn.Module, batches: LogBatches, known: Known, *, ablation: bool
) -> dict[str, Any]:
    """The figures of an `Evaluation` beside the original's; `known` are those of the model."""
    labels, logits, groups = known
    before = score_batches(original, batches.stream(), run_on_batch)
    metrics = measure(labels, before), measure(labels, logits)
    found = compare_figures(*metrics, compare_auc(labels, before, logits))
    if groups is not None:
        compared = compare_groups(labels, before, logits, groups)
        found["groups"] = None if compared is None else report_groups(compared, str(batches.log.group_column))
    if ablation:
        found["ablation"] = report_ablation(ablate(original, model, batches, labels, before))
    return found


@dataclass(frozen=True)
class _Measured:
    """A model to measure, and what a log is read with for it."""

    model: nn.Module
    architecture: Mapping[str, Any]
    names: tuple[str, ...]
    nbytes: int
    oov: str = "error"
    profile: Mapping[str, Any] = field(default_factory=dict)
    source: SourceModel | None = None


def open_measured(path: Path, facts: Facts) -> _Measured:
    """An artifact or a checkpoint, opened to be measured; MemrecError for what gives no logits."""
    return _open_artifact(path, facts) if is_artifact(path) else _open_checkpoint(path, facts)


def _open_artifact(path: Path, facts: Facts) -> _Measured:
    metadata = read_artifact(path).metadata
    if metadata.architecture is None:
        raise ArtifactError(
            f"{path} holds a model of its own class: load it with load(path, into=model) and measure it there."
        )
    if metadata.architecture.get("name") == "tables":
        raise ArtifactError(f"{path} holds only tables, so there are no logits to measure; use verify instead.")
    known = metadata.architecture.get("dense_transform", "log1p")
    if facts.dense_transform not in (None, known):
        raise ModelError(
            f"{path} was converted for dense values as {known}, and {facts.dense_transform} was stated; leave that "
            "out, or convert the checkpoint anew."
        )
    model = load(path)
    if not metadata.modules:  # the sample-pooled model has no table of its own left
        names = tuple(str(number) for number in range(len(metadata.architecture["tables"])))
        return _Measured(model, metadata.architecture, names, path.stat().st_size, profile=metadata.profile)
    tables = [metadata.modules[f"tables.{number}"] for number in range(len(metadata.modules))]
    names = tuple(str(table["name"]) for table in tables)
    return _Measured(model, metadata.architecture, names, path.stat().st_size, str(tables[0]["oov"]), metadata.profile)


def _open_checkpoint(path: Path, facts: Facts) -> _Measured:
    source = read_checked(path, facts=facts)
    names = tuple(table.name for table in source.tables)
    return _Measured(build_original(source), source.architecture, names, source.file_bytes, source=source)


def _refuse_profiled(profile: Mapping[str, Any], digest: LogDigest) -> None:
    """ProfileLeakError for a log that the artifact's profile was taken from, whole or in part."""
    if profile.get("digest") == digest.combined:  # all that a profile of very many files remembers
        refuse_leak(digest, digest)
    if profile.get("files"):
        refuse_leak(LogDigest(str(profile["digest"]), tuple(profile["files"])), digest)


def _refuse_other_tables(path: Path, measured: _Measured, original: _Measured, against: Path) -> None:
    """ModelError where the two models do not read the same log."""
    found, expected = [
        ([list(shape) for shape in one.architecture["tables"]], one.architecture["bottom"][0])
        for one in (original, measured)
    ]
    if found != expected:
        raise ModelError(
            f"{path} was not made from {against}: their tables or dense inputs differ ({len(expected[0])} tables and "
            f"{expected[1]} inputs, {len(found[0])} and {found[1]}); give the checkpoint that it was made from."
        )
