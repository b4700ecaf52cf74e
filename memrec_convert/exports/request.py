"""What a compiled program takes for granted of its inputs, checked by an operator before any of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.exports.packed import load_operators

KINDS = ("dense", "ids", "offsets", "weights", "rows")
"""What a tensor of a request is; the operator knows them by their places here (kernels/operator/request.cpp)."""


class CheckedNetwork(nn.Module):
    """A network that refuses a request whose tensors do not fit together, and otherwise answers as before.

    AOTInductor compares neither shapes nor dtypes nor strides: without this a malformed request would read foreign
    memory.
    """

    if TYPE_CHECKING:
        forms: Tensor

    def __init__(self, network: nn.Module, feeds: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        load_operators()
        self.network = network
        forms = [_read_form(name, feeds) for name in feeds]
        self.register_buffer("forms", torch.tensor(forms, dtype=torch.int32), persistent=False)

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The network's answer; RuntimeError where tensors disagree with the network or with each other."""
        answer: Tensor | tuple[Tensor, ...] = self.network(*torch.ops.memrec.take_request(list(tensors), self.forms))
        return answer


def _read_form(name: str, feeds: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Kind, number of the input (-1 for all), and width (0 for one dimension) of a sample's array."""
    kind, _, number = name.partition("_")
    if kind == "ids" and number and (f"offsets_{number}" in feeds or "dense" not in feeds):
        kind = "rows"  # as many as there are, not one per sample
    width = 0 if number else feeds[name].shape[1]
    return KINDS.index(kind), int(number or -1), width
