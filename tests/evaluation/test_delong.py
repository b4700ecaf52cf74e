"""DeLong's paired interval against its O(n^2) definition, a bootstrap, and the words it allows."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memrec_convert.errors import ModelError
from memrec_convert.evaluation.delong import compare_auc, judge
from memrec_convert.evaluation.metrics import auc

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(-4, 4)), min_size=4, max_size=40)


def columns(rows):
    """(labels, before, after) of a list of triples."""
    return tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))


def variance_by_definition(labels, before, after):
    """S11 + S22 - 2 S12 from the placements, each counted over all pairs."""

    def placements(scores):
        up, down = scores[labels == 1], scores[labels == 0]
        wins = (up[:, None] > down) + 0.5 * (up[:, None] == down)
        return wins.mean(axis=1), wins.mean(axis=0)

    (wins_before, losses_before), (wins_after, losses_after) = placements(before), placements(after)
    contrast = np.array([-1.0, 1.0])
    covariance = np.cov(wins_before, wins_after) / len(wins_before)
    covariance += np.cov(losses_before, losses_after) / len(losses_before)
    return float(contrast @ covariance @ contrast)


def noisy_twins(seed, *, rows=400, noise=0.5):
    """Labels, and two noisy scores of the same hidden signal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    signal = labels + rng.normal(size=rows)
    return labels, signal, signal + noise * rng.normal(size=rows)


@given(ROWS)
@settings(max_examples=200)
def test_interval_is_that_of_the_definition(rows):
    """The half width is 1.96 times the root of the O(n^2) variance, ties included."""
    labels, before, after = columns(rows)
    assume(2 <= labels.sum() <= len(labels) - 2)
    found = compare_auc(labels, before, after)
    half_width = 1.959963984540054 * math.sqrt(max(variance_by_definition(labels, before, after), 0.0))
    assert found.before == auc(labels, before)
    assert found.after == auc(labels, after)
    assert found.delta == found.after - found.before
    assert found.ci95[0] == pytest.approx(max(found.delta - half_width, -1.0), abs=1e-7)
    assert found.ci95[1] == pytest.approx(min(found.delta + half_width, 1.0), abs=1e-7)


def test_interval_is_that_of_a_bootstrap():
    """On 400 rows the interval's width agrees with 2,000 paired resamples to within a tenth."""
    labels, before, after = noisy_twins(1)
    rng = np.random.default_rng(2)
    deltas = []
    for _ in range(2000):
        rows = rng.integers(0, len(labels), len(labels))
        deltas.append(auc(labels[rows], after[rows]) - auc(labels[rows], before[rows]))
    low, high = compare_auc(labels, before, after).ci95
    assert (high - low) == pytest.approx(2 * 1.96 * np.std(deltas), rel=0.1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 400 draws from two equally good models, 90 to 99 % of the intervals hold zero."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        labels = np.repeat([0, 1], 60)
        before, after = labels + rng.normal(size=(2, 120))
        low, high = compare_auc(labels, before, after).ci95
        held += low <= 0 <= high
    assert 0.90 <= held / 400 <= 0.99


@given(ROWS)
def test_swapping_the_models_turns_the_interval_round(rows):
    """after against before is before against after with the signs turned."""
    labels, before, after = columns(rows)
    assume(0 < labels.sum() < len(labels))
    one, other = compare_auc(labels, before, after), compare_auc(labels, after, before)
    assert one.delta == -other.delta
    assert one.ci95 == (-other.ci95[1], -other.ci95[0])


def test_a_model_against_itself_is_the_same():
    """Identical scores differ by exactly nothing, with an interval of no width."""
    labels, before, _ = noisy_twins(4)
    found = compare_auc(labels, before, before)
    assert (found.delta, found.ci95, found.verdict) == (0.0, (0.0, 0.0), "same")


@given(ROWS)
def test_only_the_order_of_scores_counts(rows):
    """A rising transform of one model's scores changes nothing."""
    labels, before, after = columns(rows)
    assert compare_auc(labels, before, after) == compare_auc(labels, before, np.arctan(after) * 3 - 7)


def test_a_clear_loss_is_worse_and_its_reverse_is_better():
    """Much noise on one side puts the whole interval on one side of zero."""
    labels, before, after = noisy_twins(5, rows=2000, noise=3.0)
    assert compare_auc(labels, before, after).verdict == "worse"
    assert compare_auc(labels, after, before).verdict == "better"


def test_the_margin_is_the_callers():
    """The same interval is undecided at the default margin and the same AUC at a wide one."""
    labels, before, after = noisy_twins(6, noise=0.01)
    assert compare_auc(labels, before, after).verdict == "undecided"
    assert compare_auc(labels, before, after, margin=0.05).verdict == "same"


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((-0.0005, 0.0005), "same"),
        ((-0.0004, -0.0001), "same"),
        ((-0.0006, 0.0001), "undecided"),
        ((-0.0001, 0.0006), "undecided"),
        ((-0.0009, -0.0003), "worse"),
        ((0.0003, 0.0009), "better"),
        ((-0.0009, 0.0), "undecided"),
        ((0.0, 0.0009), "undecided"),
    ],
)
def test_the_verdict_follows_from_the_interval(ci95, verdict):
    """Inside the margin is the same, wholly beyond zero is better or worse, anything else undecided."""
    assert judge(ci95) == verdict


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_has_no_difference(labels):
    """Where the AUC is not defined, neither is its difference."""
    assert compare_auc(labels, [1, 2, 3], [3, 2, 1]) is None


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 1], [0, 1, 1]])
def test_a_class_of_one_sample_decides_nothing(labels):
    """One sample has no variance to estimate, so the interval is everything that is possible."""
    scores = np.arange(len(labels))
    found = compare_auc(labels, scores, scores)
    assert (found.ci95, found.verdict) == ((-1.0, 1.0), "undecided")


def test_nan_of_either_model_is_refused():
    """A NaN logit on either side is an error, not an interval."""
    for before, after in ([[math.nan, 1], [0, 1]], [[0, 1], [0, math.nan]]):
        with pytest.raises(ModelError, match="NaN or infinite"):
            compare_auc([0, 1], before, after)
