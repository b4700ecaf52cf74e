"""Codes and codebooks refined together: never worse than plain coding, and only where a row goes."""

import itertools

import numpy as np
import pytest
import torch

from memrec_convert.distill import rows as rows_module
from memrec_convert.distill.refine import (
    BEAM,
    RefinedTable,
    _fit_jointly,
    find_centre,
    measure_mean_row,
    move_centre,
    refine_table,
)
from memrec_convert.distill.rows import TensorRows
from memrec_convert.distill.stages import SampleRows, Stage, encode_rows, fit_lists
from memrec_convert.distill.survey import survey_table
from memrec_convert.kernels.encoder import search_codes

SIZES = (2, 4, 16, 8)


def make_case(seed, n=500, dim=4):
    """(reader, survey, fitted stages, depths from -1 to 4) of random rows."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(n, dim, generator=draw) * (0.5 + torch.rand(n, 1, generator=draw))
    weights = torch.randn(n, generator=draw).exp().numpy()
    root = torch.randn(dim, dim, generator=draw)
    reader = TensorRows(table)
    survey = survey_table(reader, weights, root @ root.T / dim + 0.2 * torch.eye(dim))
    sample = SampleRows(table - survey.centre, torch.from_numpy(weights))
    (one,) = fit_lists(sample, survey.metric, [SIZES], scale=survey.scale, iterations=4, seed=seed)
    depths = np.random.default_rng(seed).integers(-1, 5, n).astype(np.int8)
    return reader, survey, one.stages, depths


def loss_of(reader, survey, stages, codes, depths):
    """Summed weight * |(t - z) A|**2 over the rows that are coded, row by row in float64."""
    total = 0.0
    values = [stage.values(survey.scale).double() for stage in stages]
    for row, depth in enumerate(depths.tolist()):
        rest = reader.tensor[row].double() - survey.centre.double()
        for stage in range(max(depth, 0)):
            rest = rest - values[stage][int(codes[row, stage])]
        total += float(survey.weights[row]) * float((rest @ survey.metric.double()).square().sum()) * (depth >= 0)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_below_that_of_plain_coding(seed):
    """Each row at its own depth: refined codes and codebooks lose less than greedy ones, and as much as they say."""
    reader, survey, stages, depths = make_case(seed)
    codes, _ = encode_rows(reader.tensor - survey.centre, survey.metric, stages, scale=survey.scale)
    plain = loss_of(reader, survey, stages, codes.numpy(), depths)
    searched = refine_table(reader, survey, stages, depths, workers=1, rounds=0)
    refined = refine_table(reader, survey, stages, depths, workers=1)
    assert refined.loss < searched.loss < plain
    assert searched.stages == tuple(stages)
    assert refined.loss == pytest.approx(loss_of(reader, survey, refined.stages, refined.codes, depths), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_more_rounds_never_lose_more(seed):
    """The best state is kept, also on few rows, where rounding makes some rounds worse than the one before."""
    reader, survey, stages, depths = make_case(seed, n=30)
    losses = [refine_table(reader, survey, stages, depths, workers=1, rounds=number).loss for number in range(8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_codes_end_at_the_depth_of_their_row():
    """Beyond it they are zero, and a row of depth -1 has none at all; codes stay within their codebooks."""
    reader, survey, stages, depths = make_case(5)
    refined = refine_table(reader, survey, stages, depths, workers=1)
    beyond = np.arange(len(SIZES)) >= depths[:, None]
    assert refined.codes.dtype == np.uint8
    assert (refined.codes[beyond] == 0).all()
    assert (refined.codes < np.array(SIZES)).all()
    assert all((refined.codes[depths > stage, stage] > 0).any() for stage in range(len(SIZES)))


def test_shapes_and_shifts_of_the_stages_stay():
    """Only the entries are fitted anew: what the spec says of the stages holds still."""
    reader, survey, stages, depths = make_case(6)
    refined = refine_table(reader, survey, stages, depths, workers=1)
    assert [(s.size, s.shift, s.reach) for s in refined.stages] == [(s.size, s.shift, s.reach) for s in stages]
    assert all(s.codebook.dtype == torch.int8 and int(s.codebook.min()) >= -127 for s in refined.stages)
    assert any(not torch.equal(a.codebook, b.codebook) for a, b in zip(refined.stages, stages, strict=True))


def test_the_number_of_workers_changes_nothing(monkeypatch):
    """Several chunks by one thread or by three: the same bits."""
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", 1024)
    reader, survey, stages, depths = make_case(8)
    assert len(rows_module.chunk_bounds(*reader.shape)) > 5
    one, three = (refine_table(reader, survey, stages, depths, workers=workers) for workers in (1, 3))
    assert one.loss == three.loss
    assert np.array_equal(one.codes, three.codes)
    assert all(torch.equal(a.codebook, b.codebook) for a, b in zip(one.stages, three.stages, strict=True))


def test_the_metric_decides_what_is_near():
    """Rows are coded for a metric that sees one direction alone: what is lost lies in the other one."""
    table = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    metric = torch.diag(torch.tensor([1.0, 1e-3]))
    survey = survey_table(TensorRows(table), np.ones(400, dtype=np.float32), metric)
    sample = SampleRows(table - survey.centre, torch.ones(400))
    (one,) = fit_lists(sample, metric, [(16,)], scale=survey.scale, iterations=8, seed=0)
    refined = refine_table(TensorRows(table), survey, one.stages, np.ones(400, dtype=np.int8), workers=1)
    found = refined.stages[0].values(survey.scale)[torch.from_numpy(refined.codes[:, 0]).long()]
    lost = (table - survey.centre - found).square().mean(dim=0)
    assert float(lost[0]) < 0.05 * float(lost[1])


def test_a_table_without_stages_keeps_the_centre():
    """No stages: no codes, and the loss is the energy of the rows that are not stored."""
    reader, survey, _, depths = make_case(9)
    depths = np.minimum(depths, 0)
    refined = refine_table(reader, survey, (), depths, workers=1)
    assert refined.codes.shape == (500, 0)
    assert refined.loss == pytest.approx(float(survey.values[depths == 0].sum(dtype=np.float64)), rel=1e-5)


def exhaust(points, books):
    """The least squared distance over every combination of entries, float64 [n]."""
    sums = torch.stack([sum(entries) for entries in itertools.product(*(book.double() for book in books))])
    return torch.cdist(points.double(), sums).square().min(dim=1).values


def sum_entries(books, codes):
    """The sums that codes name."""
    return sum(book[codes[:, number].long()] for number, book in enumerate(books))


def test_a_full_beam_over_pairs_is_exhaustive():
    """Codebooks of two entries and a beam of all codes: the optimum for every point; a narrow beam finds it less."""
    draw = torch.Generator().manual_seed(1)
    books = [0.8**number * torch.randn(2, 3, generator=draw) for number in range(6)]
    points = 1.5 * torch.randn(300, 3, generator=draw)
    best = exhaust(points, books)
    hits = {}
    for beam in (1, 4, 64):
        codes, distances = search_codes(points, books, beam=beam)
        assert torch.allclose(distances, (points - sum_entries(books, codes)).square().sum(dim=1), atol=1e-4)
        assert bool((distances.double() >= best - 1e-4).all())
        hits[beam] = int((distances.double() <= best + 1e-4).sum())
    assert hits[1] < hits[4] < hits[64] == 300


def test_a_full_beam_is_never_worse_than_greedy():
    """For every point and larger codebooks too, since the greedy code stays among the partial ones."""
    draw = torch.Generator().manual_seed(2)
    books = [0.8**number * torch.randn(8, 3, generator=draw) for number in range(5)]
    points = 1.5 * torch.randn(300, 3, generator=draw)
    greedy, full = (search_codes(points, books, beam=beam)[1] for beam in (1, 2**5))
    assert bool((full <= greedy + 1e-4).all())
    assert float(full.mean()) < 0.9 * float(greedy.mean())


def test_a_beam_of_one_is_greedy_coding():
    """It gives the codes of encode_rows."""
    reader, survey, stages, _ = make_case(3)
    rest = reader.tensor - survey.centre
    codes, _ = encode_rows(rest, survey.metric, stages, scale=survey.scale)
    books = [stage.values(survey.scale) @ survey.metric for stage in stages]
    found, _ = search_codes(rest @ survey.metric, books, beam=1)
    assert float((found == codes).all(dim=1).float().mean()) > 0.99  # the two sum in different order: ties may differ


def test_a_codebook_of_one_entry_is_no_obstacle():
    """There is no second nearest entry to try."""
    codes, distance = search_codes(
        torch.tensor([[2.0]]), [torch.tensor([[1.5]]), torch.tensor([[0.1], [0.4]])], beam=BEAM
    )
    assert codes.tolist() == [[0, 1]]
    assert distance.tolist() == pytest.approx([0.01], rel=1e-3)


def test_the_joint_fit_is_weighted_least_squares():
    """All codebooks at once equal numpy's lstsq with a slight pull to the old entries, within half a unit."""
    draw = np.random.default_rng(0)
    n, dim, sizes = 60, 3, (2, 4)
    table = draw.normal(size=(n, dim)).astype(np.float32)
    weights = draw.exponential(size=n).astype(np.float32)
    survey = survey_table(TensorRows(torch.from_numpy(table)), weights, torch.eye(dim))
    codes = np.stack([draw.integers(0, size, n) for size in sizes], axis=1).astype(np.uint8)
    depths = draw.integers(-1, 3, n).astype(np.int8)
    old = [torch.from_numpy(draw.integers(-90, 91, (size, dim)).astype(np.int8)) for size in sizes]
    stages = tuple(Stage(book, shift, 127) for book, shift in zip(old, (0, 1), strict=True))
    design = np.zeros((n, sum(sizes)))
    for stage, first in enumerate((0, 2)):
        deep = np.flatnonzero(depths > stage)
        design[deep, first + codes[deep, stage]] = 1
    mass = weights * (depths >= 0)
    normal = design.T @ (mass[:, None] * design)
    pull = np.sqrt(1e-3 * np.diag(normal).mean())
    current = np.concatenate([stage.values(survey.scale).numpy() for stage in stages])
    left = np.concatenate([np.sqrt(mass)[:, None] * design, pull * np.eye(6)])
    right = np.concatenate([np.sqrt(mass)[:, None] * (table - survey.centre.numpy()), pull * current])
    want = np.linalg.lstsq(left, right, rcond=None)[0]
    reader = TensorRows(torch.from_numpy(table))
    fitted = _fit_jointly(reader, survey, RefinedTable(stages, codes, 0.0), depths)
    found = np.concatenate([stage.values(survey.scale).numpy() for stage in fitted])
    unit = survey.scale * np.array([1] * 2 + [0.5] * 4)[:, None]
    held = np.abs(want) <= 127 * unit
    assert held.mean() > 0.8
    assert (np.abs(found - want)[held] <= np.broadcast_to(unit, want.shape)[held] * 0.501).all()
    assert (np.abs(found)[~held] == np.broadcast_to(127 * unit, want.shape).astype(np.float32)[~held]).all()


