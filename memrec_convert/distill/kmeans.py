"""Weighted k-means in single-threaded torch: seeded, and the same bits for the same points."""

from __future__ import annotations

import torch
from torch import Tensor


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, int64 [n]; points float32 [n, dim], centres float32 [k, dim]."""
    half_norms = centres.square().sum(dim=1) / 2
    return torch.addmm(half_norms, points, centres.T, alpha=-1).argmin(dim=1)


def fit_centres(points: Tensor, weights: Tensor, k: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """k centres that lessen the weighted sum of squared distances, float32 [k, dim] (Lloyd's algorithm).

    Starts from points drawn in proportion to weight times squared norm (one round of k-means||); a centre that loses
    all its points moves to the point that contributes most.
    """
    contribution = weights * points.square().sum(dim=1)
    centres = _draw_points(points, contribution + weights * contribution.mean() / weights.mean(), k, generator)
    for _ in range(iterations):
        nearest = assign(points, centres)
        centres = _move_to_means(points, weights, nearest, centres)
    return centres


def _draw_points(points: Tensor, chances: Tensor, k: int, generator: torch.Generator) -> Tensor:
    # Gumbel top-k: k distinct draws in proportion to the chances, without torch.multinomial's limit on their number.
    noise = torch.rand(len(points), generator=generator).clamp_(min=1e-20)
    keys = chances.clamp(min=1e-30).log() - (-noise.log()).log()
    drawn = keys.topk(min(k, len(points))).indices
    centres = points[drawn]
    return centres if len(centres) == k else torch.cat([centres, points.new_zeros(k - len(centres), points.shape[1])])


def _move_to_means(points: Tensor, weights: Tensor, nearest: Tensor, centres: Tensor) -> Tensor:
    k = len(centres)
    mass = torch.zeros(k).index_add_(0, nearest, weights)
    sums = torch.zeros_like(centres).index_add_(0, nearest, points * weights.unsqueeze(1))
    moved = torch.where(mass.unsqueeze(1) > 0, sums / mass.clamp(min=1e-30).unsqueeze(1), centres)
    empty = (mass == 0).nonzero().squeeze(1)
    if len(empty):
        distance = weights * (points - centres[nearest]).square().sum(dim=1)
        worst = distance.topk(min(len(empty), len(points))).indices
        moved[empty[: len(worst)]] = points[worst]
    return moved
