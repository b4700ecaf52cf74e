"""What a conversion cost, measured: both models on the same rows of a log that neither fit nor plan has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.conversion.inputs.from_checkpoint import LogBatches, require_labels, run_on_batch
from memrec_convert.conversion.measuring.ablation import Ablation, ablate, replaced_tables
from memrec_convert.conversion.measuring.control import Control, ControlFigures, compare_control
from memrec_convert.conversion.measuring.figures import warn_of_groups
from memrec_convert.evaluation.delong import AucDifference, compare_auc
from memrec_convert.evaluation.groups import GroupComparison, compare_groups
from memrec_convert.evaluation.metrics import Metrics, measure
from memrec_convert.evaluation.scoring import Forward, score_batches
from memrec_convert.evaluation.slices import Slice, slice_by_form
from memrec_convert.models import ClickNetwork
from memrec_convert.safe_files import write_file

ONE_CLASS_WARNING = "the evaluation data holds one class only: AUC is not defined"


@dataclass(frozen=True)
class Judgement:
    """Figures of original and artifact on one log; `difference` is None where AUC is not defined.

    groups, ablation, control   None where nobody asked; `group_column` is the log's column that groups the rows
    """

    before: Metrics
    after: Metrics
    difference: AucDifference | None
    slices: tuple[Slice, ...]
    warnings: tuple[str, ...]
    groups: GroupComparison | None = None
    group_column: str | None = None
    ablation: tuple[Ablation, ...] | None = None
    control: ControlFigures | None = None


def judge(
    original: nn.Module,
    converted: nn.Module,
    batches: LogBatches,
    counts: Sequence[np.ndarray] | None,
    *,
    workers: int,
    ablation: bool = False,
    control: Control | None = None,
    seed: int = 0,
    forward: Forward = run_on_batch,
) -> Judgement:
    """Scores both models on the log; counts are the lookups of the training profile, for the unseen ids' slice.

    `ablation` scores every replaced table alone, `control` its two models too; `seed` is that of the resampled groups.
    """
    labels = read_labels(batches)
    before = score_batches(original, batches.stream(), forward, workers=workers)
    after = score_batches(converted, batches.stream(), forward, workers=workers)
    difference = compare_auc(labels, before, after)
    own = forward is not run_on_batch  # whose columns need not be its tables' ids
    slices = () if own else _slice(converted, batches, counts, labels, before, after)
    warnings = () if difference is not None else (ONE_CLASS_WARNING,)
    found = Judgement(measure(labels, before), measure(labels, after), difference, slices, warnings)
    groups = read_groups(batches)
    if groups is not None:
        compared = compare_groups(labels, before, after, groups, seed=seed, workers=workers)
        found = replace(found, groups=compared, group_column=batches.log.group_column)
    if ablation:
        found = replace(found, ablation=ablate(original, converted, batches, labels, before, workers=workers))
    if control is not None:
        found = replace(
            found, control=compare_control(control, batches, labels, before, after, workers=workers, forward=forward)
        )
    return replace(found, warnings=(*warnings, *warn_of_groups(found.groups)))


def read_labels(batches: LogBatches) -> np.ndarray:
    """Labels float32 [samples]; LogError for a log without labels."""
    require_labels(batches)
    return np.concatenate([batches.labels_of(batch).numpy() for batch in batches.stream()])


def read_groups(batches: LogBatches) -> np.ndarray | None:
    """Groups int64 [samples]; None where the log was opened without a group column."""
    if batches.log.group_column is None:
        return None
    return np.concatenate([batch.groups.numpy() for batch in batches.stream() if batch.groups is not None])


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads inside each torch operation; 0 leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_scores(path: Path, logits: np.ndarray) -> None:
    """Logits as a .npy file, atomically."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, logits)
    write_file(path, [buffer.getbuffer()])


def _slice(
    converted: nn.Module,
    batches: LogBatches,
    counts: Sequence[np.ndarray] | None,
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
) -> tuple[Slice, ...]:
    """Slices of the replaced tables; none for a log with several ids per feature, where a sample has many forms."""
    tables = list(replaced_tables(converted))
    inputs = converted.table_inputs if isinstance(converted, ClickNetwork) else None
    names = list(dict.fromkeys(name for _, module in tables for name in module.form_names()))
    forms: dict[str, list[np.ndarray]] = {module.name: [] for _, module in tables}
    unseen: dict[str, list[np.ndarray]] = {module.name: [] for _, module in tables}
    known = {number: module.forms_of_rows() for number, module in tables if module.spec.rows <= 4 * len(labels)}
    for batch in batches.stream():
        if not isinstance(batch.ids, Tensor):
            return ()
        for number, module in tables:
            ids = batch.ids[:, number if inputs is None else inputs[number]]
            own = np.array([names.index(name) for name in module.form_names()], dtype=np.int8)
            form = known[number][ids] if number in known else module.form_of(ids)
            forms[module.name].append(own[form.numpy()])
            if counts is not None:
                unseen[module.name].append(counts[number][ids.numpy()] == 0)
    joined = {name: np.concatenate(parts) for name, parts in forms.items()}
    flags = {name: np.concatenate(parts) for name, parts in unseen.items() if parts}
    return tuple(slice_by_form(labels, before, after, joined, names, unseen=flags))
