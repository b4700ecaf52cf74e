"""Large tables: the same representation as small ones, from a bounded number of passes and bounded memory."""

import numpy as np
import pytest
import torch

from memrec_convert.distill import columns
from memrec_convert.distill import rows as rows_module
from memrec_convert.distill.columns import Scratch
from memrec_convert.distill.curves import fit_stages, measure_lists, measure_table
from memrec_convert.distill.finish import code_table
from memrec_convert.distill.rows import TensorRows
from memrec_convert.distill.streamed import (
    CANDIDATES_PER_MEMBER,
    LEAST_CANDIDATES,
    code_rows,
    measure_levels,
    rank_ids,
    refine_on_sample,
)
from memrec_convert.distill.survey import draw_sample, group_by_value, survey_table
from memrec_convert.encoding.build import join_replaced
from memrec_convert.encoding.index import choose_index
from memrec_convert.encoding.spec import LevelSpec, TableSpec
from memrec_convert.lookup import CompressedEmbedding

SIZES = (4, 16, 16)
ROWS, DIM = 3001, 6


class CountingRows:
    """Rows in memory that count how many of them were read."""

    def __init__(self, rows):
        self.inner, self.read = TensorRows(rows), 0

    @property
    def shape(self):
        """(rows, dim)."""
        return self.inner.shape

    def read_rows(self, start, stop):
        """The inner reader's."""
        self.read += stop - start
        return self.inner.read_rows(start, stop)

    def read_ids(self, ids):
        """The inner reader's."""
        self.read += len(ids)
        return self.inner.read_ids(ids)


