"""torchrec's DLRM_DCN: all vectors side by side through low-rank cross layers, x0 * (W(V x) + b) + x each.

"DCN V2: Improved Deep & Cross Network", https://arxiv.org/abs/2008.13535
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from memrec_convert.choices import Compute
from memrec_convert.errors import ModelError
from memrec_convert.models.narrow import Layer, choose_precision, list_layers
from memrec_convert.models.network import ClickNetwork, build_mlp, check_top, read_widths
from memrec_convert.models.pipeline import CROSSED, PipelineForm, learns


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
        self.dense_inputs = bottom[0]
        self.bottom = build_mlp(bottom, last_relu=True)
        self.cross = nn.ModuleList(CrossLayer(width, rank) for _ in range(layers))
        self.top = build_mlp(top, last_relu=False)

    def _interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """Logits [B] of dense features [B, n] and one [B, dim] per table, or [B, T, dim] in one."""
        parts = [vectors.flatten(1)] if isinstance(vectors, Tensor) else vectors
        first = torch.cat([self.run_part(self.bottom, dense), *parts], dim=1)
        crossed = first
        plain = self.compute == "fp32" or learns(self, first)
        for layer in self.cross:
            if plain:
                added = layer(crossed, self.multiply)
            else:
                down, up = list_cross(layer, self.compute)
                added = up.apply(down.apply(crossed))
            crossed = first * added + crossed
        logits: Tensor = self.run_part(self.top, crossed)
        return logits.flatten()

    def pipeline_form(self) -> PipelineForm:
        """The dense part as the kernel runs it."""
        return PipelineForm(
            CROSSED,
            self.dense_inputs,
            bottom=list_layers(self.bottom, self.compute),
            cross=[one for layer in self.cross for one in list_cross(layer, self.compute)],
            top=list_layers(self.top, self.compute),
        )


class CrossLayer(nn.Module):
    """W(V x) + b with V [rank, width] (`down`) and W [width, rank] (`up`)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width).normal_(std=width**-0.5))
        self.up = nn.Parameter(torch.empty(width, rank).normal_(std=rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, crossed: Tensor, multiply: Callable[..., Tensor]) -> Tensor:
        """[B, width] of [B, width]; `multiply` is `functional.linear` or does the same."""
        return multiply(multiply(crossed, self.down), self.up, self.bias)


def list_cross(layer: nn.Module, compute: Compute) -> tuple[Layer, Layer]:
    """Both products of a cross layer, in the precision that each is computed in."""
    down, up, bias = (layer.get_parameter(name) for name in ("down", "up", "bias"))
    return Layer(down, None, choose_precision(down, compute)), Layer(up, bias, choose_precision(up, compute))
