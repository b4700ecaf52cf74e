"""Objectives: what a row's error costs, how far outputs are apart, what is to be learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memrec_convert.errors import LogError, ModelError, OptionError
from memrec_convert.evaluation.objectives import BINARY, RANKING, REGRESSION, choose_objective, tidy

SCORES = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])


def average_square(objective, outputs, groups=None, draws=6000):
    """The mean of v v^T over the factors v that the objective draws."""
    total = torch.zeros(outputs.numel(), outputs.numel(), dtype=torch.float64)
    for number in range(draws):
        pulled = objective.pull(outputs, groups, number).reshape(-1).to(torch.float64)
        total += torch.outer(pulled, pulled)
    return total / draws


def test_ranking_feels_the_fisher_information_of_the_softmax():
    """In expectation the squared factors are diag(p) - p p^T of each request, and nothing between requests."""
    chances = SCORES.to(torch.float64).softmax(1)
    blocks = [torch.diag(one) - torch.outer(one, one) for one in chances]
    for outputs, groups in ((SCORES, None), (SCORES.reshape(-1), torch.tensor([4, 4, 4, 1, 1, 1]))):
        found = average_square(RANKING, outputs, groups)
        assert torch.allclose(found, torch.block_diag(*blocks), atol=0.02)


def test_regression_feels_every_output_alike():
    """In expectation the squared factors are the identity: outputs of one batch do not mix."""
    assert torch.allclose(average_square(REGRESSION, SCORES), torch.eye(6, dtype=torch.float64), atol=0.05)


def test_clicks_are_felt_as_ever():
    """The factor of a click's logit is 2 sqrt(p (1 - p)), without a sign."""
    logits = torch.tensor([-2.0, 0.0, 3.0])
    chance = logits.sigmoid()
    assert torch.allclose(BINARY.pull(logits, None, 5), 2 * (chance * (1 - chance)).sqrt())


def test_divergences_are_zero_for_equal_outputs_and_known_otherwise():
    """A shift of all of a request's scores changes no ranking; of numbers it is its square."""
    scores = SCORES.numpy().astype(np.float64)
    shifted = scores + np.array([[3.0], [-2.0]])
    assert RANKING.divergence(scores, shifted, None) == pytest.approx(0, abs=1e-12)
    assert REGRESSION.divergence(scores, scores + 2, None) == pytest.approx(4)
    old, new = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (scores, -scores))
    expected = (old * np.log(old / new)).sum(1).mean()
    assert RANKING.divergence(scores, -scores, None) == pytest.approx(expected)
    flat = RANKING.divergence(scores.reshape(-1), -scores.reshape(-1), np.array([0, 0, 0, 1, 1, 1]))
    assert flat == pytest.approx(expected)
    with pytest.raises(ModelError, match="expected the same from both"):
        RANKING.divergence(scores, scores[:1], None)


def test_what_is_learnt_mixes_the_original_and_the_labels():
    """Targets of a request sum to 1, with the labels' share at the relevant candidate; without any they are soft."""
    soft = SCORES.softmax(1)
    found = RANKING.targets(SCORES, torch.tensor([2.0, 0.0]), 0.25, None)
    expected = 0.75 * soft + 0.25 * torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert torch.allclose(found, expected)
    graded = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = RANKING.targets(SCORES, graded, 0.25, None)
    assert torch.allclose(found.sum(1), torch.ones(2))
    assert torch.allclose(found[1], soft[1])
    assert torch.allclose(found[0], 0.75 * soft[0] + 0.25 * torch.tensor([0.75, 0.25, 0.0]))
    assert torch.allclose(REGRESSION.targets(torch.ones(2), torch.zeros(2), 0.25, None), torch.full((2,), 0.75))


def test_losses_have_the_gradients_of_their_objectives():
    """Of a softmax p - t; of squared error the difference in units of the outputs' spread, squared."""
    outputs = SCORES.clone().requires_grad_(True)
    targets = RANKING.targets(SCORES, torch.tensor([2.0, 0.0]), 1.0, None)
    (found,) = torch.autograd.grad(RANKING.loss(outputs, targets, None, 1.0), outputs)
    assert torch.allclose(found, SCORES.softmax(1) - targets, atol=1e-6)
    numbers = torch.tensor([3.0, 5.0], requires_grad=True)
    (found,) = torch.autograd.grad(REGRESSION.loss(numbers, torch.tensor([1.0, 5.0]), None, 2.0), numbers)
    assert found.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_candidates_number_keeps_all_its_digits(dtype):
    """Candidate 2049 is taught as itself to a model whose numbers hold 2048 and 2050 only."""
    found = RANKING.targets(torch.zeros(1, 2051, dtype=dtype), torch.tensor([2049.0]), 1.0, None)
    assert int(found.argmax()) == 2049
    assert found.dtype == dtype
    graded = RANKING.targets(torch.zeros(1, 2, dtype=dtype), torch.tensor([[0.0, 1.0]]), 1.0, None)
    assert graded.tolist() == [[0.0, 1.0]]


def test_one_score_per_sample_may_have_a_dimension_of_its_own():
    """Scores [n, 1] fit relevances [n]; lists without samples stay lists."""
    RANKING.check_fit(torch.tensor([0.0, 1.0, 3.0]), torch.zeros(3, 1), "val")
    assert tidy(torch.zeros(3, 1)).shape == (3,)
    assert tidy(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("wanted", [np.array(["regression", "binary"]), ["regression"], 3])
def test_an_objective_of_no_kind_is_refused(wanted):
    """Also where comparing it with a name gives no yes or no."""
    with pytest.raises(OptionError, match="expected binary, regression, ranking"):
        choose_objective(wanted)


@pytest.mark.parametrize(
    ("objective", "labels", "outputs", "says"),
    [
        (BINARY, [0.0, 2.0], [0.1, 0.2], "not all between 0 and 1"),
        (REGRESSION, [0.0, float("nan")], [0.1, 0.2], "not all finite"),
        (REGRESSION, [0.0, 1.0, 2.0], [0.1, 0.2], "expected one label per output"),
        (choose_objective(lambda _model, _batch: None), [0.0, float("nan")], [0.1, 0.2], "not all finite"),
        (RANKING, [-1.0, 2.0], [0.1, 0.2], "finite and 0 or above"),
        (RANKING, [0.0, 3.0], [[0.1, 0.2], [0.1, 0.2]], "whole numbers below 2"),
        (RANKING, [[0.0, 3.0, 1.0]], [[0.1, 0.2]], "a relevance for every score"),
    ],
)
def test_labels_of_another_objective_are_refused(objective, labels, outputs, says):
    """One sentence names the source and what its labels should be."""
    with pytest.raises(LogError, match=says):
        objective.check_fit(objective.check_labels(torch.tensor(labels), "val"), torch.tensor(outputs), "val")


@pytest.mark.parametrize("answer", [None, torch.zeros(2, 2), torch.tensor([1]), torch.tensor(float("inf"))])
def test_a_loss_of_the_wrong_kind_is_refused(answer):
    """A caller's own loss gives one finite number per sample, or one for all."""
    with pytest.raises(ModelError, match="objective= returned"):
        choose_objective(lambda _model, _batch: answer).run(torch.nn.Identity(), None)
