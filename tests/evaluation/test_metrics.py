"""AUC, log loss, normalized entropy and calibration against definitions that are too slow to ship."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memrec_convert.errors import LogError, ModelError
from memrec_convert.evaluation.metrics import (
    auc,
    calibration,
    calibration_by_decile,
    log_loss,
    measure,
    normalized_entropy,
)
from memrec_convert.results import to_plain

FEW_LEVELS = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=40)
ANY_LOGITS = st.lists(st.tuples(st.integers(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=40)


def split(rows):
    """(labels, logits) of a list of pairs."""
    labels, logits = zip(*rows, strict=True)
    return np.array(labels), np.array(logits, dtype=np.float64)


def count_pairs(labels, scores):
    """The AUC by its definition: over all pairs, in exact fractions."""
    wins = [
        Fraction(1) if up > down else Fraction(1, 2) if up == down else Fraction(0)
        for up in scores[labels == 1]
        for down in scores[labels == 0]
    ]
    return sum(wins, Fraction(0)) / len(wins) if wins else None


@given(st.one_of(FEW_LEVELS, ANY_LOGITS))
def test_auc_is_the_share_of_pairs_in_order(rows):
    """The AUC equals the count over all pairs, ties counting half, to the last bit."""
    labels, scores = split(rows)
    expected = count_pairs(labels, scores)
    assert auc(labels, scores) == (None if expected is None else float(expected))


@given(FEW_LEVELS)
def test_auc_of_the_opposite_scores_is_the_complement(rows):
    """Turning every score round turns the AUC round a half."""
    labels, scores = split(rows)
    assume(0 < labels.sum() < len(labels))
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-15)


@given(FEW_LEVELS, st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order_of_rows(rows, random):
    """Shuffled rows give the same AUC exactly and the same log loss up to rounding."""
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert auc(*split(shuffled)) == auc(*split(rows))
    assert log_loss(*split(shuffled)) == pytest.approx(log_loss(*split(rows)), rel=1e-12)


def test_auc_sees_differences_that_float32_cannot_hold():
    """Scores are compared in float64: neighbours that float32 would make equal are no tie."""
    assert auc([0, 1], [1.0, 1.0 + 1e-12]) == 1.0


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [1]])
def test_one_class_has_no_auc_and_no_entropy(labels):
    """Where one class is missing, AUC and normalized entropy are None and the log loss stays."""
    figures = measure(labels, np.zeros(len(labels)))
    assert figures.auc is None
    assert figures.normalized_entropy is None
    assert figures.log_loss == pytest.approx(math.log(2))


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-20, 20)), min_size=1, max_size=40))
def test_log_loss_is_the_mean_of_minus_log_probability(rows):
    """For moderate logits it equals the textbook formula."""
    labels, logits = split(rows)
    right = [1 / (1 + math.exp(-z if y else z)) for y, z in rows]
    assert log_loss(labels, logits) == pytest.approx(-sum(map(math.log, right)) / len(rows), rel=1e-9, abs=1e-12)


def test_log_loss_stays_finite_for_logits_that_saturate():
    """A logit of 1000 on the wrong side costs 1000 nats, on the right side nothing."""
    assert log_loss([0, 1], [1000.0, 1000.0]) == 500.0
    assert log_loss([0], [-1000.0]) == 0.0


@given(st.lists(st.integers(0, 1), min_size=2, max_size=60))
def test_predicting_the_mean_has_a_normalized_entropy_of_one(labels):
    """The constant prediction of the labels' mean is the yardstick itself, and is calibrated."""
    rate = sum(labels) / len(labels)
    assume(0 < rate < 1)
    logits = np.full(len(labels), math.log(rate / (1 - rate)))
    assert normalized_entropy(labels, logits) == pytest.approx(1, rel=1e-9)
    assert calibration(labels, logits) == pytest.approx(1, rel=1e-9)


def test_calibration_is_promised_over_delivered():
    """Predicting a half where a quarter click promises twice the clicks; without a click there is no ratio."""
    assert calibration([1, 0, 0, 0], np.zeros(4)) == pytest.approx(2)
    assert calibration([0, 0], np.zeros(2)) is None


@given(ANY_LOGITS)
def test_deciles_divide_the_samples_evenly_and_rise(rows):
    """Ten groups (or one a sample) differ by one sample at most, rise in prediction, and keep every click."""
    labels, logits = split(rows)
    deciles = calibration_by_decile(labels, logits)
    sizes = [decile.samples for decile in deciles]
    assert len(deciles) == min(10, len(rows))
    assert sum(sizes) == len(rows)
    assert max(sizes) - min(sizes) <= 1
    assert all(low.mean_prediction <= high.mean_prediction for low, high in itertools.pairwise(deciles))
    assert sum(decile.samples * decile.mean_label for decile in deciles) == pytest.approx(labels.sum())


def test_measure_gives_every_figure_and_its_json():
    """`measure` agrees with the single functions and turns into JSON without NaN."""
    labels, logits = [0, 1, 1, 0, 1], [-1.0, 2.0, 0.5, 0.1, -0.2]
    figures = measure(labels, logits)
    assert (figures.samples, figures.positives) == (5, 3)
    assert figures.auc == auc(labels, logits)
    assert figures.calibration == calibration(labels, logits)
    values = json.loads(json.dumps(to_plain(figures), allow_nan=False))
    assert values["log_loss"] == figures.log_loss
    assert len(values["deciles"]) == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("figure", [auc, log_loss, normalized_entropy, calibration, measure])
def test_nan_and_infinite_logits_are_refused_with_their_row(figure, bad):
    """A model that gives NaN or infinity is named with the count and the first row, never averaged away."""
    with pytest.raises(ModelError, match=r"1 of 3 rows \(first: row 1\)"):
        figure([0, 1, 0], [0.0, bad, 1.0])


@pytest.mark.parametrize(
    ("labels", "logits", "error", "said"),
    [
        ([], [], LogError, "no samples"),
        ([0, 0.5], [1, 2], LogError, "label of row 1: found 0.5"),
        ([0, -1], [1, 2], LogError, "expected 0 or 1"),
        ([0, math.nan], [1, 2], LogError, "label of row 1: found nan"),
        ([0, 1], [1, 2, 3], ModelError, r"\(2,\).*\(3,\)"),
        ([[0, 1]], [[1, 2]], ModelError, "one logit for each label"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels, logits, error, said):
    """No samples, labels that are neither 0 nor 1, and shapes that do not fit each have their sentence."""
    with pytest.raises(error, match=said):
        measure(labels, logits)
