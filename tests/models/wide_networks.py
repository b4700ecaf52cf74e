"""Networks whose layers are large enough for int8, around plain tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.choices import Compute
from memrec_convert.models import ClickNetwork, build_model

TABLES, ROWS, DIM = 5, 50, 24
SHAPES = [[ROWS, DIM]] * TABLES
PAIRS = (TABLES + 1) * TABLES // 2
DLRM: dict[str, Any] = {
    "name": "dlrm",
    "bottom": [13, 40, DIM],
    "tables": SHAPES,
    "interaction": "dot",
    "pairs": "lower",
}
WIDE: dict[str, dict[str, Any]] = {
    "dlrm, lower": DLRM | {"top": [DIM + PAIRS, 64, 33, 1]},
    "dlrm, upper": DLRM | {"pairs": "upper", "top": [DIM + PAIRS + 3, 64, 33, 1], "padding": 3},
    "dlrm, diagonal": DLRM | {"self_interaction": True, "top": [DIM + PAIRS + TABLES + 1, 70, 1]},
    "dlrm, odd widths": DLRM
    | {"interaction": "cat", "bottom": [13, 1], "tables": [[ROWS, 1], [ROWS, 33], [ROWS, 9]], "top": [44, 64, 40, 1]},
    "dlrm-dcn": {
        "name": "dlrm-dcn",
        "bottom": [13, 40, DIM],
        "top": [DIM * (TABLES + 1), 64, 33, 1],
        "cross_layers": 2,
        "cross_rank": 40,
        "tables": SHAPES,
    },
    **{
        f"deepfm, {linear}": {
            "name": "deepfm",
            "bottom": [4],
            "top": [DIM * TABLES + 4, 64, 33, 1],
            "fields": TABLES,
            "linear": linear,
            "tables": [*SHAPES, *[[ROWS, 1]] * 2],
        }
        for linear in ("rows", "dense", "none")
    },
}


def make_network(name: str, compute: Compute = "fp32") -> ClickNetwork:
    """One of WIDE with random weights, in eval mode."""
    torch.manual_seed(3)
    tables = [nn.EmbeddingBag(rows, dim, mode="sum") for rows, dim in WIDE[name]["tables"]]
    network = build_model(WIDE[name], tables).eval().requires_grad_(False)
    assert isinstance(network, ClickNetwork)
    network.compute = compute
    return network


def draw_inputs(network: ClickNetwork, samples: int) -> tuple[Tensor, Tensor]:
    """Dense features [samples, n] and ids [samples, inputs]."""
    draw = torch.Generator().manual_seed(samples)
    width = int(network.pipeline_form().dense_inputs)
    dense = torch.rand(samples, width, generator=draw) * 3
    return dense, torch.randint(0, ROWS, (samples, len(network.tables)), generator=draw)
