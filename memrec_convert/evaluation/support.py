"""Whether a hold-out supports that one state of a model is better than another, or whether that may be luck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memrec_convert.evaluation.delong import auc_gain, standard_error
from memrec_convert.evaluation.metrics import Float64, log_loss


@dataclass(frozen=True)
class ScoredRows:
    """A state's logits on the hold-out, float64 [n], and what the rows are.

    `labels` (0 or 1, [n]) is None without labels of both classes, and the state is then compared by its divergence from
    the `original`'s logits [n]. Rows of one of the `groups` (int64 [n]) belong together; None: they are independent.
    """

    logits: Float64
    original: Float64
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None


def find_doubt(before: ScoredRows, after: ScoredRows) -> str:
    """Why `after` cannot be called better than `before`, both on the same rows; "" where it can.

    The gain must exceed its standard error, which is taken over the paired differences of the rows, summed by group
    (Liang and Zeger 1986); and the log loss must not rise.
    """
    if after.labels is None:
        return _describe("divergence", *_mean_fall(_divergences(before), _divergences(after), after.groups))
    clicked = after.labels.astype(np.bool_)
    doubt = _describe("AUC", *auc_gain(clicked, before.logits, after.logits, groups=after.groups))
    rise = log_loss(clicked, after.logits) - log_loss(clicked, before.logits)
    return doubt or (f"the log loss rises by {rise:.5f}" if rise > 0 else "")


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
    """Of each row, what the state adds to the log loss if the original's probabilities are true."""
    chance = np.exp(-np.logaddexp(0, -rows.original))
    added: Float64 = np.logaddexp(0, rows.logits) - chance * rows.logits
    return added
