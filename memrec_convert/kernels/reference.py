"""Decoding in torch, vectorised over lookups: the reference that every faster path must equal.

Sums of codebook entries and of int8 tokens are integer sums, so they have the same bits on every machine; the one
product with the scale is rounded before the centre is added.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memrec_convert.kernels.hashing import hash_ids, token_numbers, weight_positions


def sum_tokens(codebook: Tensor, entries: Sequence[Tensor], shifts: Sequence[int], carried: Tensor | None) -> Tensor:
    """Horner sum of one entry per stage: acc = (acc << step) + entry, int32 [n, dim] in units of the last shift.

    codebook int8 [entries, dim]; entries: per stage the entry numbers int64 [n]; shifts: per stage, preceded by that of
    `carried` (the sum of earlier stages, or None and a leading 0).
    """
    acc = carried
    for number, entry in enumerate(entries):
        token = codebook[entry].to(torch.int32)
        acc = token if acc is None else (acc << (shifts[number + 1] - shifts[number])) + token
    assert acc is not None
    return acc


def scale_and_centre(acc: Tensor, frame: Tensor, shift: int) -> Tensor:
    """z = centre + scale * 2**-shift * acc, float32 [n, dim]; frame float32 [1 + dim] is the scale, then the centre."""
    product = acc.to(torch.float32) * (frame[0] * 2.0**-shift)
    return product + frame[1:]


def sum_hashed(
    ids: Tensor, *, seed: int, tokens: Tensor, scale: Tensor, weights: Tensor | None, k: int, k_weights: int
) -> Tensor:
    """alpha * sum of k hashed rows of `tokens` (int8 or float32 [d, dim]), float32 [n, dim], without the centre.

    alpha is the sum of `k_weights` entries of `weights` (float16 [blocks * 16]), added in the order of the lanes.
    """
    h1, h2 = hash_ids(ids, seed)
    rows = tokens[token_numbers(h1, h2, k=k, rows=len(tokens))]
    if tokens.dtype == torch.int8:
        total = rows.sum(dim=1, dtype=torch.int32).to(torch.float32) * scale
    else:
        total = _add_in_order(rows.to(torch.float32).unbind(1))
    if weights is None:
        return total
    picked = weights[weight_positions(h1, h2, k=k_weights, blocks=len(weights) // 16)].to(torch.float32)
    return total * _add_in_order(picked.unbind(1)).unsqueeze(1)


def pool_bags(rows: Tensor, offsets: Tensor, *, weights: Tensor | None, mode: str, counted: Tensor | None) -> Tensor:
    """Sums or means of rows (float32 [n, dim]) over bags that start at `offsets` (int64 [b]): float32 [b, dim].

    weights float32 [n] scale each row; `counted` (bool [n]) leaves rows out, as padding ids are; an empty bag is zero.
    """
    ends = torch.cat([offsets[1:], offsets.new_tensor([len(rows)])])
    bag = torch.repeat_interleave(torch.arange(len(offsets), device=rows.device), ends - offsets)
    if weights is not None:
        rows = rows * weights.unsqueeze(1)
    if counted is not None:
        rows, bag = rows[counted], bag[counted]
    pooled = torch.zeros(len(offsets), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, bag, rows)
    if mode == "mean":
        sizes = torch.bincount(bag, minlength=len(offsets)).clamp_(min=1)
        pooled = pooled / sizes.unsqueeze(1).to(pooled.dtype)
    return pooled


def _add_in_order(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
