"""Weighted k-means: it lessens the loss, refills empty clusters, and depends on its seed alone."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.distill.kmeans import assign, fit_centres
from memrec_convert.kernels.encoder import find_means, find_nearest, sum_by_nearest


def make_points(seed, n, dim=3):
    """Points in a few clumps, and weights over several orders of magnitude."""
    draw = torch.Generator().manual_seed(seed)
    clumps = 4 * torch.randn(5, dim, generator=draw)
    points = clumps[torch.randint(0, 5, (n,), generator=draw)] + torch.randn(n, dim, generator=draw)
    return points, (3 * torch.randn(n, generator=draw)).exp()


def loss_of(points, weights, centres):
    """The weighted sum of squared distances to the nearest centre, in float64."""
    square = torch.cdist(points.double(), centres.double()).square()
    return float((weights.double() * square.min(dim=1).values).sum())


def fit(points, weights, k, *, iterations=10, seed=0):
    """Centres with a generator of this seed."""
    return fit_centres(points, weights, k, iterations=iterations, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 20))
def test_no_iteration_raises_the_loss(seed, n, k):
    """One more iteration of Lloyd's algorithm never makes the weighted loss larger."""
    points, weights = make_points(seed, n)
    losses = [loss_of(points, weights, fit(points, weights, k, iterations=number, seed=seed)) for number in range(7)]
    slack = 1e-5 * float((weights * points.square().sum(dim=1)).sum())
    assert all(later <= earlier + slack for earlier, later in itertools.pairwise(losses))


def test_fitted_centres_beat_random_ones():
    """Ten iterations lose less than the best of thirty draws of random points as centres, by a tenth or more."""
    points, weights = make_points(1, 500)
    draw = torch.Generator().manual_seed(2)
    random = [loss_of(points, weights, points[torch.randperm(500, generator=draw)[:8]]) for _ in range(30)]
    assert loss_of(points, weights, fit(points, weights, 8)) < 0.9 * min(random)


def test_assign_gives_the_nearest_centre():
    """No other centre is nearer than the assigned one."""
    points, _ = make_points(3, 200)
    centres, _ = make_points(4, 17)
    square = torch.cdist(points.double(), centres.double()).square()
    chosen = square.gather(1, assign(points, centres).unsqueeze(1)).squeeze(1)
    assert torch.allclose(chosen, square.min(dim=1).values, rtol=1e-4, atol=1e-4)


def test_empty_clusters_are_refilled():
    """Where equal points are drawn as centres, the spare ones move until every distinct point has its own."""
    points = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]]).repeat(20, 1) + 1
    weights = torch.ones(80)
    at_first = [loss_of(points, weights, fit(points, weights, 4, iterations=0, seed=seed)) for seed in range(20)]
    at_last = [loss_of(points, weights, fit(points, weights, 4, iterations=6, seed=seed)) for seed in range(20)]
    assert sum(loss > 1 for loss in at_first) > 10
    assert max(at_last) < 1e-6


def test_more_centres_than_points_hold_every_point():
    """Three points and eight centres: eight finite centres, and no loss."""
    points, weights = make_points(5, 3)
    centres = fit(points, weights, 8)
    assert centres.shape == (8, 3)
    assert bool(torch.isfinite(centres).all())
    assert loss_of(points, weights, centres) < 1e-6


def test_a_heavy_point_draws_a_centre():
    """A point that weighs as much as a million others is all but a centre itself."""
    points, _ = make_points(6, 300)
    weights = torch.ones(300)
    weights[7] = 3e8
    centres = fit(points, weights, 4)
    assert float(torch.cdist(points[7:8], centres).min()) < 1e-3


def test_points_of_no_weight_do_not_move_a_centre():
    """The mean of a cluster leaves out what weighs nothing."""
    points = torch.tensor([[1.0], [3.0], [1000.0]])
    centres = fit(points, torch.tensor([1.0, 1.0, 0.0]), 1)
    assert centres.tolist() == [[2.0]]


def test_the_seed_alone_decides():
    """The same seed gives the same bits, another seed other ones."""
    points, weights = make_points(8, 400)
    one, again, other = (fit(points, weights, 16, seed=seed).numpy() for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 300), st.integers(0, 4), st.sampled_from([1, 3, 16]))
def test_the_whole_search_is_its_steps(seed, n, k, moves, dim):
    """Centres, parts and distances are those of single steps to the bit: with ties, idle weights, bare centres."""
    points, weights = make_points(seed, n, dim)
    points = (2 * points).round() if seed % 2 else points  # many alike
    weights[seed % 3 :: 3] = 0
    centres = points[torch.randint(0, n, (k,), generator=torch.Generator().manual_seed(seed))].clone()
    given_centres = centres.clone()
    found, (nearest, squared) = find_means(points, weights, centres, moves=moves)
    assert torch.equal(centres, given_centres)
    assigned = find_nearest(points, centres)
    for _ in range(moves):
        centres, before = step_to_means(points, weights, assigned, centres), assigned[0]
        assigned = find_nearest(points, centres)
        if torch.equal(before, assigned[0]):
            break
    assert torch.equal(found, centres)
    assert torch.equal(nearest, assigned[0])
    assert torch.equal(squared, assigned[1])


def step_to_means(points, weights, assigned, centres):
    """Centres at the means of their points; those without any at the points that lose most, the first of equal ones."""
    nearest, squared = assigned
    mass, sums = sum_by_nearest(points, weights, nearest, len(centres))
    moved = centres.clone()
    moved[mass > 0] = (sums[mass > 0] / mass[mass > 0].clamp(min=1e-30).unsqueeze(1)).to(torch.float32)
    losses = (weights * squared).tolist()
    worst = sorted(range(len(points)), key=lambda one: (-losses[one], one))
    for centre, point in zip((mass == 0).nonzero().flatten().tolist(), worst, strict=False):
        moved[centre] = points[point]
    return moved


def test_points_that_do_not_lie_row_by_row():
    """Transposed and strided points are read as what they are."""
    points, weights = make_points(3, 60, 8)
    centres, (nearest, _) = find_means(points, weights, points[:5], moves=3)
    for view in (points.T.contiguous().T, points.repeat(1, 2)[:, :8]):
        again, (parts, _) = find_means(view, weights, points[:5], moves=3)
        assert torch.equal(again, centres)
        assert torch.equal(parts, nearest)
