"""Low rank: every row as a few int8 coefficients of shared directions, the best for the weights and the metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from memrec_convert.lab.held import FP32, BlockInt8, HeldTable, Numbers, number_shapes
from memrec_convert.lab.rivals.rival import Option
from memrec_convert.lab.view import TableView


@dataclass(frozen=True)
class LowRank:
    """A singular value decomposition of the rows less their mean, weighted by frequency, in the model's metric."""

    name: str = "low rank (SVD)"

    def options(self, view: TableView) -> list[Option]:
        """One per rank."""
        energies, _ = _directions(view)
        options = []
        for rank in range(1, view.dim):
            shapes = number_shapes(
                centre=(FP32, 1, view.dim), directions=(FP32, rank, view.dim), factors=(BlockInt8(), view.count, rank)
            )
            lost = float(energies[rank:].clamp(min=0).sum())
            options.append(Option(f"rank {rank}", shapes, lost, partial(_make, view, rank)))
        return options


def _directions(view: TableView) -> tuple[Tensor, Tensor]:
    """Weighted energies along the main directions, largest first (float64 [dim]), and those directions as columns."""

    def find() -> tuple[Tensor, Tensor]:
        moment = torch.zeros(view.dim, view.dim, dtype=torch.float64)
        for piece in view.chunks():
            mapped = ((view.rows[piece] - view.survey.centre) @ view.survey.metric).to(torch.float64)
            moment += mapped.T @ (mapped * view.weights[piece].unsqueeze(1))
        energies, vectors = torch.linalg.eigh(moment)
        return energies.flip(0), vectors.flip(1)

    found: tuple[Tensor, Tensor] = view.remember("low rank", find)
    return found


def _make(view: TableView, rank: int) -> HeldTable:
    _, vectors = _directions(view)
    metric = view.survey.metric.to(torch.float64)
    forward, back = metric @ vectors[:, :rank], torch.linalg.solve(metric.T, vectors[:, :rank]).T
    factors = torch.cat(
        [(view.rows[piece] - view.survey.centre).to(torch.float64) @ forward for piece in view.chunks()]
    )
    # One scale serves all columns once each has the same reach; the directions carry the rest.
    reach = factors.abs().amax(dim=0).clamp(min=1e-30)
    numbers: Numbers = {
        "centre": (FP32, view.survey.centre.unsqueeze(0)),
        "directions": (FP32, (back * reach.unsqueeze(1)).to(torch.float32)),
        "factors": (BlockInt8(), (factors / reach).to(torch.float32)),
    }
    return HeldTable(numbers, {}, _decode, ("factors",))


def _decode(numbers: Mapping[str, Tensor], _fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    return numbers["centre"] + numbers["factors"][ids] @ numbers["directions"]
