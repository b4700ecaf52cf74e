"""What a click model's logits are worth against the labels: AUC, log loss, normalized entropy, calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memrec_convert.errors import LogError, ModelError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Labels = NDArray[np.bool_]

DECILES = 10


@dataclass(frozen=True)
class Decile:
    """One tenth of the samples, in the order of their predictions: what was predicted and what happened."""

    samples: int
    mean_prediction: float
    mean_label: float


@dataclass(frozen=True)
class Metrics:
    """Every figure of one model on one log; None where the labels do not define it (one class only, no positives)."""

    samples: int
    positives: int
    auc: float | None
    log_loss: float
    normalized_entropy: float | None
    calibration: float | None
    deciles: tuple[Decile, ...]


def measure(labels: ArrayLike, logits: ArrayLike) -> Metrics:
    """All figures of `logits` [n] against 0/1 `labels` [n].

    LogError where there are no samples or a label is neither 0 nor 1; ModelError where a logit is NaN or infinite.
    """
    clicked, values = paired(labels, logits)
    return Metrics(
        samples=len(clicked),
        positives=int(clicked.sum()),
        auc=auc(clicked, values),
        log_loss=log_loss(clicked, values),
        normalized_entropy=normalized_entropy(clicked, values),
        calibration=calibration(clicked, values),
        deciles=calibration_by_decile(clicked, values),
    )


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """The probability that a positive scores above a negative, ties counting half; None where one class is missing.

    Exact: doubled mid-ranks are whole numbers, so their sum and the one division round once.
    """
    clicked, values = paired(labels, scores)
    positives = int(clicked.sum())
    negatives = len(clicked) - positives
    if positives == 0 or negatives == 0:
        return None
    rank_sum = int(doubled_midranks(values)[clicked].sum())
    return (rank_sum - positives * (positives + 1)) / (2 * positives * negatives)


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Mean binary cross-entropy in nats, from the logits: finite however sure the model is."""
    clicked, values = paired(labels, logits)
    # log(1 + exp(-x)) of the logit as it favours the true class: no sigmoid that rounds to 0 or 1, no log of it.
    return float(np.mean(np.logaddexp(0.0, np.where(clicked, -values, values))))


def normalized_entropy(labels: ArrayLike, logits: ArrayLike) -> float | None:
    """Log loss over the entropy of the labels' mean (He et al. 2014): 1 is what always predicting the mean gives.

    None where the labels hold one class only, for their entropy is zero.
    """
    clicked, values = paired(labels, logits)
    rate = float(np.mean(clicked))
    if rate in (0.0, 1.0):
        return None
    return log_loss(clicked, values) / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))


def calibration(labels: ArrayLike, logits: ArrayLike) -> float | None:
    """Mean prediction over mean label: 1 is calibrated, 2 promises twice the clicks. None without a positive."""
    clicked, values = paired(labels, logits)
    if not clicked.any():
        return None
    return float(np.mean(sigmoid(values))) / float(np.mean(clicked))


def calibration_by_decile(labels: ArrayLike, logits: ArrayLike) -> tuple[Decile, ...]:
    """Mean prediction and mean label of each tenth of the samples, from the lowest prediction to the highest.

    The tenths differ by one sample at most; fewer than ten samples make as many groups as there are samples.
    """
    clicked, values = paired(labels, logits)
    order = np.argsort(values, kind="stable")
    groups = np.array_split(order, min(DECILES, len(order)))
    return tuple(
        Decile(len(group), float(np.mean(sigmoid(values[group]))), float(np.mean(clicked[group]))) for group in groups
    )


def sigmoid(logits: Float64) -> Float64:
    """1 / (1 + exp(-x)) without overflow for large negative logits."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def doubled_midranks(values: Float64) -> Int64:
    """Twice the mid-rank of each value: ranks from 1, ties share the mean of theirs; int64, so that sums are exact."""
    order = np.argsort(values)  # whose order of equal values does not matter, and which is several times as fast
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    stops = np.append(starts[1:], len(ordered))
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.repeat(starts + stops + 1, stops - starts)
    return ranks


def paired(labels: ArrayLike, logits: ArrayLike) -> tuple[Labels, Float64]:
    """Labels as bool [n] and logits as float64 [n], checked to fit each other; LogError or ModelError otherwise."""
    given, values = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if given.ndim != 1 or given.shape != values.shape:
        raise ModelError(
            f"labels of shape {given.shape} and logits of shape {values.shape} do not belong together: "
            "expected one logit for each label."
        )
    if given.size == 0:
        raise LogError("the log holds no samples, so there is nothing to measure: give a log with labelled rows.")
    clicked = given == 1
    strange = np.flatnonzero(~clicked & (given != 0))
    if strange.size:
        raise LogError(
            f"label of row {strange[0]}: found {given[strange[0]]!s}, expected 0 or 1 ({strange.size} such rows)."
        )
    broken = np.flatnonzero(~np.isfinite(values))
    if broken.size:
        raise ModelError(
            f"the model's logits are NaN or infinite in {broken.size} of {values.size} rows (first: row {broken[0]}), "
            "so no figure can be given: check its weights and the dense inputs."
        )
    return clicked, values
