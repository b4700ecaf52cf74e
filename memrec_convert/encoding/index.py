"""The index of a level: which ids of a table are in it, and at which place, in a handful of bits per id.

Two layouts, each exact (no false hits); a level takes whichever is smaller:

bitmap   64-byte lines of a 32-bit rank and 480 membership bits: 1.07 bits per row of the table.
keys     quotienting. A bijective mix scatters the ids over w = ceil(log2 rows) bits; the upper bits name a bucket, the
         lower `key_bits` are stored. Buckets lie packed behind each other; their starts are 16 bits each, relative to
         32 bits per 64 buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding.bits import pack_codes, packed_bytes, read_codes

LINE_BYTES = 64
BITS_PER_LINE = 8 * (LINE_BYTES - 4)
BUCKETS_PER_GROUP = 64
KEY_BITS = range(4, 17)
MOST_KEYS_PER_BUCKET = 24
"""On average: a lookup compares its key with every one in the bucket."""
MIX_FACTORS = (0x9E3779B1, 0x85EBCA6B)
"""Odd, so that a product with each has an inverse modulo a power of two."""
LEAST_TOGETHER, SPREAD = 256, 16
"""So many ids, within so many times as many, are found together."""
_BIT_COUNTS = torch.tensor([value.bit_count() for value in range(256)], dtype=torch.int64)


@dataclass(frozen=True)
class IndexSpec:
    """The layout of one index: `kind` is "bitmap" or "keys"; `key_bits` counts for keys alone."""

    kind: str
    rows: int
    count: int
    key_bits: int = 0

    @property
    def mixed_bits(self) -> int:
        """w: the bits that an id of this table needs."""
        return max(4, (self.rows - 1).bit_length())

    @property
    def buckets(self) -> int:
        """Buckets of the keys layout."""
        return 1 << (self.mixed_bits - self.key_bits)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole index."""
        if self.kind == "bitmap":
            return LINE_BYTES * -(-self.rows // BITS_PER_LINE)
        return self.keys_start + packed_bytes(self.count, self.key_bits)

    @property
    def groups(self) -> int:
        """Groups of 64 buckets, the last one for the end of the last bucket."""
        return self.buckets // BUCKETS_PER_GROUP + 1

    @property
    def keys_start(self) -> int:
        """Byte at which the packed keys begin: behind the groups' 32-bit and the buckets' 16-bit starts."""
        return 4 * self.groups + 2 * (self.buckets + 1)


@lru_cache(maxsize=1 << 16)
def choose_index(rows: int, count: int) -> IndexSpec:
    """The smallest layout for `count` of `rows` ids."""
    candidates = [IndexSpec("bitmap", rows, count)]
    for key_bits in KEY_BITS:
        spec = IndexSpec("keys", rows, count, key_bits)
        if key_bits <= spec.mixed_bits and count <= MOST_KEYS_PER_BUCKET * spec.buckets:
            candidates.append(spec)
    return min(candidates, key=lambda spec: (spec.nbytes, spec.kind, spec.key_bits))


def order_ids(spec: IndexSpec, ids: np.ndarray) -> np.ndarray:
    """The ids (int64) in the order of their places in the index."""
    if spec.kind == "bitmap":
        return np.sort(ids)
    mixed = mix_ids(torch.from_numpy(ids), spec.mixed_bits).numpy()
    return ids[np.argsort(mixed, kind="stable")]


def build_index(spec: IndexSpec, ordered_ids: np.ndarray) -> np.ndarray:
    """The index as uint8 [spec.nbytes] for ids already in the order of their places."""
    return _build_bitmap(spec, ordered_ids) if spec.kind == "bitmap" else _build_keys(spec, ordered_ids)


def find_places(spec: IndexSpec, index: Tensor, ids: Tensor) -> Tensor:
    """The place of each id (int64 [n]) in the level, or -1 where it is not in it."""
    if spec.count == 0:
        return torch.full_like(ids, -1)
    return _find_in_bitmap(index, ids) if spec.kind == "bitmap" else _find_in_keys(spec, index, ids)


def list_ids(spec: IndexSpec, index: Tensor) -> Tensor:
    """All ids (int64 [count]) in an index that `check_index` found right, in the order of their places."""
    if spec.count == 0:
        return torch.zeros(0, dtype=torch.int64)
    if spec.kind == "bitmap":
        bits = np.unpackbits(index.view(-1, LINE_BYTES)[:, 4:].numpy(), axis=1, bitorder="little")
        return torch.from_numpy(np.flatnonzero(bits))
    return unmix_ids(_read_mixed(spec, index)[0], spec.mixed_bits)


def mix_ids(ids: Tensor, bits: int) -> Tensor:
    """A bijection of [0, 2**bits) onto itself that scatters neighbouring ids: odd products and xor-shifts."""
    mask = (1 << bits) - 1
    half = (bits + 1) // 2
    mixed = (ids * MIX_FACTORS[0]) & mask
    mixed = mixed ^ (mixed >> half)
    mixed = (mixed * MIX_FACTORS[1]) & mask
    return mixed ^ (mixed >> half)


def unmix_ids(mixed: Tensor, bits: int) -> Tensor:
    """The inverse of `mix_ids`; its xor-shifts by half of the bits or more undo themselves."""
    mask = (1 << bits) - 1
    half = (bits + 1) // 2
    ids = ((mixed ^ (mixed >> half)) * pow(MIX_FACTORS[1], -1, 1 << bits)) & mask
    return ((ids ^ (ids >> half)) * pow(MIX_FACTORS[0], -1, 1 << bits)) & mask


def _build_bitmap(spec: IndexSpec, ordered_ids: np.ndarray) -> np.ndarray:
    lines = -(-spec.rows // BITS_PER_LINE)
    member = np.zeros(lines * BITS_PER_LINE, dtype=np.uint8)
    member[ordered_ids] = 1
    by_line = member.reshape(lines, BITS_PER_LINE)
    sums = np.cumsum(by_line.sum(axis=1, dtype=np.int64))
    ranks = np.concatenate([[0], sums[:-1]]).astype("<u4")
    return np.concatenate(
        [ranks.view(np.uint8).reshape(lines, 4), np.packbits(by_line, axis=1, bitorder="little")], axis=1
    ).reshape(-1)


def _find_in_bitmap(index: Tensor, ids: Tensor) -> Tensor:
    lines = index.view(-1, LINE_BYTES)
    if len(ids) >= LEAST_TOGETHER:
        first, last = (int(one) // BITS_PER_LINE for one in torch.aminmax(ids))
        if (last + 1 - first) * BITS_PER_LINE <= SPREAD * len(ids):
            return _find_side_by_side(lines[first : last + 1], ids - first * BITS_PER_LINE)
    line, bit = ids // BITS_PER_LINE, ids % BITS_PER_LINE
    member = (lines[line, 4 + (bit >> 3)].to(torch.int64) >> (bit & 7)) & 1
    held = lines[line]
    # Bits in front of the asked one: whole bytes by a table of bit counts, then the rest of its own byte.
    before = torch.arange(LINE_BYTES - 4, device=ids.device) < (bit >> 3).unsqueeze(1)
    rank = (_BIT_COUNTS.to(ids.device)[held[:, 4:].long()] * before).sum(dim=1)
    own = held.gather(1, (4 + (bit >> 3)).unsqueeze(1)).squeeze(1).to(torch.int64) & ((1 << (bit & 7)) - 1)
    place = _little_endian_32(held[:, :4]) + rank + _BIT_COUNTS.to(ids.device)[own]
    return torch.where(member == 1, place, -1)


def _find_side_by_side(lines: Tensor, ids: Tensor) -> Tensor:
    """As `_find_in_bitmap`, of ids from the first of these lines on: all their bits are counted once."""
    bits = (lines[:, 4:].unsqueeze(2) >> torch.arange(8, device=lines.device, dtype=torch.uint8)) & 1
    member = bits.reshape(len(lines), BITS_PER_LINE)
    before = member.cumsum(dim=1) - member + _little_endian_32(lines[:, :4]).unsqueeze(1)
    return torch.where(member.reshape(-1)[ids] == 1, before.reshape(-1)[ids], -1)


def _build_keys(spec: IndexSpec, ordered_ids: np.ndarray) -> np.ndarray:
    mixed = mix_ids(torch.from_numpy(ordered_ids), spec.mixed_bits).numpy()
    starts = np.searchsorted(mixed >> spec.key_bits, np.arange(spec.buckets + 1))
    groups = starts[::BUCKETS_PER_GROUP]
    relative = starts - groups[np.arange(spec.buckets + 1) // BUCKETS_PER_GROUP]
    if relative.max(initial=0) > 0xFFFF:
        raise ValueError("an index group holds more than 65,535 keys")
    keys = (mixed & ((1 << spec.key_bits) - 1)).astype(np.uint16)
    return np.concatenate(
        [
            groups.astype("<u4").view(np.uint8),
            relative.astype("<u2").view(np.uint8),
            pack_codes(keys[:, None], [spec.key_bits]),
        ]
    )


def _find_in_keys(spec: IndexSpec, index: Tensor, ids: Tensor) -> Tensor:
    mixed = mix_ids(ids, spec.mixed_bits)
    bucket, key = mixed >> spec.key_bits, mixed & ((1 << spec.key_bits) - 1)
    start, stop = _bucket_start(spec, index, bucket), _bucket_start(spec, index, bucket + 1)
    widest = int((stop - start).max()) if len(ids) else 0
    if widest <= 0:
        return torch.full_like(ids, -1)
    places = start.unsqueeze(1) + torch.arange(widest, device=ids.device)
    inside = places < stop.unsqueeze(1)
    keys = index[spec.keys_start :]
    stored = read_codes(
        keys, places.clamp_(max=spec.count - 1), entry_bits=spec.key_bits, first_bit=0, bits=spec.key_bits
    )
    hit = inside & (stored == key.unsqueeze(1))
    return torch.where(hit, places, -1).amax(dim=1)


def _bucket_start(spec: IndexSpec, index: Tensor, bucket: Tensor) -> Tensor:
    groups = index[: 4 * spec.groups].view(-1, 4)
    relative = index[4 * spec.groups : spec.keys_start].view(-1, 2)
    low_high = relative[bucket].to(torch.int64)
    return _little_endian_32(groups[bucket // BUCKETS_PER_GROUP]) + low_high[:, 0] + (low_high[:, 1] << 8)


def _little_endian_32(four_bytes: Tensor) -> Tensor:
    wide = four_bytes.to(torch.int64)
    return wide[:, 0] | (wide[:, 1] << 8) | (wide[:, 2] << 16) | (wide[:, 3] << 24)


def check_index(spec: IndexSpec, index: Tensor) -> str:
    """What is wrong with an index read from a file, or "" where it is one that `build_index` makes."""
    if spec.kind == "bitmap":
        lines = index.view(-1, LINE_BYTES)
        held = _BIT_COUNTS[lines[:, 4:].long()].sum(dim=1)
        ranks = torch.cumsum(held, 0) - held
        if int(held.sum()) != spec.count or not torch.equal(_little_endian_32(lines[:, :4]), ranks):
            return "its ranks and bits disagree"
        tail = spec.rows - (len(lines) - 1) * BITS_PER_LINE
        beyond = torch.arange(tail, BITS_PER_LINE)
        if bool(((lines[-1, 4 + (beyond >> 3)].long() >> (beyond & 7)) & 1).any()):
            return "it holds ids beyond the table"
        return ""
    mixed, fault = _read_mixed(spec, index)
    if fault:
        return fault
    if bool((unmix_ids(mixed, spec.mixed_bits) >= spec.rows).any()):
        return "it holds ids beyond the table"
    return ""


def read_mixed(spec: IndexSpec, index: Tensor) -> np.ndarray | None:
    """The ids of an index of keys as it mixes them, int64 [count], rising; None where the index is damaged."""
    mixed, fault = _read_mixed(spec, index)
    return None if fault else mixed.numpy()


def _read_mixed(spec: IndexSpec, index: Tensor) -> tuple[Tensor, str]:
    """The mixed ids, and what is wrong with them or ""."""
    starts = _bucket_start(spec, index, torch.arange(spec.buckets + 1))
    if int(starts[0]) != 0 or int(starts[-1]) != spec.count or bool((starts[1:] < starts[:-1]).any()):
        return starts, "its bucket starts do not rise from 0 to the number of ids"
    keys = read_codes(
        index[spec.keys_start :], torch.arange(spec.count), entry_bits=spec.key_bits, first_bit=0, bits=spec.key_bits
    )
    buckets = torch.repeat_interleave(torch.arange(spec.buckets), starts[1:] - starts[:-1])
    mixed = (buckets << spec.key_bits) | keys
    rising = not bool((mixed[1:] <= mixed[:-1]).any())
    return mixed, "" if rising else "its keys do not rise within their buckets"
