"""The metrics that conversions are judged by: values, intervals, standard errors and choices."""

from __future__ import annotations

import numpy as np
import pytest

from memrec_convert.errors import OptionError
from memrec_convert.evaluation.delong import auc_gain, compare_auc
from memrec_convert.evaluation.goal import CLICKS, choose_goal
from memrec_convert.evaluation.groups import compare_groups
from memrec_convert.evaluation.measures import Truth, choose_metric
from memrec_convert.evaluation.support import ScoredRows, find_doubt


def draw(rows=4000, noise=0.5, seed=0):
    """Labels, outputs near them, and outputs a little further away."""
    generator = np.random.default_rng(seed)
    labels = generator.normal(size=rows)
    near = labels + noise * generator.normal(size=rows)
    return labels.astype(np.float32), near, near + 0.2 * generator.normal(size=rows)


def test_rmse_and_mae_are_what_one_works_out():
    """Errors of 3 and 4: a root mean square of sqrt(12.5), a mean of 3.5; several outputs count alike."""
    truth, outputs = Truth(np.array([1.0, 1.0])), np.array([4.0, -3.0])
    assert choose_metric("rmse", None).measure(truth, outputs) == pytest.approx(np.sqrt(12.5))
    assert choose_metric("mae", None).measure(truth, outputs) == 3.5
    assert choose_metric("mae", None).measure(Truth(np.array([[1.0, 1.0]])), outputs[None]) == 3.5


@pytest.mark.parametrize("name", ["rmse", "mae"])
def test_an_interval_covers_the_known_difference(name):
    """Of 40 draws about 38 have the true change in their 95 % interval, and a worse model is called worse."""
    metric, large = choose_metric(name, None), draw(400_000, seed=99)
    truth = metric.measure(Truth(large[0]), large[2]) - metric.measure(Truth(large[0]), large[1])
    found = [metric.compare(Truth(one[0]), one[1], one[2]) for one in (draw(600, seed=seed) for seed in range(40))]
    covered = sum(one.ci95[0] <= truth <= one.ci95[1] for one in found)
    assert 34 <= covered <= 40
    labels, before, after = draw()
    assert metric.compare(Truth(labels), before, after).verdict == "worse"
    assert metric.compare(Truth(labels), after, before).verdict == "better"
    assert metric.compare(Truth(labels), before, before).verdict == "same"