def make_lopsided(seed, *, shift=0.4):
    """A case of which the rows at depth 0 lie elsewhere than the others, which weigh more."""
    reader, survey, _, depths = make_case(seed)
    reader.tensor[torch.from_numpy(depths == 0)] += shift
    weights = np.where(depths == 0, survey.weights[:] / 4, survey.weights[:]).astype(np.float32)
    again = survey_table(reader, weights, survey.metric)
    sample = SampleRows(reader.tensor - again.centre, torch.from_numpy(weights))
    (one,) = fit_lists(sample, again.metric, [SIZES], scale=again.scale, iterations=4, seed=seed)
    return reader, again, one.stages, depths


@pytest.mark.parametrize("seed", range(4))
def test_the_centre_goes_to_the_rows_that_are_read_as_it(seed, monkeypatch):
    """It is their weighted mean, in chunks of any size; the others keep their codes and what they decode to."""
    reader, survey, stages, depths = make_lopsided(seed)
    inside, weights = torch.from_numpy(depths == 0), torch.from_numpy(survey.weights[:]).double()
    rows = reader.tensor.double()
    wanted = (rows * weights.unsqueeze(1))[inside].sum(dim=0) / weights[inside].sum()
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", 4 * 4 * 40)
    moved, own = move_centre(reader, survey, stages, depths)
    way = (moved.centre - survey.centre).double() / (wanted - survey.centre.double())
    full = float(own[0].codebook.abs().max()) < 126  # otherwise it goes as far as the codebook lets it
    assert torch.allclose(way, torch.ones(4).double(), atol=1e-4) if full else float(way.min()) >= -1e-4
    assert float(way.max()) > 0.3
    assert own[1:] == tuple(stages[1:])
    before = stages[0].values(survey.scale) + survey.centre
    step = survey.scale * 2.0 ** -stages[0].shift
    assert float((own[0].values(survey.scale) + moved.centre - before).abs().max()) <= 0.51 * step
    lost = [refine_table(reader, *pair, depths, workers=1).loss for pair in ((survey, stages), (moved, own))]
    assert lost[1] < 1.01 * lost[0]  # refined from elsewhere, codes may end elsewhere
    at_mean = [measure_mean_row(reader, survey, one)[depths == 0].sum() for one in (survey.centre, moved.centre)]
    assert at_mean[1] < at_mean[0]
    assert torch.allclose(find_centre(reader, survey, depths == 0).double(), wanted, atol=1e-6)


