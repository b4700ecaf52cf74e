"""Codebooks of weighted k-means in a metric, as several rivals need them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memrec_convert.distill.kmeans import assign, fit_centres
from memrec_convert.distill.stages import seeded_generator

ITERATIONS = 12


@dataclass(frozen=True)
class Codebook:
    """entries float32 [size, dim]; the nearest is meant in the metric float32 [dim, dim]."""

    entries: Tensor
    metric: Tensor

    def assign(self, points: Tensor) -> Tensor:
        """The entry of least |(point - entry) A|**2 for each point, int64 [n]."""
        return assign(points @ self.metric, self.entries @ self.metric)


def fit_codebook(points: Tensor, weights: Tensor, metric: Tensor, size: int, *, seed: tuple[int, ...]) -> Codebook:
    """`size` entries that lessen the weighted squared distances of points (float32 [n, dim]) in the metric."""
    mapped = points @ metric
    centres = fit_centres(mapped, weights, size, iterations=ITERATIONS, generator=seeded_generator(*seed, size))
    nearest = assign(mapped, centres)
    mass = torch.zeros(size).index_add_(0, nearest, weights)
    sums = torch.zeros(size, points.shape[1]).index_add_(0, nearest, points * weights.unsqueeze(1))
    return Codebook(sums / mass.clamp(min=1e-30).unsqueeze(1), metric)