def test_the_standard_error_is_that_of_the_resamples():
    """The delta method and the bootstrap agree, with and without groups, and groups of copies widen both."""
    labels, before, after = draw()
    for groups in (None, np.arange(len(labels)) // 8):
        metric, truth = choose_metric("rmse", None), Truth(labels, groups)
        gain, error = metric.gain(truth, before, after)
        low, high = metric.compare(truth, before, after).ci95
        assert gain == pytest.approx(-metric.compare(truth, before, after).delta)
        assert error == pytest.approx((high - low) / 3.92, rel=0.1)
    alone = choose_metric("rmse", None).gain(Truth(labels), before, after)[1]
    copies = Truth(np.tile(labels, 4), np.tile(np.arange(len(labels)), 4))
    assert choose_metric("rmse", None).gain(copies, *(np.tile(one, 4) for one in (before, after)))[1] == pytest.approx(
        alone, rel=1e-6
    )


def test_a_function_is_resampled_like_the_metric_that_it_computes():
    """A caller's own mean absolute error has the value and about the interval of the built-in one."""

    def spread(labels, outputs):
        return float(np.abs(labels - outputs).mean())

    labels, before, after = draw()
    groups = np.arange(len(labels)) // 4
    own, known = choose_metric(spread, False), choose_metric("mae", None)
    for truth in (Truth(labels), Truth(labels, groups)):
        one, two = (metric.compare(truth, before, after) for metric in (own, known))
        assert (one.before, one.after) == (pytest.approx(two.before), pytest.approx(two.after))
        assert one.ci95 == pytest.approx(two.ci95, rel=0.15)
        assert own.gain(truth, before, after)[1] == pytest.approx(known.gain(truth, before, after)[1], rel=0.25)
    assert own.name == "spread"


class OddError(Exception):
    """Of nothing that Python's own functions raise."""


@pytest.mark.parametrize("error", [OddError, StopIteration, Exception])
def test_whatever_a_callers_metric_raises_is_told_in_one_sentence(error):
    """Also an exception of the caller's own."""

    def fail(labels, outputs):
        raise error("x")

    with pytest.raises(OptionError, match=rf"metric= failed on 2 samples \({error.__name__}: x\)"):
        choose_metric(fail, True).measure(Truth(np.zeros(2)), np.zeros(2))


def test_a_metric_that_changes_its_arguments_changes_no_result():
    """It gets copies, for each call and each model."""

    def spoil(labels, outputs):
        found = float(np.abs(labels - outputs).mean())
        labels[:], outputs[:] = 7, 7
        return found

    labels, before, after = draw(200)
    kept = [one.copy() for one in (labels, before, after)]
    found = choose_metric(spoil, False).compare(Truth(labels), before, after)
    assert found.after == pytest.approx(choose_metric("mae", None).measure(Truth(labels), after))
    assert found.ci95[0] < found.delta < found.ci95[1]
    assert all(np.array_equal(*pair) for pair in zip((labels, before, after), kept, strict=True))


def test_intervals_are_the_same_for_any_number_of_workers():
    """Resamples belong to seeds, not to threads."""
    labels, before, after = draw(500)
    metric = choose_metric("rmse", None)
    assert metric.compare(Truth(labels), before, after) == metric.compare(Truth(labels), before, after, workers=3)
    assert metric.compare(Truth(labels), before, after) != metric.compare(Truth(labels), before, after, seed=1)


def test_auc_and_gauc_are_those_of_reports():
    """As a goal's metric they give what `compare_auc` and `compare_groups` give."""
    generator = np.random.default_rng(1)
    before = generator.normal(size=2000)
    labels = (generator.random(2000) < 1 / (1 + np.exp(-before))).astype(np.float32)
    after, groups = before + 0.3 * generator.normal(size=2000), np.arange(2000) // 10
    truth, known = Truth(labels, groups), compare_groups(labels, before, after, groups)
    found = choose_metric("auc", None).compare(truth, before, after)
    assert (found.before, found.ci95) == (
        compare_auc(labels, before, after).before,
        compare_auc(labels, before, after).ci95,
    )
    assert choose_metric("auc", None).gain(truth, before, after) == auc_gain(labels > 0, before, after, groups=groups)
    gauc = choose_metric("gauc", None).compare(truth, before, after)
    assert (gauc.before, gauc.after) == (pytest.approx(known.gauc_before), pytest.approx(known.gauc_after))
    assert gauc.ci95 == pytest.approx(known.gauc_ci95, rel=0.1)


def test_a_gain_within_its_error_is_doubted_for_every_metric():
    """A state that gains by luck is named with its metric; one that gains surely is not, unless its loss rises."""
    labels, far, _ = draw(400)
    near = labels + 0.9 * (far - labels)
    shaken = far + 0.01 * np.random.default_rng(5).normal(size=400)
    goal = choose_goal("regression", None, None)
    rows = [ScoredRows(one, far, labels, goal=goal) for one in (far, near, shaken)]
    assert find_doubt(rows[0], rows[1]) == ""
    assert "the RMSE gains" in find_doubt(rows[1], rows[0])
    assert "within its standard error" in find_doubt(rows[0], rows[2]) or "does not" in find_doubt(rows[0], rows[2])
    unlabelled = [ScoredRows(one, near, goal=goal) for one in (far, near)]
    assert find_doubt(*unlabelled) == ""


def test_the_default_goal_is_the_auc_of_clicks():
    """Saying so changes nothing, and reports then say nothing of a goal."""
    assert choose_goal(None, None, None) == CLICKS == choose_goal("binary", "auc", None)
    assert CLICKS.describe() == {}
    assert choose_goal("regression", None, None).metric.name == "rmse"
    assert choose_goal("ranking", None, None).metric.name == "ndcg@10"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("clicks", None, None), "objective is 'clicks'; expected binary, regression, ranking"),
        ((None, "auroc", None), "metric is 'auroc'; expected one of auc, gauc"),
        ((None, "recall", None), "metric is 'recall'"),
        ((None, "ndcg@0", None), "metric is 'ndcg@0'"),
        ((None, "rmse", None), "rmse is no metric of the objective binary"),
        (("ranking", "mae", None), "mae is no metric of the objective ranking"),
        (("regression", "auc", None), "auc is no metric of the objective regression"),
        (("regression", "rmse", True), "lower values are better"),
        ((None, lambda labels, outputs: 0.0, None), "set higher_is_better"),
        ((lambda model, batch: 0.0, None, None), "set metric="),
        ((None, None, True), "set metric= too"),
    ],
)
def test_what_does_not_go_together_is_refused(given, says):
    """One sentence says which objective or metric is wrong, and what to choose."""
    with pytest.raises(OptionError, match=says):
        choose_goal(*given)


def test_a_metric_that_fails_is_named():
    """What a caller's function raises or returns comes back as one sentence."""
    labels = np.zeros(3)
    for function, says in ((lambda a, b: a @ b[:2], "metric= failed on 3 samples"), (lambda a, b: np.nan, "finite")):
        with pytest.raises(OptionError, match=says):
            choose_metric(function, True).measure(Truth(labels), labels)
