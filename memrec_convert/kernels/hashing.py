"""MurmurHash3_x64_128 of int64 ids, vectorised in torch, and what the hashed encoders draw from its 128 bits.

Bit-exact with `mmh3.hash64(id.to_bytes(8, "little", signed=True), seed, x64arch=True)`. One evaluation per lookup feeds
every token (Kirsch and Mitzenmacher, "Less hashing, same performance") and the block and lanes of the weight table.
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT_LANES = 16
"""Scalars in one block of the weight table: 64 bytes as fp32, one cache line."""

FIRST_HASH_SEED = 16
"""Table n hashes with this seed + n. Never with 8: MurmurHash3's halves both start from the seed xor the key's length,
which then leaves nothing to tell them apart, and all tokens of an id would follow from its first."""

_LOW_32 = 0xFFFFFFFF
KEY_FACTORS = (0x87C37B91114253D5 - 2**64, 0x4CF5AD432745937F)
FMIX_FACTORS = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)


def hash_ids(ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The two 64-bit halves (h1, h2) of each id's hash, as int64 of the same shape: their bits, read as signed."""
    key = ids.to(torch.int64) * KEY_FACTORS[0]
    key = ((key << 31) | _shift_right(key, 33)) * KEY_FACTORS[1]
    first = (key ^ seed) ^ 8  # the 8 is the length of the hashed bytes
    second = torch.full_like(first, seed ^ 8)
    first = first + second
    second = second + first
    first, second = _finish(first), _finish(second)
    first = first + second
    return first, second + first


def token_numbers(h1: Tensor, h2: Tensor, *, k: int, rows: int) -> Tensor:
    """The k hashed tokens of each id, int64 [..., k] in [0, rows)."""
    steps = torch.arange(k, dtype=torch.int64, device=h1.device)
    mixed = h1.unsqueeze(-1) + h2.unsqueeze(-1) * steps
    return _reduce(_shift_right(mixed, 32), rows)


def weight_positions(h1: Tensor, h2: Tensor, *, k: int, blocks: int) -> Tensor:
    """The k entries of the weight table that each id sums, int64 [..., k]: all in one block of 16 lanes."""
    block = _reduce(h1 & _LOW_32, blocks)
    nibbles = 4 * torch.arange(k, dtype=torch.int64, device=h1.device)
    lanes = (h2.unsqueeze(-1) >> nibbles) & (WEIGHT_LANES - 1)
    return block.unsqueeze(-1) * WEIGHT_LANES + lanes


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: no copies of the sign bit come in from the left."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _finish(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 33)) * FMIX_FACTORS[0]
    value = (value ^ _shift_right(value, 33)) * FMIX_FACTORS[1]
    return value ^ _shift_right(value, 33)


def _reduce(hash_32: Tensor, size: int) -> Tensor:
    """Maps 32-bit hashes onto [0, size) by multiplication (Lemire), never by a remainder."""
    return (hash_32 * size) >> 32
