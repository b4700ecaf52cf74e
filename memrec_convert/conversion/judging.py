"""What a conversion cost, measured: both models on the same rows of a log that neither fit nor plan has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.artifact.files import check_target, write_file
from memrec_convert.artifact.layout import METADATA_KEY
from memrec_convert.artifact.reader import load, read_artifact
from memrec_convert.checkpoint import Facts, read_facts, state_facts
from memrec_convert.clicklog import LogDigest, refuse_leak
from memrec_convert.conversion.from_checkpoint import (
    LogBatches,
    LogChoices,
    LogPaths,
    make_schema,
    open_batches,
    read_checked,
    run_on_batch,
)
from memrec_convert.conversion.options import Options
from memrec_convert.encoding import CompressedTable
from memrec_convert.errors import ArtifactError, LogError, ModelError
from memrec_convert.evaluation.delong import AucDifference, compare_auc
from memrec_convert.evaluation.metrics import Metrics, measure
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.evaluation.slices import Slice, slice_by_form
from memrec_convert.models import ClickNetwork, build_original

ONE_CLASS_WARNING = "the evaluation data holds one class only: AUC is not defined"


@dataclass(frozen=True)
class Judgement:
    """Figures of original and artifact on one log; `difference` is None where AUC is not defined."""

    before: Metrics
    after: Metrics
    difference: AucDifference | None
    slices: tuple[Slice, ...]
    warnings: tuple[str, ...]


def judge(
    original: nn.Module, converted: nn.Module, batches: LogBatches, counts: Sequence[np.ndarray] | None, *, workers: int
) -> Judgement:
    """Scores both models on the log; counts are the lookups of the training profile, for the unseen ids' slice."""
    labels = read_labels(batches)
    before = score_batches(original, batches.stream(), run_on_batch, workers=workers)
    after = score_batches(converted, batches.stream(), run_on_batch, workers=workers)
    difference = compare_auc(labels, before, after)
    slices = _slice(converted, batches, counts, labels, before, after)
    warnings = () if difference is not None else (ONE_CLASS_WARNING,)
    return Judgement(measure(labels, before), measure(labels, after), difference, slices, warnings)


def read_labels(batches: LogBatches) -> np.ndarray:
    """Labels float32 [samples]; LogError for a log without labels."""
    require_labels(batches)
    return np.concatenate([batches.labels_of(batch).numpy() for batch in batches.stream()])


def require_labels(batches: LogBatches) -> None:
    """LogError for a log without labels."""
    if not batches.has_labels:
        raise LogError(f"the log {batches.log.paths[0]} has no label column, so nothing can be measured on it.")


