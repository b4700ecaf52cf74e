"""What a conversion did to a model's figures on any source of batches: its goal's metric, with the interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from memrec_convert.conversion.inputs.subject import BatchSource, Subject, read_truth
from memrec_convert.conversion.measuring.figures import compare_figures, report_groups, warn_of_groups
from memrec_convert.conversion.measuring.judging import ONE_CLASS_WARNING
from memrec_convert.errors import LogError
from memrec_convert.evaluation.delong import compare_auc
from memrec_convert.evaluation.groups import compare_groups
from memrec_convert.evaluation.measures import Difference, Metric, Truth
from memrec_convert.evaluation.metrics import measure
from memrec_convert.report import MetricComparison


def judge_live(
    subject: Subject, model: nn.Module, source: BatchSource, *, workers: int, seed: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a report that hold what was measured on labelled batches, and warnings; LogError without labels."""
    truth = read_truth(source)
    if truth is None:
        raise LogError(f"{source.name} has no labels, so nothing can be measured on it; pass labels=.")
    before, after = (subject.score(one, source.stream(), workers) for one in (subject.model, model))
    metric = subject.goal.metric
    if subject.goal.is_plain:
        return _judge_clicks(truth, before, after, workers=workers, seed=seed)
    found = metric.compare(truth, before, after, seed=seed, workers=workers)
    if found is None:
        return {}, (f"the labels of {source.name} do not define the {metric.title}",)
    return {"metric": report_metric(metric, found)}, ()


def report_metric(metric: Metric, found: Difference) -> MetricComparison:
    """A paired difference of a metric."""
    kind, units = found.resampled
    return MetricComparison(
        found.before,
        found.after,
        metric.name,
        metric.title,
        metric.higher_is_better,
        found.ci95 if np.isfinite(found.ci95).all() else None,
        found.verdict,
        kind,
        units,
        found.resamples,
    )


def _judge_clicks(
    truth: Truth, before: np.ndarray, after: np.ndarray, *, workers: int, seed: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    labels, groups = truth.labels, truth.groups
    difference, compared = compare_auc(labels, before, after), None
    figures = compare_figures(measure(labels, before), measure(labels, after), difference)
    if groups is not None:
        compared = compare_groups(labels, before, after, groups, seed=seed, workers=workers)
        figures["groups"] = None if compared is None else report_groups(compared, "groups")
    return figures, (*(() if difference is not None else (ONE_CLASS_WARNING,)), *warn_of_groups(compared))
