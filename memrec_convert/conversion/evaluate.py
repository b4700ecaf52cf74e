"""`evaluate`: an artifact or a checkpoint measured on a log, by itself or beside its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from memrec_convert.artifact.reader import is_artifact, load, read_artifact
from memrec_convert.checkpoint import Facts, SourceModel, read_facts
from memrec_convert.clicklog import LogDigest, refuse_leak
from memrec_convert.conversion.inputs.from_checkpoint import (
    LogBatches,
    LogChoices,
    LogPaths,
    facts_of,
    make_schema,
    open_batches,
    read_checked,
    run_on_batch,
    settle_stated,
)
from memrec_convert.conversion.inputs.readings import try_readings, warn_of_auc
from memrec_convert.conversion.measuring.ablation import ablate
from memrec_convert.conversion.measuring.figures import report_ablation, report_deciles, report_groups
from memrec_convert.conversion.measuring.judging import (
    ONE_CLASS_WARNING,
    compare_figures,
    read_groups,
    read_labels,
    torch_threads,
    write_scores,
)
from memrec_convert.conversion.options import Options
from memrec_convert.errors import ArtifactError, LogError, ModelError
from memrec_convert.evaluation.delong import compare_auc
from memrec_convert.evaluation.groups import compare_groups
from memrec_convert.evaluation.metrics import measure
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.models import build_original
from memrec_convert.report import to_plain
from memrec_convert.safe_files import check_target


def evaluate(
    path: str | Path,
    eval: LogPaths,
    *,
    against: str | Path | None = None,
    scores: str | Path | None = None,
    columns: dict[str, str] | None = None,
    oov: str | None = None,
    id_map: str | Path | None = None,
    modulus: int | None = None,
    pairs: str | None = None,
    dense_transform: str | None = None,
    qr_operation: str | None = None,
    field_sizes: Sequence[int] | None = None,
    table_order: Sequence[str] | None = None,
    interaction: str | None = None,
    pooling: str | None = None,
    assume: Mapping[str, str] | None = None,
    group: str | None = None,
    ablation: bool = False,
    batch_size: int = 4096,
    threads: int = 0,
    force: bool = False,
) -> dict[str, Any]:
    """Measures an artifact (or a checkpoint) on a log: {"artifact", "samples", "auc", "log_loss", ..., "warnings"}.

    `against` measures the original on the same rows: each figure is then {"before", "after", "delta"}, the AUC with its
    interval and verdict. `scores` writes the logits (float32 .npy), those of `load()` at this batch size and number of
    threads. `group` is the log's column that says which rows belong together: GAUC, and with `against` a bootstrap over
    groups. `ablation` measures the original with each replaced table alone compressed.
    ProfileLeakError where the log is one that the artifact's profile was taken from.
    """
    path = Path(path)
    Options(batch_size=batch_size, threads=threads)  # refuses what convert would refuse
    if scores is not None:
        check_target(Path(scores), force=force)
    given = {
        "pairs": pairs,
        "dense_transform": dense_transform,
        "qr_operation": qr_operation,
        "field_sizes": field_sizes,
        "table_order": table_order,
        "interaction": interaction,
        "pooling": pooling,
    }
    stated = settle_stated(given, assume)
    if ablation and against is None:
        raise LogError("--ablation puts single tables into the original, and there is none; add --against.")
    measured = _open_artifact(path, stated) if is_artifact(path) else _open_checkpoint(path, stated)
    choices = LogChoices(
        columns or {},
        oov or measured.oov,
        stated.get("dense_transform"),
        Path(id_map) if id_map else None,
        modulus,
        facts_of(stated),
    )
    schema = replace(make_schema(measured.architecture, measured.names, choices), group=group)
    batches = open_batches(eval, schema, batch_size)
    _refuse_profiled(measured.profile, batches.log.digest())
    needs_labels = against is not None or group is not None
    labels = read_labels(batches) if batches.has_labels or needs_labels else None  # refuses where they are needed
    with torch_threads(threads):
        logits = score_batches(measured.model, batches.stream(), run_on_batch)
    result: dict[str, Any] = {
        "artifact": {"path": str(path), "bytes": measured.nbytes},
        "samples": len(logits),
        "warnings": [],
    }
    if scores is not None:
        write_scores(Path(scores), logits)
        result["scores"] = str(scores)
    groups = read_groups(batches)
    if labels is not None:
        result |= measure(labels, logits).to_json()
        if result["auc"] is None:
            result["warnings"].append(ONE_CLASS_WARNING)
        if measured.source is not None:
            result |= _tell_doubts(measured.source, choices, stated.get("pairs"), batches, result)
        if groups is not None and against is None:
            result["groups"] = _measure_groups(labels, logits, groups, batches)
    if against is not None and labels is not None:
        known_facts = {"pairs": measured.pairs, **measured.facts.to_json()}
        original = _open_checkpoint(Path(against), {**known_facts, **stated})
        _refuse_other_tables(path, measured, original, Path(against))
        known = labels, logits, groups
        with torch_threads(threads):
            result |= _compare_with(original.model, measured.model, batches, known, ablation=ablation)
        result["against"] = str(against)
    return result


def _measure_groups(
    labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, batches: LogBatches
) -> dict[str, Any] | None:
    """GAUC of a model alone, and what it covers."""
    found = compare_groups(labels, logits, logits, groups, resamples=1)
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
    original: nn.Module,
    model: nn.Module,
    batches: LogBatches,
    known: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    *,
    ablation: bool,
) -> dict[str, Any]:
    """What a comparison with the original adds; `known` are the labels, the model's logits and the groups."""
    labels, logits, groups = known
    before = score_batches(original, batches.stream(), run_on_batch)
    metrics = measure(labels, before), measure(labels, logits)
    found = compare_figures(*metrics, compare_auc(labels, before, logits))
    found["deciles"] = to_plain(report_deciles(*metrics))
    if groups is not None:
        compared = compare_groups(labels, before, logits, groups)
        found["groups"] = None if compared is None else to_plain(report_groups(compared, str(batches.log.group_column)))
    if ablation:
        found["ablation"] = to_plain(report_ablation(ablate(original, model, batches, labels, before)))
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

    @property
    def pairs(self) -> str | None:
        """The order of pairs, which may have been stated at conversion and then holds for the original too."""
        return str(self.architecture["pairs"]) if self.architecture["interaction"] == "dot" else None

    @property
    def facts(self) -> Facts:
        """What was stated of the checkpoint at conversion."""
        return read_facts(self.architecture)