def evaluate(
    path: str | Path, eval: LogPaths, *, against: str | Path | None = None, scores: str | Path | None = None,
    columns: dict[str, str] | None = None, oov: str | None = None, id_map: str | Path | None = None,
    modulus: int | None = None, pairs: str | None = None, qr_operation: str | None = None,
    field_sizes: Sequence[int] | None = None, table_order: Sequence[str] | None = None,
    batch_size: int = 4096, threads: int = 0, force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measures an artifact (or a checkpoint) on a log: {"artifact", "samples", "auc", "log_loss", ..., "warnings"}.

    `against` measures the original on the same rows: each figure is then {"before", "after", "delta"}, the AUC with its
    interval and verdict. `scores` writes the logits (float32 .npy), those of `load()` at this batch size and number of
    threads. ProfileLeakError where the log is one that the artifact's profile was taken from.
    """
    path = Path(path)
    Options(batch_size=batch_size, threads=threads)  # refuses what convert would refuse
    if scores is not None:
        check_target(Path(scores), force=force)
    facts = state_facts(qr_operation=qr_operation, field_sizes=field_sizes, table_order=table_order)
    measured = _open_artifact(path) if is_artifact(path) else _open_checkpoint(path, pairs, facts)
    choices = LogChoices(columns or {}, oov or measured.oov, None, Path(id_map) if id_map else None, modulus)
    batches = open_batches(eval, make_schema(measured.architecture, measured.names, choices), batch_size)
    _refuse_profiled(measured.profile, batches.log.digest())
    labels = read_labels(batches) if batches.has_labels else None
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
    if labels is not None:
        result |= measure(labels, logits).to_json()
        if result["auc"] is None:
            result["warnings"].append(ONE_CLASS_WARNING)
    if against is not None:
        if labels is None:
            labels = read_labels(batches)  # refuses
        stated = facts if facts.to_json() else measured.facts
        original = _open_checkpoint(Path(against), pairs or measured.pairs, stated)
        _refuse_other_tables(path, measured, original, Path(against))
        with torch_threads(threads):
            before = score_batches(original.model, batches.stream(), run_on_batch)
        result |= compare_figures(measure(labels, before), measure(labels, logits), compare_auc(labels, before, logits))
        result["against"] = str(against)
    return result


@dataclass(frozen=True)
class _Measured:
    """A model to measure, and what a log is read with for it."""

    model: nn.Module
    architecture: Mapping[str, Any]
    names: tuple[str, ...]
    nbytes: int
    oov: str = "error"
    profile: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> str | None:
        """The order of pairs, which may have been stated at conversion and then holds for the original too."""
        return str(self.architecture["pairs"]) if self.architecture["interaction"] == "dot" else None

    @property
    def facts(self) -> Facts:
        """What was stated of the checkpoint at conversion."""
        return read_facts(self.architecture)


def is_artifact(path: Path) -> bool:
    """Whether a file begins as this tool's artifacts do; whether it is sound is for its reader to say."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return False
    return f'"__metadata__":{{"{METADATA_KEY}"'.encode() in start


def _open_artifact(path: Path) -> _Measured:
    metadata = read_artifact(path).metadata
    if metadata.architecture is None:
        raise ArtifactError(
            f"{path} holds a model of its own class: load it with load(path, into=model) and measure it there."
        )
    model = load(path)
    tables = [metadata.modules[f"tables.{number}"] for number in range(len(metadata.modules))]
    names = tuple(str(table["name"]) for table in tables)
    return _Measured(
        model, metadata.architecture, names, path.stat().st_size, str(tables[0]["oov"]), metadata.profile
    )


def _open_checkpoint(path: Path, pairs: str | None, facts: Facts) -> _Measured:
    source = read_checked(path, pairs=pairs, dense_transform=None, facts=facts)
    names = tuple(table.name for table in source.tables)
    return _Measured(build_original(source), source.architecture, names, source.file_bytes)


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


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads inside each torch operation; 0 leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare_figures(before: Metrics, after: Metrics, difference: AucDifference | None) -> dict[str, Any]:
    """Both models' figures side by side, as a report's JSON has them."""
    figures: dict[str, Any] = {"auc": None}
    if difference is not None:
        figures["auc"] = {
            "before": difference.before, "after": difference.after, "delta": difference.delta,
            "ci95": list(difference.ci95), "verdict": difference.verdict,
        }  # fmt: skip
    for name in ("log_loss", "normalized_entropy", "calibration"):
        old, new = getattr(before, name), getattr(after, name)
        figures[name] = None if old is None or new is None else {"before": old, "after": new, "delta": new - old}
    return figures


def write_scores(path: Path, logits: np.ndarray) -> None:
    """Logits as a .npy file, atomically."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, logits)
    write_file(path, [buffer.getbuffer()])


def _slice(
    converted: nn.Module, batches: LogBatches, counts: Sequence[np.ndarray] | None, labels: np.ndarray,
    before: np.ndarray, after: np.ndarray,
) -> tuple[Slice, ...]:  # fmt: skip
    """Slices of the replaced tables; none for a log with several ids per feature, where a sample has many forms."""
    tables = [
        (number, module) for number, module in enumerate(converted.get_submodule("tables").children())
        if isinstance(module, CompressedTable) and module.spec.form == "replaced"
    ]  # fmt: skip
    inputs = converted.table_inputs if isinstance(converted, ClickNetwork) else None
    names = list(dict.fromkeys(name for _, module in tables for name in module.form_names()))
    forms: dict[str, list[np.ndarray]] = {module.name: [] for _, module in tables}
    unseen: dict[str, list[np.ndarray]] = {module.name: [] for _, module in tables}
    for batch in batches.stream():
        if not isinstance(batch.ids, Tensor):
            return ()
        for number, module in tables:
            ids = batch.ids[:, number if inputs is None else inputs[number]]
            own = np.array([names.index(name) for name in module.form_names()], dtype=np.int8)
            forms[module.name].append(own[module.form_of(ids).numpy()])
            if counts is not None:
                unseen[module.name].append(counts[number][ids.numpy()] == 0)
    joined = {name: np.concatenate(parts) for name, parts in forms.items()}
    flags = {name: np.concatenate(parts) for name, parts in unseen.items() if parts}
    return tuple(slice_by_form(labels, before, after, joined, names, unseen=flags))
