"""Linear layers in bf16 and int8: how weights and rows are rounded, and what the kernel computes, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.choices import Compute
from memrec_convert.kernels.loading import load_kernel

LEAST_INPUTS, LEAST_OUTPUTS = 32, 8
"""Matrices with fewer stay wider: they take next to no time, and a log's own features need their digits."""
MOST_INPUTS = 1 << 16
"""With more, sums of products of bytes could leave 32 bits."""
LEAST_ROW = 1e-30
"""A row without larger values is one of zeros."""
_LEVELS, _POSITIVE_LEVELS = 127.0, 255.0
_NUMBERS: dict[Compute, int] = {"fp32": 0, "bf16": 1, "int8": 2}


def takes_int8(shape: Sequence[int]) -> bool:
    """Whether a dense tensor of this shape is stored and multiplied in int8: a large matrix [outputs, inputs]."""
    return len(shape) == 2 and shape[0] >= LEAST_OUTPUTS and LEAST_INPUTS <= shape[1] <= MOST_INPUTS


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight float32 [outputs, inputs] as int8 of the same shape, and float32 [outputs] that each row is times.

    A scale has 16 significant bits, so that rows times scale are exact and give the same bytes when quantised again.
    """
    most = weight.abs().amax(dim=1)
    scale = ((most / _LEVELS).view(torch.int32).add(0xFF) & ~0xFF).view(torch.float32)
    scale = scale.masked_fill(most <= LEAST_ROW, 0.0)
    divisor = scale.masked_fill(scale == 0.0, 1.0).unsqueeze(1)
    rows = (weight / divisor).round().masked_fill(scale.unsqueeze(1) == 0.0, 0.0)
    return rows.to(torch.int8), scale


def widen_weight(rows: Tensor, scale: Tensor) -> Tensor:
    """The float32 [outputs, inputs] that `quantise_weight` stands for."""
    return rows.to(torch.float32) * scale.unsqueeze(1)


@dataclass(frozen=True)
class Layer:
    """One linear layer: weight float32 [outputs, inputs], bias float32 [outputs] or None, and what comes after it.

    positive: no input is below zero, so int8 rows have all 255 levels above it.
    """

    weight: Tensor
    bias: Tensor | None
    precision: Compute
    relu: bool = False
    positive: bool = False

    def pack(self, native: Any) -> object:  # noqa: ANN401 - the extension module
        """The kernel's copy, its weights in the order of its products."""
        weight, scale = self.weight.detach().contiguous(), torch.empty(0)
        if self.precision == "int8":
            weight, scale = quantise_weight(weight)
        elif self.precision == "bf16":
            weight = weight.to(torch.bfloat16)
        bias = None if self.bias is None else self.bias.detach().contiguous()
        return native.make_layer(
            weight.data_ptr(),
            _NUMBERS[self.precision],
            *weight.shape,
            scale.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            int(self.relu),
            int(self.positive),
        )

    def apply(self, rows: Tensor) -> Tensor:
        """The layer on float32 [B, inputs]. In int8 the kernel gives the same bits."""
        if self.precision == "int8":
            result = self._apply_int8(rows)
        elif self.precision == "bf16":
            narrow = rows.to(torch.bfloat16).float()
            result = functional.linear(narrow, self.weight.to(torch.bfloat16).float(), self.bias)
        else:
            result = functional.linear(rows, self.weight, self.bias)
        return result.relu() if self.relu else result

    def _apply_int8(self, rows: Tensor) -> Tensor:
        levels = _POSITIVE_LEVELS if self.positive else _LEVELS
        most = rows.abs().amax(dim=1, keepdim=True)
        full = most > LEAST_ROW
        factor = torch.where(full, levels / most, 0.0)
        own = torch.where(full, most / levels, 0.0) + (rows * 0.0).sum(dim=1, keepdim=True)
        whole = (rows * factor).nan_to_num(0.0).round()
        weight, scale = quantise_weight(self.weight)
        sums = functional.linear(whole.double(), weight.double()).float()  # whole numbers that double holds exactly
        result = sums * (own * scale)
        return result if self.bias is None else result + self.bias


def list_layers(part: nn.Sequential, compute: Compute) -> list[Layer]:
    """The layers of an MLP of Linear and ReLU modules."""
    layers: list[Layer] = []
    positive = False
    modules = list(part)
    for number, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            relu = number + 1 < len(modules) and isinstance(modules[number + 1], nn.ReLU)
            layers.append(Layer(module.weight, module.bias, choose_precision(module.weight, compute), relu, positive))
            positive = relu
    return layers


def choose_precision(weight: Tensor, compute: Compute) -> Compute:
    """What a layer of this weight is computed in under `compute`: small ones stay in fp32."""
    return compute if takes_int8(weight.shape) else "fp32"


def list_fast() -> list[Compute]:
    """What this machine has fast products in, the narrowest first; the last is fp32."""
    native = load_kernel()
    bf16, int8 = native.dense_speed() if native is not None else (False, False)
    wide: list[Compute] = ["bf16", "fp32"] if bf16 else ["fp32"]
    return ["int8", *wide] if int8 else wide


class NarrowLinear(nn.Module):
    """Stands where an `nn.Linear` was, and computes with it in bf16 or int8: float32 [B, inputs] -> [B, outputs].

    Its weights are copied and packed when it is made; it does not learn. Without the kernel it runs in torch, slowly.
    """

    def __init__(self, linear: nn.Linear, compute: Compute, *, positive: bool = False, relu: bool = False) -> None:
        super().__init__()
        precision = choose_precision(linear.weight, compute)
        self.layer = Layer(linear.weight.detach(), linear.bias.detach(), precision, relu, positive)
        self.native = load_kernel()
        self.packed = None if self.native is None else self.layer.pack(self.native)

    def forward(self, rows: Tensor) -> Tensor:
        """Of rows float32 [B, inputs] on the CPU."""
        if self.native is None:
            return self.layer.apply(rows)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        out = torch.empty(len(rows), len(self.layer.weight))
        threads = torch.get_num_threads()
        self.native.run_layer(
            self.packed, rows.data_ptr(), rows.stride(0), len(rows), out.data_ptr(), out.stride(0), threads
        )
        return out