def make_case(seed=0, **choices):
    """Rows with a few directions, uneven weights, and their fit."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, 3, generator=draw) @ torch.randn(3, DIM, generator=draw)
    weights = torch.rand(ROWS, generator=draw).pow(4).numpy()
    reader = CountingRows(rows)
    survey = survey_table(reader, weights, torch.eye(DIM), scratch=choices.get("scratch", Scratch()))
    return reader, survey, measure_table("t", reader, survey, replaceable=True, seed=0, **choices)


def spec_with(levels, shifts):
    """A spec whose base is one token deep, with a level of codes and one of rows."""
    counts = [int((levels == number).sum()) for number in range(2)]
    return TableSpec(
        ROWS,
        DIM,
        "replaced",
        stages=SIZES,
        shifts=shifts,
        base_depth=1,
        levels=(
            LevelSpec("codes", choose_index(ROWS, counts[0]), depth=3),
            LevelSpec("rows", choose_index(ROWS, counts[1]), codec="int8"),
        ),
    )


@pytest.mark.parametrize("wanted", [0, 10, 500, 3000])
def test_ranked_ids_are_the_most_valuable(monkeypatch, wanted):
    """At least as many as wanted, none worth clearly less than one that was left out, never one worth nothing."""
    monkeypatch.setattr("memrec_convert.distill.streamed.LEAST_CANDIDATES", 16)
    values = np.random.default_rng(wanted).exponential(size=4000).astype(np.float32)
    values[::5] = 0
    ids = rank_ids(values, wanted=wanted, most=10**6)
    assert (np.diff(ids) > 0).all()
    assert len(ids) == min(max(int(CANDIDATES_PER_MEMBER * wanted), 16), int((values > 0).sum()))
    others = np.delete(values, ids)
    assert float(values[ids].min()) >= float(others.max()) / 1.002
    assert float(values[ids].min()) > 0
    assert len(rank_ids(values, wanted=wanted, most=12)) == 12
    assert LEAST_CANDIDATES > 0


def test_equal_values_fill_the_limit_exactly():
    """Where all rows are worth the same, the first of them are taken."""
    ids = rank_ids(np.full(1000, 0.3, dtype=np.float32), wanted=0, most=100)
    assert ids.tolist() == list(range(100))


def test_levels_are_measured_as_a_whole_table_is():
    """The losses of some ids are those that coding every row finds."""
    reader, survey, fit = make_case()
    stages = fit_stages(fit, SIZES, seed=0)
    levels = [0, 1, 3, "int8"]
    whole = code_table(reader, survey, stages, levels, workers=1).losses
    ids = np.array([0, 5, 700, 2999, 3000], dtype=np.int32)
    for workers in (1, 3):
        found = measure_levels(reader, survey, stages, levels, ids, workers=workers).finish()
        np.testing.assert_allclose(found, whole[:, ids], rtol=1e-5, atol=1e-12)


def test_one_pass_codes_every_row(monkeypatch):
    """Decoded rows have the loss that the pass reports, the same bytes come from any number of threads."""
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", 16 * 4 * DIM)
    reader, survey, fit = make_case()
    levels = np.random.default_rng(1).choice([-1, 0, 1], ROWS, p=[0.7, 0.2, 0.1]).astype(np.int8)
    stages = fit_stages(fit, SIZES, seed=0)
    spec = spec_with(levels, tuple(stage.shift for stage in stages))
    found = []
    for workers in (1, 3):
        reader.read = 0
        coded = code_rows(reader, survey, stages, spec, levels, workers=workers).finish()
        assert reader.read == ROWS
        codebook = torch.cat([stage.codebook for stage in stages])
        found.append(
            join_replaced(
                spec, centre=survey.centre, scale=survey.scale, codebook=codebook, base=coded.base, levels=coded.levels
            )
        )
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    module = CompressedEmbedding(spec)
    module.fill(found[0])
    decoded = module(torch.arange(ROWS))
    loss = ((decoded - reader.inner.tensor).square().sum(dim=1).numpy() * survey.weights).sum()
    assert coded.loss == pytest.approx(float(loss), rel=1e-3)
    stored = torch.from_numpy(np.flatnonzero(levels == 1))
    assert torch.allclose(decoded[stored], reader.inner.tensor[stored], atol=0.05)
    assert coded.loss < 0.5 * float(survey.values.sum())


def test_refining_on_the_sample_helps_the_whole_table():
    """Codebooks refined on some rows code all rows better than those that were fitted greedily."""
    reader, survey, fit = make_case(3, sample_rows=1500)
    levels = np.full(ROWS, -1, dtype=np.int8)
    stages = fit_stages(fit, SIZES, seed=0)
    spec = TableSpec(
        ROWS, DIM, "replaced", stages=SIZES, shifts=tuple(stage.shift for stage in stages), base_depth=len(SIZES)
    )
    depths = np.full(ROWS, len(SIZES), dtype=np.int8)
    refined = refine_on_sample(fit, stages, depths, workers=1)
    before, after = (code_rows(reader, survey, one, spec, levels, workers=1).finish().loss for one in (stages, refined))
    assert after < before


def test_a_large_table_is_fitted_in_a_few_passes(monkeypatch):
    """Centre and values take a pass each, the sample its own rows; nothing else reads the rows."""
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
    reader, _, fit = make_case(sample_rows=500)
    assert reader.read == 2 * ROWS + len(fit.sample.numbers)
    assert len(fit.sample.numbers) < 600
    measure_lists(fit, [SIZES], seed=0)
    fit_stages(fit, SIZES, seed=0)
    assert reader.read == 2 * ROWS + len(fit.sample.numbers)
    assert 0 < fit.curves.kept["int8"] < fit.curves.kept["bf16"] * 1e4
    assert fit.curves.kept["fp32"] == 0


def test_scratch_files_change_nothing(monkeypatch):
    """A survey, its classes and its sample are the same from columns in files."""
    one = make_case()[2]
    other = make_case(scratch=Scratch(memory_bytes=0))[2]
    assert np.array_equal(one.survey.values, other.survey.values[0:ROWS])
    assert np.array_equal(one.classes.number, other.classes.number[0:ROWS])
    assert np.array_equal(one.sample.numbers, other.sample.numbers)
    assert torch.equal(one.sample.rows.weights, other.sample.rows.weights)
    curves = [measure_lists(found, [SIZES], seed=0)[0][0].distortion.tolist() for found in (one, other)]
    assert curves[0] == curves[1]


def test_a_sample_does_not_depend_on_slices(monkeypatch):
    """The same rows are drawn, whether numbers per row are read in one piece or in many."""
    reader, survey, _ = make_case()
    whole = draw_sample(reader, survey, size=300, seed=1)
    monkeypatch.setattr("memrec_convert.distill.survey.slices", lambda rows: columns.slices(rows, step=100))
    parts = draw_sample(reader, survey, size=300, seed=1)
    assert np.array_equal(whole.numbers, parts.numbers)
    assert group_by_value(survey.values).rows.sum() == ROWS
