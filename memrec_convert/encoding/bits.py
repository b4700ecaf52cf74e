"""Codes packed bit by bit: little-endian within bytes, entry after entry, with slack for a reader's wide loads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SLACK_BYTES = 8
"""Zero bytes behind packed codes, so that an 8-byte load at the last entry stays inside the tensor."""


def packed_bytes(entries: int, bits_per_entry: int) -> int:
    """Bytes of `entries` packed codes including the slack; none at all where there is nothing to store."""
    bits = entries * bits_per_entry
    return (bits + 7) // 8 + SLACK_BYTES if bits else 0


def pack_codes(codes: np.ndarray, bits: Sequence[int], *, entries_per_chunk: int = 1 << 16) -> np.ndarray:
    """Packs codes [entries, stages] (unsigned, below 2**bits[stage]) into uint8; an entry's stages lie side by side."""
    entries, width = len(codes), sum(bits)
    packed = np.zeros(packed_bytes(entries, width), dtype=np.uint8)
    for start in range(0, entries if width else 0, entries_per_chunk):  # a chunk of 8 n entries ends on a whole byte
        piece = codes[start : start + entries_per_chunk]
        chunk = np.packbits(_to_bits(piece, bits).reshape(-1), bitorder="little")
        position = start * width // 8
        packed[position : position + len(chunk)] = chunk
    return packed


def read_codes(packed: Tensor, entries: Tensor, *, entry_bits: int, first_bit: int, bits: int) -> Tensor:
    """The field of `bits` <= 16 that starts at `first_bit` of each entry, int64 of the shape of `entries`."""
    position = entries * entry_bits + first_bit
    byte = position >> 3
    word = packed[byte].to(torch.int64) | (packed[byte + 1].to(torch.int64) << 8)
    if bits > 9:  # 7 bits of offset and 9 of field fill two bytes
        word = word | (packed[byte + 2].to(torch.int64) << 16)
    return (word >> (position & 7)) & ((1 << bits) - 1)


def read_fields(packed: np.ndarray, entries: np.ndarray, *, entry_bits: int, bits: Sequence[int]) -> np.ndarray:
    """The fields of entries (int64 [n]), `bits` <= 16 of each field, uint16 [n, fields]; eight bytes at a time."""
    words = np.ndarray((max(len(packed) - SLACK_BYTES + 1, 0),), dtype="<u8", buffer=packed, strides=(1,))
    found = np.empty((len(entries), len(bits)), dtype=np.uint16)
    word, shift, room, offset = words[:0], words[:0], 0, 0
    for field, count in enumerate(bits):
        if room < count:
            position = entries * entry_bits + offset
            word, shift, room = words[position >> 3], (position & 7).astype(np.uint64), 8 * SLACK_BYTES - 7
        found[:, field] = (word >> shift) & np.uint64((1 << count) - 1)
        shift, room, offset = shift + np.uint64(count), room - count, offset + count
    return found


def _to_bits(codes: np.ndarray, bits: Sequence[int]) -> np.ndarray:
    """The bits of entries one by one, uint8 [n, sum(bits)]; as many stages at a time as eight bytes hold."""
    found, word, filled = list[np.ndarray](), np.zeros(len(codes), dtype="<u8"), 0
    for stage, count in enumerate(bits):
        if filled + count > 64:
            found.append(_unpack(word, filled))
            word, filled = np.zeros_like(word), 0
        word |= (codes[:, stage].astype(np.uint64) & np.uint64((1 << count) - 1)) << np.uint64(filled)
        filled += count
    found.append(_unpack(word, filled))
    return found[0] if len(found) == 1 else np.concatenate(found, axis=1)


def _unpack(words: np.ndarray, count: int) -> np.ndarray:
    bits: np.ndarray = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1, count=count, bitorder="little")
    return bits
