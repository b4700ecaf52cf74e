"""Weighted k-means: seeded, and the same bits for the same points on every machine that has the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from memrec_convert.kernels.encoder import find_nearest, measure_rows, sum_by_nearest


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, int64 [n]; points float32 [n, dim], centres float32 [k, dim]."""
    return find_nearest(points, centres)[0]


def fit_centres(points: Tensor, weights: Tensor, k: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """k centres that lessen the weighted sum of squared distances, float32 [k, dim] (Lloyd's algorithm)."""
    centres, assigned = _iterate(points, weights, k, iterations - 1, generator)
    return _move_to_means(points, weights, assigned, centres)


def partition(points: Tensor, weights: Tensor, k: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """The number of the part of each point, int64 [n]: the centres of `fit_centres` are the means of these k parts."""
    return _iterate(points, weights, k, iterations, generator)[1][0]


def _iterate(
    points: Tensor, weights: Tensor, k: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Centres, and the nearest of them to each point with its squared distance; `iterations` moves after the first.

    Starts from points drawn in proportion to weight times squared norm (one round of k-means||); a centre that loses
    all its points moves to the point that contributes most. Ends early where no point changes its centre.
    """
    contribution = weights * measure_rows(points)[0]
    centres = _draw_points(points, contribution + weights * contribution.mean() / weights.mean(), k, generator)
    assigned = find_nearest(points, centres)
    for _ in range(iterations):
        centres, before = _move_to_means(points, weights, assigned, centres), assigned[0]
        assigned = find_nearest(points, centres)
        if torch.equal(assigned[0], before):
            break
    return centres, assigned


def _draw_points(points: Tensor, chances: Tensor, k: int, generator: torch.Generator) -> Tensor:
    # Gumbel top-k: k distinct draws in proportion to the chances, without torch.multinomial's limit on their number.
    noise = torch.rand(len(points), generator=generator).clamp_(min=1e-20)
    keys = chances.clamp(min=1e-30).log() - (-noise.log()).log()
    drawn = keys.topk(min(k, len(points))).indices
    centres = points[drawn]
    return centres if len(centres) == k else torch.cat([centres, points.new_zeros(k - len(centres), points.shape[1])])


def _move_to_means(points: Tensor, weights: Tensor, assigned: tuple[Tensor, Tensor], centres: Tensor) -> Tensor:
    nearest, distance = assigned
    mass, sums = sum_by_nearest(points, weights, nearest, len(centres))
    means = (sums / mass.clamp(min=1e-30).unsqueeze(1)).to(torch.float32)
    moved = torch.where(mass.unsqueeze(1) > 0, means, centres)
    empty = (mass == 0).nonzero().squeeze(1)
    if len(empty):
        worst = (weights * distance).topk(min(len(empty), len(points))).indices
        moved[empty[: len(worst)]] = points[worst]
    return moved
