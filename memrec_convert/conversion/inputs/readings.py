"""Assumed facts, tried: whether a checkpoint scores better when it is read in another way than was assumed.

Evaluation data never chooses a reading. It can only show that the assumed one is doubtful, and then a person decides.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from memrec_convert.checkpoint import Assumption, SourceModel
from memrec_convert.clicklog import LogSchema
from memrec_convert.conversion.inputs.from_checkpoint import (
    LogBatches,
    LogChoices,
    make_schema,
    open_batches,
    read_stated,
    run_on_batch,
)
from memrec_convert.conversion.options import LogPaths
from memrec_convert.errors import CheckpointError, LogError, ModelError
from memrec_convert.evaluation.delong import AucDifference, compare_auc
from memrec_convert.evaluation.metrics import auc
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.models import build_original
from memrec_convert.parallel import single_threaded_torch

TRIED_SAMPLES = 8192
"""Samples on which readings are compared."""

FAR_BELOW = 0.02
"""An AUC this much below the one that training stored is worth a warning."""


@dataclass(frozen=True)
class Better:
    """Another value of an assumed fact, with which the original scores clearly better."""

    assumption: Assumption
    value: str
    difference: AucDifference

    def describe(self, source: SourceModel, samples: int, log: str) -> str:
        """What was found and how to accept it, in one sentence."""
        fact, taken, (low, high) = self.assumption.fact, self.assumption.taken, self.difference.ci95
        accept, keep = (shlex.quote(f"{fact}={value}") for value in (self.value, taken))
        return (
            f"{source.path}: with the assumed {fact}={taken}, the original has an AUC "
            f"of {self.difference.before:.4f} on {samples:,} samples of {log}, and with {fact}={self.value} one of "
            f"{self.difference.after:.4f} (95 % interval of the difference {low:+.4f} to {high:+.4f}); accept that "
            f"reading with --assume {accept}, or keep the assumed one with --assume {keep}."
        )


@dataclass(frozen=True)
class Tried:
    """auc: the original's on the sample, as it was read; better: the best reading that beats it, if any; note: what
    was tried, for the report.
    """

    auc: float | None
    better: Better | None
    samples: int
    log: str
    note: str


@dataclass(frozen=True)
class _Reading:
    """A checkpoint as it is read, its sample of the log, and its logits there."""

    source: SourceModel
    schema: LogSchema
    batches: list[Any]
    logits: np.ndarray


def try_readings(
    source: SourceModel, choices: LogChoices, paths: LogPaths, *, batch_size: int, workers: int
) -> Tried | None:
    """Scores the original under every value that an open fact of it may have; None where nothing is to be learnt.

    That is so without labels (of both classes, zeros and ones) and where the original's logits are no numbers. LogError
    where the log does not fit the checkpoint as it was read; a reading that it does not fit is not better.
    """
    held: dict[Any, nn.Module] = {}
    with single_threaded_torch():
        first = _read(source, choices, paths, batch_size, workers, held, None)
        name = open_batches(paths, first.schema, batch_size).log.paths[0].name
        labels = _read_labels(first.batches)
        if labels is None or not np.isfinite(first.logits).all():
            return None
        found: list[Better] = []
        # Sums and means of one id are the same.
        single = all(isinstance(batch.ids, Tensor) for batch in first.batches)
        tried = [one for one in source.open_facts if not (single and one.fact == "pooling")]
        for assumption in tried:
            for value in assumption.others:
                try:
                    other = read_stated(source, choices.facts, assumption.fact, value)
                    reading = _read(other, choices, paths, batch_size, workers, held, first)
                    difference = compare_auc(labels, first.logits, reading.logits)
                except (CheckpointError, LogError, ModelError):
                    continue  # a checkpoint or log that cannot be read so was not meant so
                # Between two readings that are no better than chance there is nothing to choose.
                if difference is not None and difference.verdict == "better" and difference.after > 0.5:
                    found.append(Better(assumption, value, difference))
    facts = ", ".join(assumption.fact for assumption in tried)
    note = f"other values of {facts} tried on {len(labels):,} samples of {name}: none scores clearly better"
    best = max(found, key=lambda one: one.difference.after, default=None)
    return Tried(auc(labels, first.logits), best, len(labels), name, note if facts else "")


def _read(
    source: SourceModel,
    choices: LogChoices,
    paths: LogPaths,
    batch_size: int,
    workers: int,
    held: dict[Any, nn.Module],
    first: _Reading | None,
) -> _Reading:
    """The logits of one reading; tables are shared with the others, and the sample where the same log is asked for."""
    schema = make_schema(source.architecture, [table.name for table in source.tables], choices)
    if first is not None and schema == first.schema:
        batches = first.batches
    else:
        batches = list(open_batches(paths, schema, batch_size).stream(limit=TRIED_SAMPLES))
    model = build_original(source, reused=held)
    return _Reading(source, schema, batches, score_batches(model, batches, run_on_batch, workers=workers))


def _read_labels(batches: list[Any]) -> np.ndarray | None:
    """Labels float32 [samples], if they are zeros and ones with both among them."""
    if any(batch.labels is None for batch in batches):
        return None
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    return labels if set(np.unique(labels)) == {0.0, 1.0} else None


def refuse_doubtful(
    source: SourceModel, choices: LogChoices, hold_out: LogBatches | None, judged: LogBatches | None, *, workers: int
) -> tuple[SourceModel, tuple[str, ...]]:
    """The source with a note of what was tried on the hold-out (else on the evaluation data), and warnings.

    CheckpointError where another reading of it scores clearly better there.
    """
    batches = hold_out or judged
    if batches is None or not batches.has_labels:
        return source, ()
    tried = try_readings(source, choices, batches.log.paths, batch_size=batches.batch_size, workers=workers)
    if tried is None:
        return source, ()
    if tried.better is not None:
        raise CheckpointError(tried.better.describe(source, tried.samples, tried.log))
    noted = replace(source, assumed=(*source.assumed, *([tried.note] if tried.note else [])))
    # The evaluation data is measured whole, later on; its sample would only say the same less surely.
    return noted, warn_of_auc(source, tried.auc, tried.log) if judged is None else ()


def warn_of_auc(source: SourceModel, found: float | None, log: str) -> tuple[str, ...]:
    """A warning where the original's AUC is far below the one that its training stored, if it stored one."""
    stored = source.stored_metrics.get("test_auc")
    if found is None or stored is None or not 0.5 < stored <= 1 or found >= stored - FAR_BELOW:
        return ()
    return (
        f"the original's AUC on {log} is {found:.4f}, more than {FAR_BELOW} below the test_auc of {stored:.4f} that "
        "its training stored (of its own evaluation data): check what is assumed, and that the log is of the same kind",
    )
