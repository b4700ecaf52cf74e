"""Products of pairs of a sample's vectors, as DLRM's interaction takes them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from memrec_convert.kernels.loading import load_kernel
from memrec_convert.kernels.ordered import has_floats, has_memory

_WIDTH_UNIT = 16
"""The kernel takes vectors whose length is a multiple of it."""


def pair_index(vectors: int, *, lower: bool, itself: bool) -> Tensor:
    """Places of the pairs in a flattened [vectors, vectors] product, int64, row by row of the triangle.

    Lower: (1,0), (2,0), (2,1), ...; upper: (0,1), (0,2), ...; with `itself` the diagonal belongs to the triangle.
    """
    # On the CPU by name: under another default device torch decomposes it, with a library that imports in a second.
    draw = torch.tril_indices if lower else torch.triu_indices
    above = 1 if not lower and not itself else 0
    places = draw(vectors, vectors, offset=-1 if lower and not itself else above, device="cpu")
    return places[0] * vectors + places[1]


def pair_places(vectors: int, *, lower: bool, itself: bool) -> Tensor:
    """The way back: where in `pair_index` each pair i * vectors + j of j <= i is, int32, and -1 where it is not."""
    pairs = pair_index(vectors, lower=lower, itself=itself)
    left, right = pairs // vectors, pairs % vectors
    places = torch.full((vectors * vectors,), -1, dtype=torch.int32, device="cpu")
    numbers = torch.arange(len(pairs), dtype=torch.int32, device="cpu")
    places[torch.maximum(left, right) * vectors + torch.minimum(left, right)] = numbers
    return places


def multiply_pairs(stacked: Tensor, index: Tensor, *, lower: bool, itself: bool, ordered: bool = False) -> Tensor:
    """The products [n, pairs] of each sample's vectors [n, vectors, dim], in the order of `index`.

    Where they are learnt from, or `ordered` asks for it, the kernel takes the triangle alone, forth and back; its sums
    have one order everywhere.
    """
    learns = torch.is_grad_enabled() and stacked.requires_grad
    if (ordered or learns) and has_floats(stacked) and load_kernel() is not None:
        places = _kept_places(stacked.shape[1], lower, itself)
        padding = -stacked.shape[2] % _WIDTH_UNIT
        padded = functional.pad(stacked, (0, padding)) if padding else stacked
        products: Tensor = _Pairs.apply(padded, index, places)  # type: ignore[no-untyped-call]
        return products
    return torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1).index_select(1, index)


@functools.lru_cache(maxsize=64)
def _kept_places(vectors: int, lower: bool, itself: bool) -> Tensor:
    return pair_places(vectors, lower=lower, itself=itself)


class _Pairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stacked: Tensor, index: Tensor, places: Tensor) -> Tensor:  # noqa: ANN401
        native, held = load_kernel(), stacked.contiguous()
        assert native is not None
        ctx.save_for_backward(stacked, index, places)
        out = held.new_empty(len(held), len(index))
        native.multiply_pairs(held.data_ptr(), *held.shape, places.data_ptr(), len(index), out.data_ptr())
        return out

    @staticmethod
    def backward(ctx: Any, pulls: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        native, (stacked, index, places) = load_kernel(), ctx.saved_tensors
        if torch.is_grad_enabled() or not has_memory(pulls):  # a gradient of this gradient may be asked for
            vectors = stacked.shape[1]
            square = pulls.new_zeros(len(pulls), vectors * vectors).index_copy(1, index, pulls)
            square = square.view(-1, vectors, vectors)
            return (square + square.transpose(1, 2)) @ stacked, None, None
        assert native is not None
        held, pulls = stacked.contiguous(), pulls.contiguous()
        found = torch.empty_like(held)
        sizes = (*held.shape, places.data_ptr(), len(index))
        native.pull_pairs(held.data_ptr(), *sizes, pulls.data_ptr(), found.data_ptr())
        return found, None, None
