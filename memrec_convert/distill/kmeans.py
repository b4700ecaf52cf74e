"""Weighted k-means: seeded, and the same bits for the same points on every machine that has the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from memrec_convert.kernels.encoder import find_means, find_nearest, measure_rows


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, int64 [n]; points float32 [n, dim], centres float32 [k, dim]."""
    return find_nearest(points, centres)[0]


def fit_centres(points: Tensor, weights: Tensor, k: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """k centres that lessen the weighted sum of squared distances, float32 [k, dim] (Lloyd's algorithm)."""
    return _fit(points, weights, k, iterations, generator)[0]


def partition(points: Tensor, weights: Tensor, k: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """The number of the part of each point, int64 [n]: the nearest of the centres of `fit_centres`."""
    return _fit(points, weights, k, iterations, generator)[1][0]


def _fit(
    points: Tensor, weights: Tensor, k: int, iterations: int, generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Centres, and the nearest of them to each point with its squared distance.

    Starts from points drawn in proportion to weight times squared norm (one round of k-means||).
    """
    contribution = weights * measure_rows(points)[0]
    centres = _draw_points(points, contribution + weights * contribution.mean() / weights.mean(), k, generator)
    return find_means(points, weights, centres, moves=iterations)


def _draw_points(points: Tensor, chances: Tensor, k: int, generator: torch.Generator) -> Tensor:
    # Gumbel top-k: k distinct draws in proportion to the chances, without torch.multinomial's limit on their number.
    noise = torch.rand(len(points), generator=generator).clamp_(min=1e-20)
    keys = _take_log(chances.clamp(min=1e-30)) - _take_log(-_take_log(noise))
    drawn = keys.topk(min(k, len(points))).indices
    centres = points[drawn]
    return centres if len(centres) == k else torch.cat([centres, points.new_zeros(k - len(centres), points.shape[1])])


def _take_log(values: Tensor) -> Tensor:
    """Logarithms, float32 of float32: rounded from double, as torch's own of float32 differ between processors."""
    return values.to(torch.float64).log().to(torch.float32)
