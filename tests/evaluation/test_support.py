"""Gain or luck: standard errors of paired differences, by row and by group."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memrec_convert.evaluation.delong import auc_gain, compare_auc, standard_error
from memrec_convert.evaluation.support import ScoredRows, find_doubt


def make_rows(count, *, seed, noise):
    """Labels, an original's logits, and the logits of two states that lie `noise` away from it, in three arrays."""
    generator = np.random.default_rng(seed)
    original = generator.normal(size=count)
    labels = generator.random(count) < 1 / (1 + np.exp(-original))
    return labels, original, [original + one * generator.normal(size=count) for one in noise]


def test_without_groups_the_error_is_delongs():
    """A 95 % interval is 1.96 standard errors to either side, but for the degrees of freedom."""
    labels, _, (worse, better) = make_rows(4000, seed=0, noise=(1.0, 0.3))
    gain, error = auc_gain(labels, worse, better)
    known = compare_auc(labels, worse, better)
    assert gain == pytest.approx(known.delta)
    assert error == pytest.approx((known.ci95[1] - known.ci95[0]) / 2 / 1.959964, rel=1e-3)


def test_rows_that_repeat_tell_nothing_new():
    """Each row five times, in a group of its own: the error stays; taken as independent it shrinks by root 5."""
    labels, _, (worse, better) = make_rows(800, seed=1, noise=(1.0, 0.3))
    _, alone = auc_gain(labels, worse, better)
    again = [np.repeat(one, 5) for one in (labels, worse, better)]
    _, grouped = auc_gain(*again, groups=np.repeat(np.arange(800) * 7, 5))
    _, loose = auc_gain(*again)
    assert grouped == pytest.approx(alone, rel=2e-3)
    assert loose == pytest.approx(alone / math.sqrt(5), rel=1e-2)


def test_a_group_alone_has_no_error_to_estimate():
    """One row, or one group of all rows: infinite."""
    assert standard_error(np.array([0.3])) == math.inf
    assert standard_error(np.array([0.3, -0.3]), np.array([4, 4])) == math.inf


def test_a_clear_gain_is_not_doubted_and_its_reverse_is():
    """Less noise is better by AUC and log loss, on enough rows."""
    labels, original, (worse, better) = make_rows(4000, seed=2, noise=(1.0, 0.2))
    before, after = (ScoredRows(one, original, labels) for one in (worse, better))
    assert find_doubt(before, after) == ""
    assert "AUC gains -0." in find_doubt(after, before)


def test_gains_on_few_positives_are_doubted():
    """Of two equally good states one is ahead on any few rows: by less than its error in two cases of three."""
    doubted = 0
    for seed in range(200):
        labels, original, states = make_rows(120, seed=seed, noise=(0.5, 0.5))
        first, second = (ScoredRows(one, original, labels) for one in states)
        ahead = auc_gain(labels, *states)[0] > 0
        doubted += bool(find_doubt(first, second) if ahead else find_doubt(second, first))
    assert 0.6 * 200 < doubted < 0.95 * 200


def test_a_higher_auc_at_a_higher_log_loss_is_doubted():
    """Ranking better but far too sure of itself."""
    labels, original, (worse, better) = make_rows(4000, seed=3, noise=(1.0, 0.2))
    doubt = find_doubt(ScoredRows(worse, original, labels), ScoredRows(20 * better, original, labels))
    assert doubt.startswith("the log loss rises by ")


def test_without_labels_the_divergence_decides():
    """Closer to the original by more than the error; rows of one group count once."""
    _, original, (far, near) = make_rows(60, seed=4, noise=(0.3, 0.295))
    assert find_doubt(ScoredRows(far, original), ScoredRows(original, original)) == ""
    assert "divergence" in find_doubt(ScoredRows(original, original), ScoredRows(far, original))
    repeated = [np.tile(one, 200) for one in (far, original, near)]
    groups = np.tile(np.arange(60), 200)
    assert find_doubt(ScoredRows(repeated[0], repeated[1]), ScoredRows(repeated[2], repeated[1])) == ""
    grouped = [ScoredRows(one, repeated[1], groups=groups) for one in (repeated[0], repeated[2])]
    assert "standard error" in find_doubt(*grouped)