def test_losses_at_a_centre_are_those_of_every_row():
    """In units of the metric and by weight."""
    reader, survey, _, _ = make_case(2)
    centre = torch.arange(4.0)
    apart = ((reader.tensor - centre) @ survey.metric).square().sum(dim=1)
    assert np.allclose(measure_mean_row(reader, survey, centre), apart.numpy() * survey.weights[:], rtol=1e-4)


def test_a_centre_stays_where_nothing_or_too_much_would_move():
    """Without rows at depth 0, where they count nothing, and where an entry would leave its codebook."""
    reader, survey, stages, depths = make_case(1)
    assert move_centre(reader, survey, stages, np.ones_like(depths)) == (survey, tuple(stages))
    nothing = survey_table(reader, np.where(depths == 0, 0, 1).astype(np.float32), survey.metric)
    assert find_centre(reader, nothing, depths == 0) is None
    assert move_centre(reader, nothing, stages, depths) == (nothing, tuple(stages))
    full = [Stage(torch.full_like(stages[0].codebook, -127), stages[0].shift, stages[0].reach), *stages[1:]]
    reader.tensor[torch.from_numpy(depths == 0)] += 100
    assert move_centre(reader, survey, full, depths) == (survey, tuple(full))
    bare, none = move_centre(reader, survey, (), depths)
    assert none == ()
    assert float((bare.centre - survey.centre).min()) > 90
