"""Which weights and metrics the fit uses: the best that the data at hand can give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memrec_convert.clicklog import Sensitivity
from memrec_convert.conversion.inputs.batches import count_rows
from memrec_convert.conversion.inputs.from_checkpoint import LogBatches
from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.distill.columns import Column, slices
from memrec_convert.distill.sensitivity import WatchedTable, mean_moment, measure_sensitivities, root_of, weigh_rows
from memrec_convert.distill.weights import (
    TableWeights,
    describe_fault,
    weigh_by_displacement,
    weigh_by_log,
    weigh_by_optimizer,
    weigh_uniformly,
)
from memrec_convert.errors import LogError, ModelError
from memrec_convert.evaluation.answers import PassOver
from memrec_convert.evaluation.objectives import BINARY, OwnLoss
from memrec_convert.models import ordered_products

SENSITIVITY_SAMPLES = 1 << 24
"""Samples of the training data, from its start, that sensitivities are measured on: more would tell little more."""

_MOST_NAMED = 3

NO_DATA_WARNING = (
    "no data and {}: rows are weighted by how far training moved them from their initial values, "
    "which is only a guess at how often they are read; give --data for a better file"
)


_MOSTLY, _FAR = 0.5, 10.0


def warn_of_untrained(name: str, weights: Column, centre: Tensor) -> tuple[str, ...]:
    """A warning where most rows of a table count nothing by displacement, and are read as something far from them."""
    rows, (dim,) = len(weights), centre.shape
    still = sum(int(np.count_nonzero(weights[part] == 0)) for part in slices(rows))
    ratio = float(centre.norm()) / (dim / (3 * rows)) ** 0.5
    if still < _MOSTLY * rows or ratio < _FAR:
        return ()
    return (
        f"{name}: {still:,} of {rows:,} rows are no longer than rows are before training, so they count nothing and "
        f"may be read as the mean of the others, which is {ratio:,.0f} times as long; if they matter, give --data or "
        "--counts, or choose --weights uniform",
    )


def choose_source(subject: Subject, wanted: str) -> tuple[str, str]:
    """log, optimizer, displacement or uniform, and why the optimizer's state is not used ("" where it has no fault).

    LogError where the wanted one is not to be had.
    """
    if wanted == "log" and subject.counts is None:
        raise LogError("weights from the log were asked for, and no training data was given; add --data.")
    if wanted not in ("auto", "optimizer") or (wanted == "auto" and subject.counts is not None):
        return "log" if wanted == "auto" else wanted, ""
    without = next((site.name for site in subject.sites if site.optimizer is None), None)
    if without is not None:
        fault = f"the checkpoint has no Adagrad state for table {without}"
    else:
        faults = [(site.name, describe_fault(site.optimizer)) for site in subject.sites if site.optimizer is not None]
        faulty = [f"the Adagrad state of table {name} {fault}" for name, fault in faults if fault]
        fault = ", ".join(faulty[:_MOST_NAMED]) + (
            f" and {len(faulty) - _MOST_NAMED} more" * (len(faulty) > _MOST_NAMED)
        )
    if fault and wanted == "optimizer":
        raise LogError(
            f"weights from the optimizer were asked for, and {fault}; give --data, or choose --weights displacement."
        )
    return ("displacement" if fault else "optimizer"), "" if without is not None else fault


def weigh_tables(subject: Subject, source: str, options: Options, progress: Progress) -> list[TableWeights]:
    """Row weights and metric of every table."""
    readers, scratch = [site.reader for site in subject.sites], subject.scratch
    if source == "optimizer":
        states = [site.optimizer for site in subject.sites if site.optimizer is not None]
        return weigh_by_optimizer(states, [site.dim for site in subject.sites], scratch=scratch)
    if source == "displacement":
        return weigh_by_displacement(readers, norms=[site.norms for site in subject.sites], scratch=scratch)
    if source == "uniform":
        return weigh_uniformly(readers, scratch=scratch)
    assert subject.counts is not None
    found = subject.felt
    if not found and subject.train is not None:
        train = subject.train

        def measure() -> tuple[Sensitivity, ...]:
            return tuple(_measure(subject, train, options, progress))

        found = subject.crew.decide("sensitivities", measure, (Sensitivity,))
        if subject.keep_felt is not None and subject.crew.leads:
            subject.keep_felt(found)
    weights = []
    for number, (count, site) in enumerate(zip(subject.counts, subject.sites, strict=True)):
        if not found or not found[number].lookups:  # how often is known, how sensitive is not
            weights.append(TableWeights(weigh_by_log(count, scratch=scratch), torch.eye(site.dim)))
            continue
        rows = weigh_by_log(count, weigh_rows(found[number], scratch=scratch), scratch=scratch)
        _refuse_steep(site.name, rows)
        weights.append(TableWeights(rows, root_of(mean_moment(found[number]))))
    return weights


def _refuse_steep(name: str, weights: Column) -> None:
    """ModelError for sensitivities that are no numbers of float32."""
    if not all(np.isfinite(weights[part]).all() for part in slices(len(weights))):
        raise ModelError(
            f"the outputs change so steeply with the rows of table {name} that squared gradients leave the range of "
            "float32; expected outputs of a trained model, such as logits; scale them down, or convert without --data."
        )


def watch_tables(subject: Subject) -> list[WatchedTable]:
    """The tables' modules, to look at what they give and what comes back to them."""
    return [WatchedTable(site.module, site.rows, site.pooling, site.padding_idx) for site in subject.sites]


def keeps_answers(subject: Subject) -> bool:
    """Whether the original's answers to all training samples are kept: a known network's clicks on a log, within what
    sensitivities are measured on. The count of samples may be another log's: a pass that is cut keeps nothing.
    """
    known = subject.architecture is not None and subject.goal.objective is BINARY
    return known and isinstance(subject.train, LogBatches) and 0 < subject.samples <= SENSITIVITY_SAMPLES


def _measure(subject: Subject, train: BatchSource, options: Options, progress: Progress) -> list[Sensitivity]:
    """The sensitivities of all tables and rows, from a pass over the training data; what is answered there is kept."""
    total = max(1, -(-min(subject.samples, SENSITIVITY_SAMPLES) // options.batch_size))

    def stream() -> Iterator[Any]:
        for number, batch in enumerate(train.stream(limit=SENSITIVITY_SAMPLES)):
            progress("sensitivities", min(number, total - 1), total)
            yield batch

    objective = subject.goal.objective

    def pull(outputs: Tensor, batch: Any, number: int) -> Tensor:  # noqa: ANN401 - what the loader yields
        if isinstance(objective, OwnLoss):  # the outputs are its losses, or their mean
            return torch.ones_like(outputs) * (count_rows(batch) if not outputs.dim() else 1)
        return objective.pull(outputs, train.groups_of(batch), number)

    forward = objective.run if isinstance(objective, OwnLoss) else subject.forward
    workers, answered = subject.scoring_workers(options.workers), PassOver()
    kept = {"hear": answered.add} if keeps_answers(subject) else {}
    with ordered_products(subject.model):
        found = measure_sensitivities(
            subject.model, watch_tables(subject), stream(), forward, workers=workers, pull=pull, **kept
        )
    if kept:
        subject.answers.keep(answered, limit=SENSITIVITY_SAMPLES)
    progress("sensitivities", total, total)
    return found
