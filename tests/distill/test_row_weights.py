"""Row weights from each source: the log, the optimizer's state, displacement, or none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.distill.rows import TensorRows
from memrec_convert.distill.weights import (
    describe_fault,
    round_to_half_octaves,
    weigh_by_displacement,
    weigh_by_log,
    weigh_by_optimizer,
    weigh_uniformly,
)

HALF_STEP = 2.0**0.25
"""How far rounding to half-octaves can move a weight."""


def is_near(found, wanted, factor=HALF_STEP):
    """Whether each number is within this factor of the wanted one."""
    ratio = np.asarray(found, dtype=np.float64) / np.asarray(wanted, dtype=np.float64)
    return bool(((ratio <= factor * 1.0001) & (ratio >= 1 / (factor * 1.0001))).all())


def test_the_log_counts_plus_a_quarter():
    """An id that the log never shows still counts a little."""
    weights = weigh_by_log(np.array([0, 1, 10**9]))
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.25, 1.25, np.float32(1e9)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(2.0**-60, 2.0**60, width=32), min_size=1, max_size=30))
def test_half_octaves(values):
    """Powers of the root of two, the nearest ones, and rounding them again changes nothing."""
    values = np.array(values, dtype=np.float32)
    rounded = round_to_half_octaves(values)
    exponent = 2 * np.log2(rounded.astype(np.float64))
    assert np.allclose(exponent, np.round(exponent), atol=1e-5)
    assert is_near(rounded, values)
    assert np.array_equal(round_to_half_octaves(rounded), rounded)


def test_zero_and_less_become_zero():
    """What never counted does not begin to."""
    assert round_to_half_octaves(np.array([0.0, -1.0, 2.0])).tolist() == [0.0, 0.0, 2.0]


def test_the_optimizer_gives_row_means_with_one_factor_for_all_tables():
    """A row's weight is its mean over the dimensions, scaled so that the mean over all tables' rows is 1."""
    draw = np.random.default_rng(0)
    states = [draw.exponential(size=(40, 4)) * 1e-7, draw.exponential(size=(500, 2)) * 1e-9]
    found = weigh_by_optimizer([TensorRows(torch.from_numpy(state)) for state in states], [4, 2])
    means = [state.astype(np.float32).mean(axis=1) for state in states]
    factor = 540 / sum(mean.sum() for mean in means)
    for one, mean in zip(found, means, strict=True):
        assert one.rows.dtype == np.float32
        assert is_near(one.rows, mean * factor)
        assert np.array_equal(round_to_half_octaves(one.rows), one.rows)
    assert found[0].rows.mean() > 20 * found[1].rows.mean()


def test_a_common_factor_of_the_state_drops_out():
    """The unit of the gradients means nothing: a state 2**-20 times as large gives the same weights and metrics."""
    state = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    (one,) = weigh_by_optimizer([TensorRows(state)], [3])
    (other,) = weigh_by_optimizer([TensorRows(state * 2.0**-20)], [3])
    assert np.array_equal(one.rows, other.rows)
    assert torch.equal(one.metric, other.metric)


def test_the_column_profile_is_the_metric():
    """A diagonal whose squares are the column sums, scaled to a trace of dim."""
    state = torch.tensor([[1.0, 3.0, 0.0], [1.0, 5.0, 0.0]])
    (one,) = weigh_by_optimizer([TensorRows(state)], [3])
    assert torch.allclose(one.metric @ one.metric.T, torch.diag(torch.tensor([0.6, 2.4, 0.0])))


def test_a_row_wise_state_weighs_rows_alone():
    """One number per row: its weight, and the identity as metric."""
    state = torch.tensor([1.0, 4.0, 0.0, 3.0])
    (one,) = weigh_by_optimizer([TensorRows(state)], [8])
    assert is_near(one.rows[[0, 1, 3]], [0.5, 2.0, 1.5])
    assert one.rows[2] == 0
    assert torch.equal(one.metric, torch.eye(8))


def test_a_state_of_zeros_is_no_division_by_zero():
    """Training that never touched a table leaves weights of zero and the identity."""
    (one,) = weigh_by_optimizer([TensorRows(torch.zeros(5, 2))], [2])
    assert one.rows.tolist() == [0.0] * 5
    assert torch.equal(one.metric, torch.eye(2))


def test_long_states_are_read_in_pieces():
    """More rows than one piece holds: each still gets its own weight."""
    state = torch.full((400_000, 4), 2.0)
    state[300_000] = 8.0
    (one,) = weigh_by_optimizer([TensorRows(state)], [4])
    assert set(np.flatnonzero(one.rows != one.rows[0])) == {300_000}
    assert one.rows[300_000] == 4 * one.rows[0]


def test_displacement_leaves_out_what_a_fresh_row_has():
    """A row is worth its squared length less dim / (3 * rows); one that has less never moved."""
    rows, dim = 1000, 4
    fresh = dim / (3 * rows)
    table = torch.zeros(rows, dim)
    table[0, 0], table[1, 1], table[2, 2] = (fresh + 1) ** 0.5, (fresh + 4) ** 0.5, (0.9 * fresh) ** 0.5
    (one,) = weigh_by_displacement([TensorRows(table)])
    assert one.rows[1] / one.rows[0] == pytest.approx(4)
    assert not one.rows[2:].any()
    assert torch.equal(one.metric, torch.eye(dim))


def test_displacement_of_initial_rows_is_small():
    """Rows of the initial distribution lose most of their length: a moved one stands out a hundredfold."""
    rows = 4000
    table = (2 * torch.rand(rows, 16, generator=torch.Generator().manual_seed(0)) - 1) / rows**0.5
    table[7] += 0.1
    (one,) = weigh_by_displacement([TensorRows(table)])
    assert one.rows[7] > 100 * np.delete(one.rows, 7).max()


def test_displacement_gives_each_table_the_same_total():
    """Each feature is looked up once a sample: totals agree but for the rounding to half-octaves."""
    draw = torch.Generator().manual_seed(1)
    tables = [torch.randn(n, 3, generator=draw) * size for n, size in ((2000, 0.01), (30, 5.0), (200, 1.0))]
    found = weigh_by_displacement([TensorRows(table) for table in tables])
    totals = [float(one.rows.sum(dtype=np.float64)) for one in found]
    assert is_near(totals, [2000] * 3)
    assert max(totals) < 1.1 * min(totals)


def test_a_table_that_never_moved_weighs_every_row_alike():
    """There is nothing to go by: ones, not a division by zero."""
    (one,) = weigh_by_displacement([TensorRows(torch.zeros(6, 2))])
    assert one.rows.tolist() == [1.0] * 6


def test_uniform_weights_have_equal_totals():
    """Every row of a table alike, every table as much as the others, metrics the identity."""
    found = weigh_uniformly([TensorRows(torch.zeros(rows, dim)) for rows, dim in ((100, 2), (7, 5))])
    assert [len(set(one.rows.tolist())) for one in found] == [1, 1]
    assert [float(one.rows.sum()) for one in found] == pytest.approx([100, 100])
    assert torch.equal(found[1].metric, torch.eye(5))


def test_a_state_that_differs_between_rows_has_no_fault():
    """Row-wise or full, touched in one row alone; and one row has none to differ from."""
    touched = torch.zeros(300_000, 8)
    touched[-1] = 1.0
    for state in (touched, touched[:, 0], torch.ones(1, 8)):
        assert describe_fault(TensorRows(state)) == ""
    assert describe_fault(TensorRows(torch.ones(5)))
