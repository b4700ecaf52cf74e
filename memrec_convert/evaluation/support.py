"""Whether a hold-out supports that one state of a model is better than another, or whether that may be luck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memrec_convert.evaluation.delong import standard_error
from memrec_convert.evaluation.goal import CLICKS, Goal
from memrec_convert.evaluation.measures import Truth
from memrec_convert.evaluation.metrics import Float64


@dataclass(frozen=True)
class ScoredRows:
    """A state's outputs on the hold-out, float64 [n] or [n, k], what the rows are and what the `goal` is.

    `labels` is None where they do not define the metric (such as an AUC without labels of both classes), and the state
    is then compared by its divergence from the `original`'s outputs. Rows of one of the `groups` (int64 [n]) belong
    together; None: they are independent.
    """

    logits: Float64
    original: Float64
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    goal: Goal = CLICKS


def find_doubt(before: ScoredRows, after: ScoredRows) -> str:
    """Why `after` cannot be called better than `before`, both on the same rows; "" where it can.

    The gain must exceed its standard error, which is taken over the paired differences of the rows, summed by group
    (Liang and Zeger 1986); and the loss must not rise.
    """
    objective, metric, groups = after.goal.objective, after.goal.metric, after.groups
    if after.labels is None:
        apart = None if objective.are_clusters(after.logits) else groups
        return _describe("divergence", *_mean_fall(_divergences(before), _divergences(after), apart))
    truth = Truth(after.labels, groups)
    doubt = _describe(metric.title, *metric.gain(truth, before.logits, after.logits))
    first, last = (objective.mean_loss(after.labels, one.logits, groups) for one in (before, after))
    rise = 0.0 if first is None or last is None else last - first
    return doubt or (f"the {objective.loss_name} rises by {rise:.5f}" if rise > 0 else "")


def _describe(what: str, gain: float, error: float) -> str:
    if gain > error:
        return ""
    return f"the {what} gains {gain:.5f}, within its standard error of {error:.5f}"


def _mean_fall(before: Float64, after: Float64, groups: np.ndarray | None) -> tuple[float, float]:
    """The mean of before - after over the rows, and its standard error."""
    falls = before - after
    mean = float(falls.mean())
    return mean, standard_error((falls - mean) / len(falls), groups)


def _divergences(rows: ScoredRows) -> Float64:
    return rows.goal.objective.divergences(rows.original, rows.logits, rows.groups)
