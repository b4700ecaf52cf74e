"""Residual codes in fixed point: each stage helps, sums stay in int16, and beginnings are shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.distill.rows import TensorRows
from memrec_convert.distill.stages import (
    LARGEST_SHIFT,
    MOST_STAGES,
    SampleRows,
    encode_rows,
    fit_lists,
    round_stage,
    seeded_generator,
)
from memrec_convert.distill.survey import survey_table
from memrec_convert.encoding.spec import LARGEST_ENTRY, LARGEST_SUM
from memrec_convert.planning.curves import STAGE_LISTS


def make_sample(seed, n=700, dim=5):
    """Rows of very different sizes and weights, and a metric that is not the identity; (sample, metric, scale)."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=draw) * torch.randn(n, 1, generator=draw).exp()
    weights = (2 * torch.randn(n, generator=draw)).exp().numpy()
    root = torch.randn(dim, dim, generator=draw)
    survey = survey_table(TensorRows(rows), weights, root @ root.T / dim)
    return SampleRows(rows - survey.centre, torch.from_numpy(weights)), survey.metric, survey.scale


def fit(sample, metric, lists, *, scale, seed=0):
    """Every list with few iterations."""
    return list(fit_lists(sample, metric, lists, scale=scale, iterations=4, seed=seed))


def reach_of(shifts):
    """The largest |sum| in units of the last shift if every entry is the largest."""
    return sum(LARGEST_ENTRY << (shifts[-1] - shift) for shift in shifts)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_stage_raises_the_loss_and_no_sum_leaves_int16(seed):
    """For every stage list: the weighted distance never rises with depth, shifts never fall, the bound holds."""
    sample, metric, scale = make_sample(seed)
    lists = [sizes for sizes in STAGE_LISTS if sum(sizes) <= 1000]
    found = fit(sample, metric, lists, scale=scale)
    assert sorted(one.sizes for one in found) == sorted(lists)
    for one in found:
        losses = (one.distances.double() * sample.weights).sum(dim=1).numpy()
        assert (np.diff(losses) <= 1e-6 * losses[0]).all(), one.sizes
        assert losses[-1] < 0.2 * losses[0]
        shifts = [stage.shift for stage in one.stages]
        assert shifts == sorted(shifts)
        assert reach_of(shifts) == one.stages[-1].reach <= LARGEST_SUM
        assert tuple(stage.size for stage in one.stages) == one.sizes


def test_sums_stay_in_int16_where_residuals_shrink_at_once():
    """Two coarse stages leave almost nothing for many fine ones: the shift is held back so that all of them fit."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).repeat(200, 1) * torch.tensor([1, 120 / 127])
    noise = 3e-4 * torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([corners, torch.zeros(800, 2)], dim=1) + noise
    survey = survey_table(TensorRows(rows), np.ones(800, dtype=np.float32), torch.eye(4))
    sample = SampleRows(rows - survey.centre, torch.ones(800))
    for one in fit(sample, survey.metric, [STAGE_LISTS[-1], STAGE_LISTS[3]], scale=survey.scale):
        shifts = [stage.shift for stage in one.stages]
        assert shifts[:2] == [0, 0]
        assert shifts[2] > 4
        assert reach_of(shifts) <= LARGEST_SUM


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=MOST_STAGES))
def test_any_sequence_of_spreads_keeps_the_bound(spreads):
    """Whatever each stage's widest entry: shifts rise, stay within 0..7, and all sums stay within int16."""
    before, shifts = None, []
    for widest in spreads:
        before = round_stage(torch.tensor([[widest], [-widest]]), widest=widest, scale=1 / 127, before=before)
        shifts.append(before.shift)
    assert shifts == sorted(shifts)
    assert shifts[0] >= 0
    assert shifts[-1] <= LARGEST_SHIFT
    assert reach_of(shifts) == before.reach <= LARGEST_SUM


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-4, 1.0))
def test_a_first_stage_is_rounded_to_half_a_unit(seed, size):
    """With no stage before it, each entry is off by at most half of scale * 2**-shift, and the shift is the finest."""
    entries = size * (2 * torch.rand(8, 3, generator=torch.Generator().manual_seed(seed)) - 1)
    widest, scale = float(entries.abs().max()), 1 / 127
    stage = round_stage(entries, widest=widest, scale=scale, before=None)
    unit = scale * 2.0**-stage.shift
    assert float((stage.values(scale) - entries).abs().max()) <= unit / 2 * 1.0001
    assert stage.shift == LARGEST_SHIFT or widest > LARGEST_ENTRY * unit / 2


