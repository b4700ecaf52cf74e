"""Which weights and metrics the fit uses: the best that the data at hand can give."""

from __future__ import annotations

import torch

from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.distill.sensitivity import measure_sensitivities, root_of
from memrec_convert.distill.weights import (
    TableWeights,
    describe_fault,
    weigh_by_displacement,
    weigh_by_log,
    weigh_by_optimizer,
    weigh_uniformly,
)
from memrec_convert.errors import LogError

SENSITIVITY_SAMPLES = 65_536
_MOST_NAMED = 3

NO_DATA_WARNING = (
    "no data and {}: rows are weighted by how far training moved them from their initial values, "
    "which is only a guess at how often they are read; give --data for a better file"
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
