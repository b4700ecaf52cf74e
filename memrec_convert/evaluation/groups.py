"""AUC with a group column: GAUC, and a bootstrap over groups, which does not take rows of one group as independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memrec_convert.errors import LogError
from memrec_convert.evaluation.delong import SAME_MARGIN, Verdict, judge
from memrec_convert.evaluation.metrics import Float64, Int64, Labels, paired
from memrec_convert.parallel import ordered_map

RESAMPLES = 2000
FEW_GROUPS = 30
"""Below this many groups a bootstrap over them says little."""

_BLOCK = 20
"""Resamples of one random generator; what a worker does at a time."""

Interval = tuple[float, float]
_EVERYTHING: Interval = (-1.0, 1.0)


@dataclass(frozen=True)
class GroupComparison:
    """Two models' AUCs with the rows' groups taken into account.

    groups              how many there are
    both_classes        how many hold positives and negatives, and so have an AUC of their own
    covered             the share of all rows in those
    gauc_before, gauc_after   mean AUC of those groups, each weighted with its rows; None where no group has one
    gauc_ci95           bootstrap interval of their difference
    auc_ci95            bootstrap interval of the difference of the AUCs over all rows; `verdict` is judged by it
    """

    groups: int
    both_classes: int
    covered: float
    gauc_before: float | None
    gauc_after: float | None
    gauc_ci95: Interval | None
    auc_ci95: Interval
    verdict: Verdict
    resamples: int

    @property
    def gauc_delta(self) -> float | None:
        """What the conversion changed: after - before."""
        if self.gauc_before is None or self.gauc_after is None:
            return None
        return self.gauc_after - self.gauc_before


def compare_groups(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    groups: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    workers: int = 1,
    margin: float = SAME_MARGIN,
) -> GroupComparison | None:
    """GAUC of logits `before` and `after` [n], and paired 95 % intervals over resamples of the groups (int64 [n]).

    A resample draws as many groups as there are, with replacement; a drawn group brings all its rows, for both models.
    The intervals hold the middle 95 % of the differences; with a single group, everything that is possible. Equal
    seeds give equal intervals for any number of workers. None where `labels` hold one class only.
    LogError and ModelError as `metrics.measure`; LogError where there is not one group for each row.
    """
    clicked, old = paired(labels, before)
    _, new = paired(labels, after)
    keys = np.asarray(groups)
    if keys.shape != clicked.shape:
        raise LogError(f"found groups of shape {keys.shape} for {len(clicked)} rows, expected one for each row.")
    if clicked.all() or not clicked.any():
        return None
    members = np.unique(keys, return_inverse=True)[1].reshape(-1)
    count = int(members.max()) + 1
    aucs_before, rows = group_aucs(clicked, old, members)
    aucs_after, _ = group_aucs(clicked, new, members)
    usable = np.isfinite(aucs_before)
    changes = _resample(clicked, old, new, members, (aucs_after - aucs_before, rows), resamples, seed, workers)
    overall, grouped = changes[:, 0], changes[:, 1]
    interval = _middle(overall) if count > 1 else _EVERYTHING
    some = bool(usable.any())
    return GroupComparison(
        groups=count,
        both_classes=int(usable.sum()),
        covered=float(rows[usable].sum() / len(clicked)),
        gauc_before=_weighted_mean(aucs_before, rows) if some else None,
        gauc_after=_weighted_mean(aucs_after, rows) if some else None,
        gauc_ci95=(_middle(grouped) if usable.sum() > 1 else _EVERYTHING) if some else None,
        auc_ci95=interval,
        verdict=judge(interval, margin=margin),
        resamples=resamples,
    )


def group_aucs(clicked: Labels, scores: Float64, members: Int64) -> tuple[Float64, Int64]:
    """Each group's AUC, ties counting half, and its rows; NaN for a group of one class. `members` int64 [n] from 0."""
    count = int(members.max()) + 1
    order = np.lexsort((scores, members))
    group, score, positive = members[order], scores[order], clicked[order]
    starts_run = np.ones(len(order), dtype=np.bool_)
    starts_run[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    starts = np.flatnonzero(starts_run)
    stops = np.append(starts[1:], len(order))
    rows = np.bincount(members, minlength=count)
    before_group = np.concatenate(([0], np.cumsum(rows)[:-1]))
    # Doubled mid-ranks inside the group are whole numbers, as in metrics.auc.
    ranks = np.repeat(starts + stops + 1, stops - starts) - 2 * before_group[group]
    positives = np.bincount(group[positive], minlength=count)
    negatives = rows - positives
    rank_sums = np.bincount(group[positive], weights=ranks[positive], minlength=count)
    pairs = 2.0 * positives * negatives
    found = np.full(count, np.nan)
    np.divide(rank_sums - positives * (positives + 1), pairs, out=found, where=pairs > 0)
    return found, rows


@dataclass(frozen=True)
class _Pairs:
    """One model's order of positives and negatives: a weighted AUC from it is two gathers and one running sum.

    negatives, positives   the groups of the rows of either class, by rising score
    below, upto            per positive, how many negatives score lower, and how many not higher; None for the same
    """

    negatives: Int64
    positives: Int64
    below: Int64
    upto: Int64 | None

    def auc(self, weights: Float64) -> float:
        """The AUC with every row weighted by its group; NaN where a class has no weight."""
        total = np.zeros(len(self.negatives) + 1)
        np.cumsum(weights[self.negatives], out=total[1:])
        held = weights[self.positives]
        pairs = 2.0 * float(held.sum()) * float(total[-1])
        wins = float(held @ total[self.below])
        wins += wins if self.upto is None else float(held @ total[self.upto])
        return wins / pairs if pairs else float("nan")


def _order(clicked: Labels, scores: Float64, members: Int64) -> _Pairs:
    order = np.argsort(scores, kind="stable")
    positive = order[clicked[order]]
    negative = order[~clicked[order]]
    below, upto = (np.searchsorted(scores[negative], scores[positive], side=side) for side in ("left", "right"))
    return _Pairs(members[negative], members[positive], below, None if np.array_equal(below, upto) else upto)


def _resample(
    clicked: Labels,
    before: Float64,
    after: Float64,
    members: Int64,
    own: tuple[Float64, Int64],
    resamples: int,
    seed: int,
    workers: int,
) -> Float64:
    """[resamples, 2]: the change of the AUC over all rows and that of the GAUC, per resample; NaN where undefined."""
    old, new = _order(clicked, before, members), _order(clicked, after, members)
    changes, rows = own
    count = len(rows)

    def draw(block: int) -> Float64:
        generator = np.random.default_rng([seed, block])
        found = np.empty((min(_BLOCK, resamples - block * _BLOCK), 2))
        for row in found:
            drawn = np.bincount(generator.integers(0, count, count), minlength=count).astype(np.float64)
            row[:] = new.auc(drawn) - old.auc(drawn), _weighted_mean(changes, rows * drawn)
        return found

    return np.concatenate(list(ordered_map(draw, range(-(-resamples // _BLOCK)), workers=workers)))


def _weighted_mean(values: Float64, weights: NDArray[np.float64] | Int64) -> float:
    """The mean of the finite values; NaN where they have no weight."""
    usable = np.isfinite(values)
    total = float(weights[usable].sum())
    return float((values[usable] * weights[usable]).sum()) / total if total else float("nan")


def _middle(values: Float64) -> Interval:
    """The middle 95 % of the finite values; everything where none is."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return _EVERYTHING
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_rows(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    workers: int = 1,
) -> Float64:
    """The AUC difference in each of `resamples` paired resamples of single rows: what DeLong's interval stands for.

    NaN where a resample lacks a class. LogError and ModelError as `metrics.measure`.
    """
    clicked, old = paired(labels, before)
    _, new = paired(labels, after)
    alone = np.arange(len(clicked))
    nothing = (np.full(len(clicked), np.nan), np.ones(len(clicked), dtype=np.int64))
    return _resample(clicked, old, new, alone, nothing, resamples, seed, workers)[:, 0]