def test_what_does_not_fit_is_cut_at_the_largest_entry():
    """A stage cannot go back to a coarser shift: wider entries become the largest one, never wrap around."""
    first = round_stage(torch.tensor([[0.001]]), widest=0.001, scale=1 / 127, before=None)
    second = round_stage(torch.tensor([[0.9], [-0.9]]), widest=0.9, scale=1 / 127, before=first)
    assert second.shift == first.shift == LARGEST_SHIFT
    assert second.codebook.tolist() == [[127], [-127]]


def test_codes_say_what_is_subtracted():
    """The distance at each depth is that of the row less the entries that its codes name so far."""
    sample, metric, scale = make_sample(3)
    (one,) = fit(sample, metric, [(4, 16, 64)], scale=scale)
    codes, distances = encode_rows(sample.residual, metric, one.stages, scale=scale)
    assert codes.dtype == torch.uint8
    rest = sample.residual.double()
    for depth in range(4):
        want = (rest @ metric.double()).square().sum(dim=1)
        assert torch.allclose(distances[depth].double(), want, rtol=1e-3, atol=1e-5 * float(want.max()))
        if depth < 3:
            rest = rest - one.stages[depth].values(scale)[codes[:, depth].long()].double()
    assert torch.equal(distances, one.distances)


def test_each_code_is_the_nearest_entry():
    """In the metric's space no other entry of the stage is nearer to what is left."""
    sample, metric, scale = make_sample(4)
    (one,) = fit(sample, metric, [(8, 32)], scale=scale)
    codes, distances = encode_rows(sample.residual, metric, one.stages, scale=scale)
    rest = sample.residual
    for depth, stage in enumerate(one.stages):
        all_distances = torch.cdist((rest @ metric).double(), (stage.values(scale) @ metric).double()).square()
        best = all_distances.min(dim=1).values.float()
        assert torch.allclose(distances[depth + 1], best, rtol=1e-3, atol=1e-4)
        rest = rest - stage.values(scale)[codes[:, depth].long()]


def test_lists_share_the_stages_of_a_common_beginning():
    """What a list's first stages are does not depend on the stages behind them, nor on the lists fitted with it."""
    sample, metric, scale = make_sample(5)
    together = {one.sizes: one for one in fit(sample, metric, [(4, 16, 8), (4, 16, 64), (2, 4)], scale=scale)}
    (alone,) = fit(sample, metric, [(4, 16)], scale=scale)
    for sizes in ((4, 16, 8), (4, 16, 64)):
        for mine, theirs in zip(together[sizes].stages[:2], alone.stages, strict=True):
            assert torch.equal(mine.codebook, theirs.codebook)
            assert mine.shift == theirs.shift
    assert together[2, 4].stages[1].size == 4


def test_the_seed_alone_decides():
    """Same seed, same bits; another seed, another codebook."""
    sample, metric, scale = make_sample(6)
    one, again, other = (fit(sample, metric, [(16, 16)], scale=scale, seed=seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(a.codebook, b.codebook) for a, b in zip(one.stages, again.stages, strict=True))
    assert any(not torch.equal(a.codebook, b.codebook) for a, b in zip(one.stages, other.stages, strict=True))


def test_a_generator_depends_on_all_its_numbers():
    """Parts in another order, or grouped otherwise, are another stream."""
    streams = [
        torch.rand(2, generator=seeded_generator(*parts)).tolist() for parts in ((1, 23), (12, 3), (23, 1), (1,))
    ]
    assert len({tuple(stream) for stream in streams}) == 4
    assert torch.rand(2, generator=seeded_generator(1, 23)).tolist() == streams[0]


def test_rows_that_are_all_equal_cost_nothing():
    """A constant table has the centre alone: scale 1, codebooks of zeros, distances of zero."""
    rows = torch.full((300, 3), 0.7)
    survey = survey_table(TensorRows(rows), np.ones(300, dtype=np.float32), torch.eye(3))
    sample = SampleRows(rows - survey.centre, torch.ones(300))
    (one,) = fit(sample, survey.metric, [(4, 4)], scale=survey.scale)
    assert float(one.distances.max()) < 1e-12
