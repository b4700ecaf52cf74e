"""A linear map that all rows of a table go through: what many ids teach together, the rarely seen ones learn too."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memrec_convert.kernels.ordered import find_spectrum, multiply, sum_moment, take_root

LEAST_ROWS_PER_DIM = 4
"""A table of fewer rows than so many times its dim gets no map: its rows can say each for itself what they learn."""

LEAST_ENERGY = 1e-6
"""Of the strongest direction's: a direction in which rows differ less is not enlarged beyond that."""


class RowMap(nn.Module):
    """At first the identity: rows less their mean, whitened, times a matrix [dim, dim], plus the mean.

    The matrix is trained, in units of its own spread; mean and whitening stay. Whitened, the directions in which rows
    differ little learn as fast as the others.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        values = rows.detach().to(torch.float32)
        sums = sum_moment(torch.cat([values, torch.ones(len(values), 1, dtype=values.dtype)], dim=1))
        mean = sums[-1, :-1] / len(values)
        energies, directions = find_spectrum(sums[:-1, :-1] / len(values) - mean.unsqueeze(1) * mean)
        reach = take_root(energies.clamp(min=max(float(energies[-1]) * LEAST_ENERGY, 1e-30))).unsqueeze(1)
        matrix = (directions * reach).to(torch.float32)
        self.spread = max(math.sqrt(float(matrix.square().mean())), 1e-12)
        self.matrix = nn.Parameter(matrix / self.spread)
        self.register_buffer("mean", mean.to(torch.float32))
        self.register_buffer("whitening", (directions / reach).T.to(torch.float32).contiguous())

    def forward(self, rows: Tensor) -> Tensor:
        """Rows float32 [n, dim] as the table is to have them."""
        return self.mean + multiply(multiply(rows - self.mean, self.whitening), self.matrix * self.spread)


def make_map(rows: Tensor) -> RowMap | None:
    """The map of a table with these rows (float32 [rows, dim]), if it gets one."""
    return RowMap(rows) if len(rows) >= LEAST_ROWS_PER_DIM * rows.shape[1] else None
