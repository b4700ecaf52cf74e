"""GAUC and the bootstrap over groups, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memrec_convert.errors import LogError, ModelError
from memrec_convert.evaluation.delong import compare_auc
from memrec_convert.evaluation.groups import bootstrap_rows, compare_groups, group_aucs
from memrec_convert.evaluation.metrics import auc

ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(-3, 3), st.integers(5, 9)), min_size=2, max_size=40
)


def columns(rows):
    """(labels, before, after, groups) of a list of rows."""
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def clustered(seed, *, groups=120, size=20):
    """Rows whose second model errs by group: labels, before, after, groups."""
    rng = np.random.default_rng(seed)
    members = np.repeat(np.arange(groups), size)
    labels = rng.integers(0, 2, len(members))
    before = labels + rng.normal(size=len(members))
    lift = rng.normal(size=groups)[members]
    return labels, before, before + lift * (2 * labels - 1) * 0.4, members


@given(ROWS)
@settings(max_examples=150)
def test_each_groups_auc_is_that_of_its_rows(rows):
    """The one sort over all groups gives what each group alone gives, ties included; one class is NaN."""
    labels, scores, _, groups = columns(rows)
    names, members = np.unique(groups, return_inverse=True)
    found, counts = group_aucs(labels == 1, scores.astype(float), members)
    for number, name in enumerate(names):
        alone = auc(labels[groups == name], scores[groups == name])
        assert counts[number] == (groups == name).sum()
        assert math.isnan(found[number]) if alone is None else found[number] == alone


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_gauc_is_the_mean_weighted_with_rows(rows):
    """Groups with both classes count with their rows, the others not at all; coverage is their share."""
    labels, before, after, groups = columns(rows)
    assume(0 < labels.sum() < len(labels))
    found = compare_groups(labels, before, after, groups, resamples=5)
    usable = [groups == name for name in np.unique(groups) if 0 < labels[groups == name].mean() < 1]
    assert found.groups == len(np.unique(groups))
    assert found.both_classes == len(usable)
    assert found.covered == pytest.approx(sum(rows.sum() for rows in usable) / len(labels))
    if not usable:
        assert (found.gauc_before, found.gauc_after, found.gauc_delta, found.gauc_ci95) == (None,) * 4
        return
    for scores, given_auc in ((before, found.gauc_before), (after, found.gauc_after)):
        expected = sum(rows.sum() * auc(labels[rows], scores[rows]) for rows in usable)
        assert given_auc == pytest.approx(expected / sum(rows.sum() for rows in usable))
    assert found.gauc_delta == found.gauc_after - found.gauc_before


def test_a_resample_is_the_log_with_groups_repeated():
    """The interval is that of resamples built row by row and measured with the plain AUC."""
    labels, before, after, groups = clustered(1, groups=12, size=6)
    before, after = np.round(before, 1), np.round(after, 1)  # ties
    deltas, grouped = [], []
    for block in range(3):
        rng = np.random.default_rng([4, block])
        for _ in range(20):
            drawn = rng.integers(0, 12, 12)
            rows = np.concatenate([np.flatnonzero(groups == one) for one in drawn])
            deltas.append(auc(labels[rows], after[rows]) - auc(labels[rows], before[rows]))
            copies = [np.flatnonzero(groups == one) for one in drawn]
            copies = [rows for rows in copies if 0 < labels[rows].mean() < 1]
            change = sum(len(r) * (auc(labels[r], after[r]) - auc(labels[r], before[r])) for r in copies)
            grouped.append(change / sum(map(len, copies)))
    found = compare_groups(labels, before, after, groups, resamples=60, seed=4)
    assert found.auc_ci95 == pytest.approx(tuple(np.quantile(deltas, [0.025, 0.975])))
    assert found.gauc_ci95 == pytest.approx(tuple(np.quantile(grouped, [0.025, 0.975])))


def test_dependent_rows_widen_the_interval():
    """Where a model errs group by group, the bootstrap over groups says so and DeLong cannot know."""
    labels, before, after, groups = clustered(2)
    low, high = compare_groups(labels, before, after, groups).auc_ci95
    rows_low, rows_high = compare_auc(labels, before, after).ci95
    assert high - low > 1.3 * (rows_high - rows_low)


def test_groups_of_one_row_give_delongs_interval():
    """Independent rows, each a group of its own: as wide as DeLong's to within a tenth."""
    labels, before, after, _ = clustered(3, groups=600, size=1)
    low, high = compare_groups(labels, before, after, np.arange(600)).auc_ci95
    rows_low, rows_high = compare_auc(labels, before, after).ci95
    assert high - low == pytest.approx(rows_high - rows_low, rel=0.1)


def test_bootstrap_of_rows_agrees_with_delong():
    """Two thousand resamples of rows spread as DeLong's variance says, to within a tenth."""
    labels, before, after, _ = clustered(5, groups=60, size=10)
    deltas = bootstrap_rows(labels, before, after)
    low, high = compare_auc(labels, before, after).ci95
    assert deltas.shape == (2000,)
    assert 2 * 1.959964 * np.std(deltas) == pytest.approx(high - low, rel=0.1)


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_and_seed(workers):
    """The same seed gives the same intervals for any number of workers, and another seed others."""
    labels, before, after, groups = clustered(6, groups=40, size=5)
    one = compare_groups(labels, before, after, groups, resamples=130, workers=1)
    assert compare_groups(labels, before, after, groups, resamples=130, workers=workers) == one
    assert compare_groups(labels, before, after, groups, resamples=130, seed=1).auc_ci95 != one.auc_ci95


def test_the_names_of_groups_do_not_matter():
    """Any integers name the groups."""
    labels, before, after, groups = clustered(7, groups=30, size=5)
    one = compare_groups(labels, before, after, groups, resamples=40)
    assert compare_groups(labels, before, after, groups * 10**12 - 7, resamples=40) == one


def test_a_single_group_settles_nothing():
    """One group cannot be resampled: the intervals are everything that is possible."""
    labels, before, after, _ = clustered(8, groups=10, size=5)
    found = compare_groups(labels, before, after, np.zeros(50, dtype=np.int64), resamples=10)
    assert (found.auc_ci95, found.gauc_ci95, found.verdict) == ((-1.0, 1.0), (-1.0, 1.0), "undecided")


def test_a_model_against_itself_is_the_same():
    """No resample of equal scores differs."""
    labels, before, _, groups = clustered(9)
    found = compare_groups(labels, before, before, groups, resamples=50)
    assert (found.auc_ci95, found.gauc_delta, found.verdict) == ((0.0, 0.0), 0.0, "same")


def test_what_cannot_be_compared_is_refused():
    """One class has no AUC; a missing group and a NaN logit are errors."""
    assert compare_groups([1, 1], [0, 1], [1, 0], [0, 1]) is None
    with pytest.raises(LogError, match="one for each row"):
        compare_groups([0, 1], [0, 1], [1, 0], [0])
    with pytest.raises(ModelError, match="NaN"):
        compare_groups([0, 1], [0, math.nan], [1, 0], [0, 1])
