"""Products that decide what is written, each sum in one order: the same bits on every instruction set and any BLAS.

Where no kernel is built torch takes them, and the bits rest on its own products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter, functional

from memrec_convert.errors import ModelError
from memrec_convert.kernels.loading import load_kernel

_FP32 = 0
_MOST_PACKED = 1 << 10
"""Copies of weights that are held at a time: of weights that come and go, no more."""


def sum_moment(gradients: Tensor, shares: Tensor | None = None) -> Tensor:
    """The sum of share * g g^T over gradients g (float32 [n, dim]), float64 [dim, dim].

    shares: float64 [n], all 1 by default. Gradients in float64 go through torch.
    """
    native = load_kernel()
    if native is None or gradients.dtype != torch.float32:
        wide = gradients.to(torch.float64)
        weighed = wide if shares is None else wide * shares.unsqueeze(1)
        return weighed.T @ wide
    own = gradients if gradients.stride(1) == 1 else gradients.contiguous()
    weights = None if shares is None else shares.to(torch.float64).contiguous()
    moment = torch.empty(own.shape[1], own.shape[1], dtype=torch.float64, device="cpu")
    address = 0 if weights is None else weights.data_ptr()
    native.sum_moment(own.data_ptr(), *own.shape, own.stride(0), address, moment.data_ptr())
    return moment


def find_spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues of a symmetric matrix (float64 [n, n]), rising, float64 [n], and the eigenvectors, a row each.

    ModelError where its numbers are not finite.
    """
    native, vectors = load_kernel(), matrix.clone().contiguous()
    values = torch.empty(len(matrix), dtype=torch.float64, device="cpu")
    if native is None and bool(torch.isfinite(matrix).all()):
        values, columns = torch.linalg.eigh(matrix)
        return values, columns.T.contiguous()
    if native is None or not native.find_spectrum(vectors.data_ptr(), len(vectors), values.data_ptr()):
        raise ModelError("a sum of squares leaves the range of numbers; expected values of a trained model.")
    return values, vectors


def take_root(values: Tensor) -> Tensor:
    """The square root of each number, without gradients; correctly rounded on the CPU, as torch's own need not be."""
    if values.device.type != "cpu":
        return values.detach().sqrt()
    return torch.from_numpy(np.sqrt(values.detach().numpy()))


def compose(vectors: Tensor, factors: Tensor) -> Tensor:
    """The sum of factor * v v^T over the rows v of `vectors` (float64 [n, n]), in their order, float64 [n, n]."""
    total = torch.zeros_like(vectors)
    for vector, factor in zip(vectors, factors, strict=True):
        total += (vector * factor).unsqueeze(1) * vector
    return total


@dataclass(frozen=True)
class _Packed:
    """The kernel's copy of a weight and a bias, how often they had been written, and their memory, held."""

    versions: tuple[int, ...]
    layer: object
    held: tuple[Tensor, ...]


class OrderedLayers:
    """Linear layers through the kernel, its copies of their weights made anew when a weight has changed.

    learn   whether weights and biases get gradients, where they ask for them; else rows alone
    """

    def __init__(self, *, learn: bool = False) -> None:
        self.learn = learn
        self._packed: dict[tuple[object, ...], _Packed] = {}

    def __getstate__(self) -> dict[str, object]:
        """Copies make the kernel's copies anew."""
        return {"learn": self.learn, "_packed": {}}

    def apply(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """`functional.linear` of rows float32 [n, inputs] by weight [outputs, inputs], then ReLU where asked.

        What has no float32 numbers of its own on the CPU goes through torch.
        """
        if not self.learn:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        given = [rows, weight] if bias is None else [rows, weight, bias]
        if not _fit(rows, weight, bias) or load_kernel() is None or not all(map(has_floats, given)):
            result = functional.linear(rows, weight, bias)
            return result.relu() if relu else result
        product: Tensor = _Product.apply(self, rows, weight, bias, relu)  # type: ignore[no-untyped-call]
        return product

    def run(self, rows: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, turned: bool = False) -> Tensor:
        """The product without its gradients; `turned` by the transpose of the weight."""
        held = (weight,) if bias is None else (weight, bias)
        key = (relu, turned, *((one.data_ptr(), one.shape, one.stride()) for one in held))
        versions = tuple(one._version for one in held)
        packed = self._packed.get(key)
        if packed is None or packed.versions != versions:
            layer = _pack(weight.t() if turned else weight, bias, relu=relu)
            if len(self._packed) >= _MOST_PACKED:
                self._packed.clear()
            packed = self._packed[key] = _Packed(versions, layer, held)
        return _run(packed.layer, rows, weight.shape[1 if turned else 0])


def _fit(rows: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these make a layer, and neither is empty."""
    if rows.dim() != 2 or weight.dim() != 2 or not rows.numel() or not weight.numel():
        return False
    return rows.shape[1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])


def multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix for float32 [n, inputs] and [inputs, outputs], with gradients for both."""
    return OrderedLayers(learn=True).apply(rows, matrix.t())


def has_floats(tensor: Tensor) -> bool:
    """Whether a tensor's float32 numbers can be read here, and its gradients are taken backwards if at all."""
    plain = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return plain and forward_ad._current_level < 0 and has_memory(tensor)


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor's own numbers can be read here: nothing records, transforms or watches the call."""
    if is_dynamo_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if type(tensor) not in (Tensor, Parameter) or tensor.is_inference():
        return False
    if torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack():
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:  # gradients that come in batches
        return False
    return True


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        layers: OrderedLayers,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,
    ) -> Tensor:
        out = layers.run(rows, weight, bias, relu=relu)
        ctx.layers, ctx.relu = layers, relu
        ctx.save_for_backward(rows, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, pulls: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, weight, out = ctx.saved_tensors
        _, of_rows, of_weight, of_bias, _ = ctx.needs_input_grad
        if ctx.relu:
            pulls = torch.ops.aten.threshold_backward(pulls, out, 0)
        found: list[Tensor | None] = [None, None, None]
        if torch.is_grad_enabled() or not has_memory(pulls):  # a gradient of this gradient may be asked for
            found[0] = pulls @ weight if of_rows else None
            found[1] = pulls.t() @ rows if of_weight else None
            found[2] = pulls.sum(dim=0) if of_bias else None
            return None, *found, None
        if of_rows:
            found[0] = ctx.layers.run(pulls, weight, None, relu=False, turned=True)
        if of_weight or of_bias:
            ones = torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)
            beside = torch.cat([rows, ones], dim=1)  # the bias is the weight of a one
            both = _run(_pack(beside.t(), None, relu=False), pulls.t(), beside.shape[1])
            found[1:] = both[:, :-1] if of_weight else None, both[:, -1] if of_bias else None
        return None, *found, None


def _pack(weight: Tensor, bias: Tensor | None, *, relu: bool) -> object:
    native, own = load_kernel(), weight.detach().contiguous()
    assert native is not None
    bias = None if bias is None else bias.detach().contiguous()
    address = 0 if bias is None else bias.data_ptr()
    return native.make_layer(own.data_ptr(), _FP32, *own.shape, 0, address, int(relu), 0)


def _run(layer: object, rows: Tensor, outputs: int) -> Tensor:
    native = load_kernel()
    assert native is not None
    own = rows if rows.stride(1) == 1 else rows.contiguous()
    out = torch.empty(len(own), outputs, dtype=torch.float32, device="cpu")
    native.run_layer(layer, own.data_ptr(), own.stride(0), len(own), out.data_ptr(), outputs, 1)
    return out
