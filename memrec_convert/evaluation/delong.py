"""What two models' AUCs on the same rows differ by, with DeLong's 95 % interval of that difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from memrec_convert.evaluation.metrics import Float64, Labels, auc, doubled_midranks, paired

Verdict = Literal["same", "better", "worse", "undecided"]

SAME_MARGIN = 0.0005
"""'Same AUC' means that the interval lies within this distance of zero, unless the caller says otherwise."""

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class AucDifference:
    """AUC of two models on the same rows; `delta` is after - before and `ci95` its 95 % interval."""

    before: float
    after: float
    delta: float
    ci95: tuple[float, float]
    verdict: Verdict


def compare_auc(
    labels: ArrayLike, before: ArrayLike, after: ArrayLike, *, margin: float = SAME_MARGIN
) -> AucDifference | None:
    """The paired AUC difference of logits `after` [n] to `before` [n]; None where `labels` hold one class only.

    The interval is DeLong's (DeLong et al. 1988), by mid-ranks in O(n log n) (Sun & Xu 2014). It takes rows as
    independent. A class of one sample has no variance to estimate: the interval is then all of [-1, 1].
    LogError and ModelError as `metrics.measure`.
    """
    clicked, old = paired(labels, before)
    _, new = paired(labels, after)
    auc_before, auc_after = auc(clicked, old), auc(clicked, new)
    if auc_before is None or auc_after is None:
        return None
    delta = auc_after - auc_before
    half_width = Z95 * math.sqrt(_variance_of_difference(clicked, old, new))
    ci95 = (max(delta - half_width, -1.0), min(delta + half_width, 1.0))
    return AucDifference(auc_before, auc_after, delta, ci95, judge(ci95, margin=margin))


def auc_gain(
    clicked: Labels, before: Float64, after: Float64, *, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """AUC of `after` less that of `before` [n], and its standard error; both classes must be there.

    The error is DeLong's; with `groups` (int64 [n]), whose rows are not independent of each other, that of clustered
    placements (Obuchowski 1997).
    """
    wins, losses = _paired_placements(clicked, before, after)
    gain = float(wins.mean())
    influences = np.empty(len(clicked))
    influences[clicked] = (wins - gain) / len(wins)
    influences[~clicked] = (losses - losses.mean()) / len(losses)
    return gain, standard_error(influences, groups)


def standard_error(influences: Float64, groups: np.ndarray | None = None) -> float:
    """Of an estimate, from what each row adds to its deviation [n]; rows of one group (int64 [n]) are taken together.

    Infinite for a single row or group.
    """
    if groups is not None:
        members = np.unique(groups, return_inverse=True)[1].reshape(-1)
        influences = np.bincount(members, weights=influences).astype(np.float64)
    count = len(influences)
    return math.sqrt(float(influences @ influences) * count / (count - 1)) if count > 1 else math.inf


def judge(ci95: tuple[float, float], *, margin: float = SAME_MARGIN) -> Verdict:
    """'same' inside +-margin, else 'better' or 'worse' where the whole interval is on one side of zero."""
    low, high = ci95
    if -margin <= low and high <= margin:
        return "same"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"


def _variance_of_difference(clicked: Labels, before: Float64, after: Float64) -> float:
    """DeLong's variance of AUC(after) - AUC(before); infinite where a class has fewer than two samples."""
    positives = int(clicked.sum())
    negatives = len(clicked) - positives
    if positives < 2 or negatives < 2:
        return math.inf
    wins, losses = _paired_placements(clicked, before, after)
    return float(np.var(wins, ddof=1)) / positives + float(np.var(losses, ddof=1)) / negatives


def _paired_placements(clicked: Labels, before: Float64, after: Float64) -> tuple[Float64, Float64]:
    """`_placements` of `after` less those of `before`.

    The difference comes first, its variance after: S11 + S22 - 2 S12 would cancel for twin models.
    """
    (wins_before, losses_before), (wins_after, losses_after) = (_placements(clicked, one) for one in (before, after))
    return wins_after - wins_before, losses_after - losses_before


def _placements(clicked: Labels, scores: Float64) -> tuple[Float64, Float64]:
    """Per positive the share of negatives below it [positives], per negative that of positives above [negatives]."""
    ranks = doubled_midranks(scores)
    above = ranks[clicked] - doubled_midranks(scores[clicked])
    below = ranks[~clicked] - doubled_midranks(scores[~clicked])
    return above / (2.0 * len(below)), 1.0 - below / (2.0 * len(above))
