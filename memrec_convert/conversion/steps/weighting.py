"""Which weights and metrics the fit uses: the best that the data at hand can give."""

from __future__ import annotations

import torch

from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.distill.sensitivity import measure_sensitivities, root_of
from memrec_convert.distill.weights import (
    TableWeights,
    weigh_by_displacement,
    weigh_by_log,
    weigh_by_optimizer,
    weigh_uniformly,
)
from memrec_convert.errors import LogError

SENSITIVITY_SAMPLES = 65_536

NO_DATA_WARNING = (
    "no data and no Adagrad state: rows are weighted by how far training moved them from their initial values, "
    "which is only a guess at how often they are read; give --data for a better file"
)


def choose_source(subject: Subject, wanted: str) -> str:
    """log, optimizer, displacement or uniform; LogError where the wanted one is not to be had."""
    with_state = all(site.optimizer is not None for site in subject.sites)
    if wanted == "auto":
        return "log" if subject.counts is not None else "optimizer" if with_state else "displacement"
    if wanted == "log" and subject.counts is None:
        raise LogError("weights from the log were asked for, and no training data was given; add --data.")
    if wanted == "optimizer" and not with_state:
        without = next(site.name for site in subject.sites if site.optimizer is None)
        raise LogError(
            f"weights from the optimizer were asked for, and the checkpoint has no Adagrad state for table {without}; "
            "give --data, or choose --weights displacement."
        )
    return wanted


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
    if subject.train is None:  # a stored profile alone: how often is known, how sensitive is not
        metrics = [torch.eye(site.dim) for site in subject.sites]
    else:
        progress("sensitivities", 0, 1)
        batches = subject.train.stream(limit=SENSITIVITY_SAMPLES)
        modules = [site.module for site in subject.sites]
        metrics = [root_of(one) for one in measure_sensitivities(subject.model, modules, batches, subject.forward)]
        metrics = [
            metric if len(metric) == site.dim else torch.eye(site.dim)
            for metric, site in zip(metrics, subject.sites, strict=True)
        ]
        progress("sensitivities", 1, 1)
    return [
        TableWeights(weigh_by_log(count, scratch=scratch), metric)
        for count, metric in zip(subject.counts, metrics, strict=True)
    ]