def _open_artifact(path: Path, stated: Mapping[str, Any]) -> _Measured:
    metadata = read_artifact(path).metadata
    if metadata.architecture is None:
        raise ArtifactError(
            f"{path} holds a model of its own class: load it with load(path, into=model) and measure it there."
        )
    if metadata.architecture.get("name") == "tables":
        raise ArtifactError(f"{path} holds tables alone, which give no logits to measure; check it with verify.")
    known, transform = metadata.architecture.get("dense_transform", "log1p"), stated.get("dense_transform", None)
    if transform not in (None, known):
        raise ModelError(
            f"{path} was converted for dense values as {known}, and {transform} was stated; leave that out, or convert "
            "the checkpoint anew."
        )
    model = load(path)
    if not metadata.modules:  # the sample-pooled model has no table of its own left
        names = tuple(str(number) for number in range(len(metadata.architecture["tables"])))
        return _Measured(model, metadata.architecture, names, path.stat().st_size, profile=metadata.profile)
    tables = [metadata.modules[f"tables.{number}"] for number in range(len(metadata.modules))]
    names = tuple(str(table["name"]) for table in tables)
    return _Measured(model, metadata.architecture, names, path.stat().st_size, str(tables[0]["oov"]), metadata.profile)


def _open_checkpoint(path: Path, stated: Mapping[str, Any]) -> _Measured:
    source = read_checked(
        path, pairs=stated.get("pairs"), dense_transform=stated.get("dense_transform"), facts=facts_of(stated)
    )
    names = tuple(table.name for table in source.tables)
    return _Measured(build_original(source), source.architecture, names, source.file_bytes, source=source)


def _tell_doubts(
    source: SourceModel, choices: LogChoices, pairs: str | None, batches: LogBatches, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """What was assumed of a checkpoint, and warnings where its figures cast doubt on that."""
    warnings = [*measured["warnings"], *warn_of_auc(source, measured["auc"], batches.log.paths[0].name)]
    paths, size = batches.log.paths, batches.batch_size
    tried = try_readings(source, choices, pairs, paths, batch_size=size, workers=1)
    assumed = list(source.assumed)
    if tried is not None and tried.better is not None:
        warnings.append(tried.better.describe(source, tried.samples, tried.log))
    elif tried is not None and tried.note:
        assumed.append(tried.note)
    return {"assumed": assumed, "warnings": warnings}


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
