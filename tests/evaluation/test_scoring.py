"""Logits over batches, and the divergence of one model's click probabilities from another's."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from memrec_convert.errors import ModelError
from memrec_convert.evaluation.scoring import mean_divergence, score_batches

LOGITS = st.floats(-30, 30)


def call(model, batch):
    """The plain forward pass."""
    return model(batch)


def make_batches(count=9):
    """Batches of different sizes."""
    return [torch.randn(n + 1, 3, generator=torch.Generator().manual_seed(n)) for n in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_logits_come_in_the_order_of_the_batches(workers):
    """However many threads there are, and however late some of them finish."""

    def dawdle(_model, batch):
        time.sleep(0.002 * (len(batch) % 3))
        return batch[:, 0]

    batches = make_batches()
    found = score_batches(nn.Identity(), iter(batches), dawdle, workers=workers)
    assert found.dtype == np.float32
    assert np.array_equal(found, torch.cat([batch[:, 0] for batch in batches]).numpy())


def test_several_workers_work_at_once():
    """Two batches are under way at the same time, or the barrier would break."""
    barrier = threading.Barrier(2, timeout=20)

    def meet(_model, batch):
        barrier.wait()
        return batch[:, 0]

    assert len(score_batches(nn.Identity(), [torch.zeros(2, 3)] * 4, meet, workers=2)) == 8


def test_the_number_of_workers_changes_no_bit():
    """The same logits from a real network."""
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    one, three = (score_batches(model, make_batches(), call, workers=workers) for workers in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_gradient_is_recorded(workers):
    """Scoring needs none, in any thread."""
    seen = []

    def look(model, batch):
        logits = model(batch)
        seen.append(logits.requires_grad or torch.is_grad_enabled())
        return logits

    score_batches(nn.Linear(3, 1), make_batches(4), look, workers=workers)
    assert seen == [False] * 4


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (1, -1), (-1, 1, 1)])
def test_any_shape_with_one_logit_per_sample(shape):
    """Columns and rows are read alike, in any floating dtype."""
    batch = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = score_batches(nn.Identity(), [batch], lambda _, b: b[:, 0].reshape(shape))
    assert found.tolist() == batch[:, 0].float().tolist()


def test_no_batches_are_no_logits():
    """An empty array of the right dtype."""
    found = score_batches(nn.Identity(), [], call)
    assert found.shape == (0,)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("answer", "named"), [(None, "NoneType"), ((torch.zeros(2), 1), "tuple"), ({"y": 1}, "dict")])
def test_what_is_no_tensor_is_refused(answer, named):
    """The error names what forward gave."""
    with pytest.raises(ModelError, match=f"forward gave a {named}.*one logit per sample"):
        score_batches(nn.Identity(), [0], lambda _m, _b: answer)


def test_several_logits_per_sample_are_refused():
    """Two columns would be read as twice as many samples."""
    with pytest.raises(ModelError, match=r"shape \[4, 2\].*one logit per sample"):
        score_batches(nn.Linear(3, 2), [torch.zeros(4, 3)], call)


def test_a_failure_in_a_batch_is_not_swallowed():
    """Neither with one worker nor with several."""

    def fail(_model, batch):
        if len(batch) == 5:
            raise IndexError("id 7 is outside")
        return batch[:, 0]

    for workers in (1, 3):
        with pytest.raises(IndexError, match="id 7"):
            score_batches(nn.Identity(), make_batches(), fail, workers=workers)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(LOGITS, LOGITS), min_size=1, max_size=20))
def test_divergence_is_the_mean_of_kullback_and_leibler(pairs):
    """By its definition, p log(p / q) + (1 - p) log((1 - p) / (1 - q)); never negative."""
    old, new = (np.array(column) for column in zip(*pairs, strict=True))
    # 1 - p as the sigmoid of the negated logit, which keeps its digits.
    p, q, not_p, not_q = (1 / (1 + np.exp(-x)) for x in (old, new, -old, -new))
    want = float(np.mean(p * np.log(p / q) + not_p * np.log(not_p / not_q)))
    found = mean_divergence(old, new)
    assert found >= 0
    assert found == pytest.approx(want, rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
def test_divergence_from_itself_is_zero(logits):
    """Exactly, for logits of any size."""
    logits = np.array(logits, dtype=np.float32)
    assert mean_divergence(logits, logits.copy()) == 0


@settings(deadline=None, max_examples=30)
@given(st.floats(-15, 15), st.floats(1e-3, 10), st.sampled_from([-1, 1]))
def test_divergence_of_different_logits_is_positive(logit, step, sign):
    """And it grows with the distance."""
    old = np.array([logit])
    near, far = (mean_divergence(old, old + sign * step * factor) for factor in (1, 2))
    assert 0 < near < far


def test_extreme_logits_neither_overflow_nor_warn():
    """A click that was certain and is now denied costs the difference of the logits."""
    assert mean_divergence(np.array([-1e4]), np.array([1e4])) == 1e4
    assert mean_divergence(np.array([800.0]), np.array([-200.0])) == 200
    assert mean_divergence(np.array([-1000.0]), np.array([-900.0])) == 0


def test_lengths_that_differ_are_refused():
    """One logit for many samples would otherwise be read as the same answer for all."""
    with pytest.raises(ModelError, match="original gave 3 logits and the candidate 1"):
        mean_divergence(np.zeros(3), np.zeros(1))


def test_divergence_of_nearly_equal_logits_is_never_negative():
    """Where the difference is lost in rounding it is zero, not less."""
    draw = np.random.default_rng(0)
    old = 10 * draw.normal(size=2000)
    new = old + draw.normal(size=2000) * 10.0 ** draw.uniform(-14, -6, 2000)
    found = [mean_divergence(old[n : n + 1], new[n : n + 1]) for n in range(2000)]
    assert min(found) == 0
    assert max(found) < 1e-9
