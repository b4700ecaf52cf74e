"""Ranking metrics against values computed by hand, and the laws that they keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.errors import LogError
from memrec_convert.evaluation.measures import Truth, choose_metric
from memrec_convert.evaluation.ranking import place_relevant, place_targets

SCORES = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.4, 0.3, 0.2], [0.5, 0.6, 0.7, 0.8]], dtype=np.float32)
TARGETS = np.array([1, 0, 3], dtype=np.float32)
"""Ranks 2, 4 and 1."""


def measure(name, labels, outputs, groups=None):
    """The metric of that name."""
    return choose_metric(name, None).measure(Truth(np.asarray(labels), groups), np.asarray(outputs))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hit@1", 1 / 3),
        ("recall@2", 2 / 3),
        ("mrr", (1 / 2 + 1 / 4 + 1) / 3),
        ("mrr@2", (1 / 2 + 0 + 1) / 3),
        ("ndcg", (1 / np.log2(3) + 1 / np.log2(5) + 1) / 3),
        ("ndcg@3", (1 / np.log2(3) + 0 + 1) / 3),
    ],
)
def test_one_relevant_candidate_counts_by_its_rank(name, expected):
    """Ranks 2, 4 and 1 give the means that one works out on paper."""
    assert measure(name, TARGETS, SCORES) == pytest.approx(expected, abs=1e-12)


def test_graded_relevance_is_discounted_and_normalised():
    """Relevances 3, 0, 2 in the order of the scores give DCG 3 + 2 / 2, of an ideal 3 + 2 / log2(3)."""
    found = measure("ndcg@3", [[3.0, 0.0, 2.0]], [[0.9, 0.5, 0.1]])
    assert found == pytest.approx((3 + 2 / 2) / (3 + 2 / np.log2(3)), abs=1e-12)
    assert measure("recall@2", [[3.0, 0.0, 2.0]], [[0.9, 0.5, 0.1]]) == 0.5


def test_groups_make_requests_of_single_scores():
    """Scores in a column with a group for each are the same requests as scores in a matrix, in any order of rows."""
    relevance = np.eye(4, dtype=np.float32)[TARGETS.astype(int)]
    order = np.random.default_rng(0).permutation(12)
    groups = np.repeat([7, 3, 5], 4)[order]
    for name in ("ndcg@2", "recall@1", "hit@3", "mrr"):
        flat = measure(name, relevance.reshape(-1)[order], SCORES.reshape(-1)[order], groups)
        assert flat == pytest.approx(measure(name, TARGETS, SCORES), abs=1e-12)
        assert measure(name, relevance, SCORES) == pytest.approx(flat, abs=1e-12)


def test_ties_count_against_the_model():
    """A model that gives every candidate one score ranks the relevant one last."""
    assert measure("mrr", [1.0], np.zeros((1, 4))) == 0.25
    assert measure("mrr", [[0.0, 1.0, 0.0, 0.0]], np.zeros((1, 4))) == 0.25


def test_requests_without_anything_relevant_do_not_count():
    """The mean is over the requests that have a relevant candidate; without any there is no figure."""
    labels = np.array([[0.0, 1.0], [0.0, 0.0]])
    assert measure("hit@1", labels, [[0.0, 1.0], [1.0, 0.0]]) == 1.0
    assert measure("ndcg@5", np.zeros((2, 2)), np.zeros((2, 2))) is None


def test_single_scores_need_groups():
    """One score per sample ranks nothing by itself."""
    with pytest.raises(LogError, match="pass groups="):
        measure("ndcg@5", [1.0, 0.0], [0.3, 0.4])


@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_both_ways_of_placing_agree(requests, candidates, seed):
    """The rank of a target among its row's scores is that of the relevance that has a 1 there, ties included."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 4, (requests, candidates)).astype(np.float32)
    targets = generator.integers(0, candidates, requests)
    first = place_targets(scores, targets)
    relevance = np.eye(candidates)[targets].reshape(-1)
    second = place_relevant(scores.reshape(-1), relevance, np.repeat(np.arange(requests), candidates))
    assert first.rank.tolist() == second.rank.tolist()
    assert first.request.tolist() == second.request.tolist()
