"""Rate curves and finished codes: what a form is said to cost is what coding all rows then loses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from memrec_convert.distill import rows as rows_module
from memrec_convert.distill.curves import fit_stages, group_lists, measure_lists, measure_table
from memrec_convert.distill.finish import code_table
from memrec_convert.distill.rows import TensorRows
from memrec_convert.distill.survey import survey_table
from memrec_convert.encoding.codecs import CODECS, FINE_CODECS
from memrec_convert.planning.curves import STAGE_LISTS

LISTS = ((4, 16, 64), (2, 4))


def make_case(seed, n=800, dim=4):
    """(reader, survey) of random rows."""
    draw = torch.Generator().manual_seed(seed)
    reader = TensorRows(torch.randn(n, dim, generator=draw) * torch.randn(n, 1, generator=draw).exp())
    weights = torch.randn(n, generator=draw).exp().numpy()
    root = torch.randn(dim, dim, generator=draw)
    return reader, survey_table(reader, weights, root @ root.T / dim)


def fit(reader, survey, lists=LISTS, **choices):
    """The fit with two short lists."""
    found = measure_table("t", reader, survey, **{"replaceable": True, "seed": 0} | choices)
    groups = group_lists(len(reader.tensor), lists) if found.curves.lists else []
    curves = [curve for group in groups for curve, _ in measure_lists(found, group, seed=choices.get("seed", 0))]
    return replace(found, curves=replace(found.curves, lists=(*found.curves.lists, *curves)))


def stages_of(found, sizes):
    """The stages of a list, none for the empty one."""
    return fit_stages(found, sizes, seed=0) if sizes else ()


def codec_loss(reader, survey, codec):
    """Summed weight * distance of the rows in a codec."""
    rows = reader.tensor
    error = CODECS[codec].decode(CODECS[codec].encode(rows), torch.arange(len(rows)), rows.shape[1]) - rows
    return float((survey.weights * (error @ survey.metric).square().sum(dim=1).double().numpy()).sum())


def test_curves_begin_at_the_energy_of_the_classes():
    """Depth 0 is the centre alone: what each class then loses is its energy; rows are counted once."""
    reader, survey = make_case(0)
    found = fit(reader, survey)
    assert found.curves.class_rows.sum() == 800
    assert {curve.sizes for curve in found.curves.lists} == {(), *LISTS}
    for curve in found.curves.lists:
        assert curve.distortion.shape == (len(curve.sizes) + 1, len(found.classes.rows))
        assert curve.distortion[0] == pytest.approx(found.classes.energy)
    assert found.classes.energy.sum() == pytest.approx(survey.values.sum(dtype=np.float64))


def test_curves_of_a_whole_table_are_exact():
    """Where the sample is the table, every depth and codec is predicted as it comes out."""
    reader, survey = make_case(1)
    found = fit(reader, survey)
    for curve in found.curves.lists:
        stages = stages_of(found, curve.sizes)
        coded = code_table(reader, survey, stages, [*range(len(stages) + 1), "int8"], workers=1)
        totals = coded.losses.sum(axis=1, dtype=np.float64)
        assert curve.distortion.sum(axis=1) == pytest.approx(totals[:-1], rel=1e-4)
        assert found.curves.stored["int8"].sum() == pytest.approx(totals[-1], rel=1e-3)
    assert found.curves.kept["fp32"] == 0
    for codec in ("bf16", "fp16", "int8"):
        assert found.curves.kept[codec] == pytest.approx(codec_loss(reader, survey, codec), rel=1e-3)


def test_a_sample_predicts_the_table():
    """Fitted and measured on an eighth of the rows, each depth is predicted within a fifth."""
    reader, survey = make_case(2, n=6000)
    found = fit(reader, survey, sample_rows=750)
    assert 600 < len(found.sample.numbers) < 900
    for curve in found.curves.lists:
        assert curve.distortion[0] == pytest.approx(found.classes.energy)
        stages = stages_of(found, curve.sizes)
        coded = code_table(reader, survey, stages, range(len(stages) + 1), workers=1)
        assert curve.distortion.sum(axis=1) == pytest.approx(coded.losses.sum(axis=1, dtype=np.float64), rel=0.2)


def test_totals_never_rise_with_depth():
    """Over all classes together another stage never loses more; a class of worthless rows alone may."""
    for seed in (3, 4):
        reader, survey = make_case(seed)
        for curve in fit(reader, survey, lists=STAGE_LISTS).curves.lists:
            totals = curve.distortion.sum(axis=1)
            assert (np.diff(totals) <= 1e-6 * totals[0]).all()


def test_a_table_that_stays_has_kept_forms_alone():
    """Nothing is fitted for it."""
    found = fit(*make_case(5), replaceable=False)
    assert found.curves.lists == ()
    assert found.curves.stored == {}
    assert set(found.curves.kept) == set(CODECS) - set(FINE_CODECS)


def test_lists_that_are_larger_than_the_table_are_left_out():
    """Codebooks of more than two entries a row are never fitted; the mean row alone always is a form."""
    reader, survey = make_case(6, n=40)
    assert [curve.sizes for curve in fit(reader, survey, lists=((4, 16, 64), (2, 4))).curves.lists] == [(), (2, 4)]
    assert fit(*make_case(6, n=41), lists=((2, 16, 64),)).curves.lists[1].sizes == (2, 16, 64)


def test_the_fit_is_deterministic():
    """Same seed, same curves; another seed, others."""
    reader, survey = make_case(7)
    one, again, other = (fit(reader, survey, seed=seed).curves.lists[1].distortion for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_codes_and_losses_of_every_level(monkeypatch):
    """A loss is weight times distance of what the codes decode to, or of the stored row; workers change no bit."""
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", 2000)
    reader, survey = make_case(8)
    stages = stages_of(fit(reader, survey), (4, 16, 64))
    levels = [1, "int8", 3, 0]
    coded, twice = (code_table(reader, survey, stages, levels, workers=workers) for workers in (1, 3))
    assert np.array_equal(coded.codes, twice.codes)
    assert np.array_equal(coded.losses, twice.losses)
    assert coded.losses.shape == (4, 800)
    for level, losses in zip(levels, coded.losses, strict=True):
        if level == "int8":
            rows = CODECS["int8"].decode(
                CODECS["int8"].encode(reader.tensor), torch.arange(800), reader.tensor.shape[1]
            )
        else:
            rows = survey.centre.expand(800, -1)
            for stage in range(level):
                rows = rows + stages[stage].values(survey.scale)[torch.from_numpy(coded.codes[:, stage]).long()]
        want = survey.weights * ((reader.tensor - rows) @ survey.metric).square().sum(dim=1).numpy()
        assert losses == pytest.approx(want, rel=1e-2, abs=1e-4)
    assert coded.losses[3] == pytest.approx(survey.values, rel=1e-3, abs=1e-6)
