"""Codes packed bit by bit come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.encoding.bits import SLACK_BYTES, pack_codes, packed_bytes, read_codes, read_fields

WIDTHS = st.one_of(
    st.lists(st.integers(1, 8), min_size=1, max_size=10),
    st.integers(4, 16).map(lambda bits: [bits]),
    st.lists(st.integers(1, 16), min_size=2, max_size=4),
)


@pytest.mark.parametrize("bits", range(1, 17))
def test_fields_begin_at_any_bit(bits: int) -> None:
    """A field of any width comes back from each of the eight places in a byte where it can begin."""
    for first in range(1, 9):
        codes = draw_codes([first, bits], 3, bits)
        packed = torch.from_numpy(pack_codes(codes, [first, bits]))
        found = read_codes(packed, torch.arange(3), entry_bits=first + bits, first_bit=first, bits=bits)
        assert np.array_equal(found.numpy(), codes[:, 1])


def draw_codes(bits: list[int], entries: int, seed: int) -> np.ndarray:
    """Random codes, the largest and smallest of each width among them, as unsigned 16-bit numbers."""
    draw = np.random.default_rng(seed)
    codes = np.stack([draw.integers(0, 1 << count, entries) for count in bits], axis=1).astype(np.uint16)
    codes[-1:] = [(1 << count) - 1 for count in bits]
    return codes


@settings(deadline=None, max_examples=30)
@given(WIDTHS, st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([8, 16, 1 << 16]))
def test_fields_come_back(bits: list[int], entries: int, seed: int, chunk: int) -> None:
    """Every field of every entry reads as it was packed, at any width, whatever the chunks."""
    codes = draw_codes(bits, entries, seed)
    packed = pack_codes(codes, bits, entries_per_chunk=chunk)
    assert len(packed) == packed_bytes(entries, sum(bits)) == -(-entries * sum(bits) // 8) + SLACK_BYTES
    first = 0
    for stage, count in enumerate(bits):
        found = read_codes(
            torch.from_numpy(packed), torch.arange(entries), entry_bits=sum(bits), first_bit=first, bits=count
        )
        assert np.array_equal(found.numpy(), codes[:, stage])
        first += count
    order = np.random.default_rng(seed).permutation(entries)
    assert np.array_equal(read_fields(packed, order, entry_bits=sum(bits), bits=bits), codes[order])


@settings(deadline=None, max_examples=30)
@given(WIDTHS, st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_layout_is_little_endian(bits: list[int], entries: int, seed: int) -> None:
    """The packed bytes are one long little-endian number: entry after entry, stage after stage, then zero slack."""
    codes, number, position = draw_codes(bits, entries, seed), 0, 0
    for entry in codes:
        for value, count in zip(entry, bits, strict=True):
            number |= int(value) << position
            position += count
    assert pack_codes(codes, bits).tobytes() == number.to_bytes(packed_bytes(entries, sum(bits)), "little")


def test_chunks_beyond_the_default_size_join() -> None:
    """Codes of more entries than one chunk holds are packed as if in one piece."""
    codes = draw_codes([3, 8], 70_000, 1)
    assert np.array_equal(pack_codes(codes, [3, 8]), pack_codes(codes, [3, 8], entries_per_chunk=1 << 20))


def test_nothing_takes_no_bytes() -> None:
    """No entries, or entries of no bits, are no bytes at all, slack included."""
    assert packed_bytes(0, 5) == packed_bytes(5, 0) == 0
    assert len(pack_codes(np.zeros((0, 2), dtype=np.uint8), [3, 4])) == 0
    assert len(pack_codes(np.zeros((4, 0), dtype=np.uint8), [])) == 0
