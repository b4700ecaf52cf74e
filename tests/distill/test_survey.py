"""The first look at a table: its weighted mean, what rows are worth, their classes, and a fair sample."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.distill import rows as rows_module
from memrec_convert.distill.rows import TensorRows, chunk_bounds, read_chunks
from memrec_convert.distill.survey import draw_sample, group_by_value, survey_table


def make_survey(seed, n=900, dim=3):
    """(rows, weights, metric, survey) of random rows."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, dim, generator=draw) * torch.randn(n, 1, generator=draw).exp() + 0.5
    weights = (2 * torch.randn(n, generator=draw)).exp().numpy()
    metric = torch.randn(dim, dim, generator=draw)
    return rows, weights, metric, survey_table(TensorRows(rows), weights, metric)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 500])
def test_centre_values_and_widest_entry(monkeypatch, chunk_bytes):
    """The weighted mean row; weight times squared distance in the metric; the largest entry off the centre."""
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", chunk_bytes)
    rows, weights, metric, survey = make_survey(0)
    centre = np.average(rows.numpy().astype(np.float64), axis=0, weights=weights)
    assert np.allclose(survey.centre, centre, rtol=1e-5, atol=1e-6)
    rest = rows.numpy().astype(np.float64) - centre
    values = weights * ((rest @ metric.numpy()) ** 2).sum(axis=1)
    assert np.allclose(survey.values, values, rtol=1e-3, atol=1e-6 * values.max())
    assert survey.widest == pytest.approx(np.abs(rest).max(), rel=1e-5)
    assert survey.scale == np.float32(survey.widest / 127)
    assert survey.values.dtype == survey.weights.dtype == np.float32


def test_a_table_that_is_never_read_has_no_value():
    """Weights of zero: a finite centre, values of zero."""
    survey = survey_table(TensorRows(torch.randn(20, 2)), np.zeros(20, dtype=np.float32), torch.eye(2))
    assert bool(torch.isfinite(survey.centre).all())
    assert survey.values.tolist() == [0.0] * 20


def test_a_constant_table_has_a_scale():
    """Nothing is off the centre: the fixed-point unit is 1 rather than 0."""
    survey = survey_table(TensorRows(torch.full((9, 2), 0.5)), np.ones(9, dtype=np.float32), torch.eye(2))
    assert survey.widest == 0
    assert survey.scale == 1.0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5000), st.integers(1, 3000))
def test_chunks_tile_the_table(rows, dim):
    """They begin where the last one ended, cover every row once, and are multiples of 8 rows but for the last."""
    bounds = chunk_bounds(rows, dim)
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == rows
    assert all((stop - start) % 8 == 0 for start, stop in bounds[:-1])


def test_tensor_rows_are_float32_copies():
    """Whatever the dtype, and a caller may write into what it got."""
    tensor = torch.arange(12, dtype=torch.float64).reshape(4, 3).T
    reader = TensorRows(tensor)
    assert reader.shape == (3, 4)
    rows = reader.read_rows(1, 3)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 4, 7, 10], [2, 5, 8, 11]]
    rows[:] = 0
    assert float(tensor[1, 1]) == 4
    assert torch.equal(torch.cat([chunk for _, chunk in read_chunks(reader)]), tensor.float())


VALUES = st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60)


@settings(deadline=None, max_examples=30)
@given(VALUES)
def test_classes_partition_the_rows(values):
    """Each row is in one class; the classes' rows and energies add up; a class is half an octave wide."""
    values = np.array(values, dtype=np.float32)
    classes = group_by_value(values)
    members = [np.flatnonzero(classes.number == number) for number in range(len(classes.rows))]
    assert sorted(np.concatenate(members).tolist()) == list(range(len(values)))
    assert [len(own) for own in members] == classes.rows.tolist()
    assert classes.energy.tolist() == pytest.approx([values[own].sum(dtype=np.float64) for own in members])
    assert classes.energy.sum() == pytest.approx(values.sum(dtype=np.float64))
    for own, after in zip(members, [*members[1:], None], strict=True):
        assert len(own)
        low = max(float(values[own].min()), 2.0**-120)
        assert float(values[own].max()) <= 1.001 * np.sqrt(2) * low
        if after is not None:
            assert values[own].min() > values[after].max()


def test_a_small_table_is_its_own_sample():
    """Every row once, standing for itself, less the centre."""
    rows, weights, _, survey = make_survey(1)
    sample = draw_sample(TensorRows(rows), survey, size=len(rows), seed=0)
    assert sample.numbers.tolist() == list(range(len(rows)))
    assert sample.stands_for.tolist() == [1.0] * len(rows)
    assert torch.equal(sample.rows.residual, rows - survey.centre)
    assert np.array_equal(sample.rows.weights, weights)


def test_a_sample_is_unbiased():
    """Over many seeds the rows, weights and values that the sample stands for are on average those of the table."""
    rows, weights, metric, survey = make_survey(2, n=3000)
    found = []
    for seed in range(60):
        sample = draw_sample(TensorRows(rows), survey, size=300, seed=seed)
        distance = (sample.rows.residual @ metric).square().sum(dim=1)
        found.append(
            (
                len(sample.numbers),
                float(sample.stands_for.sum()),
                float(sample.rows.weights.sum()),
                float((sample.rows.weights * distance).sum()),
            )
        )
    sizes, stood_for, mass, energy = np.mean(found, axis=0)
    assert sizes == pytest.approx(300, rel=0.05)
    assert stood_for == pytest.approx(3000, rel=0.05)
    assert mass == pytest.approx(float(weights.sum()), rel=0.05)
    assert energy == pytest.approx(float(survey.values.sum()), rel=0.02)
    assert np.std([entry[3] for entry in found]) < 0.1 * energy


def test_the_most_valuable_rows_are_certain(monkeypatch):
    """What holds most of the value is in every sample and stands for itself; rows are the file's, in its order."""
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", 500)
    rows, _, _, survey = make_survey(3, n=3000)
    top = np.argsort(-survey.values)[:10]
    for seed in range(5):
        sample = draw_sample(TensorRows(rows), survey, size=300, seed=seed)
        at = np.searchsorted(sample.numbers, top)
        assert np.array_equal(sample.numbers[at], top)
        assert sample.stands_for[torch.from_numpy(at)].tolist() == [1.0] * 10
        assert (np.diff(sample.numbers) > 0).all()
        assert torch.equal(sample.rows.residual, rows[torch.from_numpy(sample.numbers)] - survey.centre)


def test_a_sample_depends_on_its_seed_alone():
    """Same seed, same rows; another seed, other rows."""
    rows, _, _, survey = make_survey(4, n=3000)
    one, again, other = (draw_sample(TensorRows(rows), survey, size=300, seed=seed).numbers for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_rows_without_value_are_sampled_evenly():
    """A constant table larger than the sample: some rows, each standing for its share."""
    survey = survey_table(TensorRows(torch.ones(4000, 2)), np.ones(4000, dtype=np.float32), torch.eye(2))
    sample = draw_sample(TensorRows(torch.ones(4000, 2)), survey, size=400, seed=0)
    assert 300 < len(sample.numbers) < 500
    assert sample.stands_for.tolist() == pytest.approx([10.0] * len(sample.numbers))
