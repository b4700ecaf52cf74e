"""torchrec's DLRM_DCN: all vectors side by side through low-rank cross layers, x0 * (W(V x) + b) + x each.

"DCN V2: Improved Deep & Cross Network", https://arxiv.org/abs/2008.13535
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.errors import ModelError
from memrec_convert.models.network import ClickNetwork, build_mlp, check_top, read_widths


class DlrmDcn(ClickNetwork):
    """A DLRM_DCN after an architecture; the output is the logit."""

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> None:
        bottom, top = read_widths(architecture, "bottom"), read_widths(architecture, "top")
        super().__init__(architecture, tables)
        width = bottom[-1] + sum(dim for _, dim in self.shapes)
        check_top(top, width)
        layers, rank = architecture.get("cross_layers"), architecture.get("cross_rank")
        if not isinstance(layers, int) or not isinstance(rank, int) or not 0 < layers <= 1000 or rank < 1:
            raise ModelError(f"architecture: {layers!r} cross layers of rank {rank!r} make no network.")
        self.bottom = build_mlp(bottom, last_relu=True)
        self.cross = nn.ModuleList(CrossLayer(width, rank) for _ in range(layers))
        self.top = build_mlp(top, last_relu=False)

    def interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """Logits [B] of dense features [B, n] and one [B, dim] per table, or [B, T, dim] in one."""
        parts = [vectors.flatten(1)] if isinstance(vectors, Tensor) else vectors
        first = torch.cat([self.bottom(dense), *parts], dim=1)
        crossed = first
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        logits: Tensor = self.top(crossed)
        return logits.flatten()


class CrossLayer(nn.Module):
    """W(V x) + b with V [rank, width] (`down`) and W [width, rank] (`up`)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width).normal_(std=width**-0.5))
        self.up = nn.Parameter(torch.empty(width, rank).normal_(std=rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, crossed: Tensor) -> Tensor:
        """[B, width] of [B, width]."""
        return functional.linear(functional.linear(crossed, self.down), self.up, self.bias)
