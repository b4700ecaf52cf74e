"""Hashing against mmh3 and against Python's own integers."""

from __future__ import annotations

import mmh3
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memrec_convert.kernels.hashing import FIRST_HASH_SEED, WEIGHT_LANES, hash_ids, token_numbers, weight_positions

IDS = st.integers(-(2**63), 2**63 - 1)
SEEDS = st.integers(0, 2**32 - 1)
ROWS_OF_THE_DESIGN = [
    (0, 0, 0x28DF63B7CC57C3CB, 0xF2557DFCC4E8FE52, [11974, 7970], 3742, [2, 5, 14, 15]),
    (1, 7, 0x5B8FDA9EB820EDE5, 0xF2D9258D78993E0B, [26824, 22971], 3371, [11, 0, 14, 3]),
    (123456789012, 42, 0xE80B5EAEB741F92D, 0x16483115EA03BFD1, [67981, 74509], 3355, [1, 13, 15, 11]),
]


def unsigned(value: int) -> int:
    """The 64 bits of a signed number as an unsigned one."""
    return value & (2**64 - 1)


def oracle(key: int, seed: int) -> tuple[int, int]:
    """Both halves of mmh3's hash, unsigned."""
    return mmh3.hash64(key.to_bytes(8, "little", signed=True), seed, x64arch=True, signed=False)


@settings(deadline=None, max_examples=30)
@given(st.lists(IDS, min_size=1, max_size=40), SEEDS)
@example([-(2**63), 2**63 - 1, -1, 0, 1, 2**31, -(2**31), 2**32], 0)
@example([-(2**63), 2**63 - 1, -1, 0, 1, 2**31, -(2**31), 2**32], 2**32 - 1)
@example([5, -5], 2**31)
def test_hashes_are_those_of_mmh3(ids: list[int], seed: int) -> None:
    """Both halves equal mmh3's for any 64-bit id and any 32-bit seed."""
    h1, h2 = hash_ids(torch.tensor(ids), seed)
    assert [(unsigned(a), unsigned(b)) for a, b in zip(h1.tolist(), h2.tolist(), strict=True)] == [
        oracle(key, seed) for key in ids
    ]


@pytest.mark.parametrize(("key", "seed", "first", "second", "tokens", "block", "lanes"), ROWS_OF_THE_DESIGN)
def test_published_table(
    key: int, seed: int, first: int, second: int, tokens: list[int], block: int, lanes: list[int]
) -> None:
    """The three rows that the design gives for d = 75000, 4688 blocks, k = 2 and k' = 4 hold."""
    h1, h2 = hash_ids(torch.tensor([key]), seed)
    assert (unsigned(int(h1)), unsigned(int(h2))) == (first, second)
    assert token_numbers(h1, h2, k=2, rows=75_000).tolist() == [tokens]
    expected = [[block * WEIGHT_LANES + lane for lane in lanes]]
    assert weight_positions(h1, h2, k=4, blocks=4688).tolist() == expected


@pytest.mark.parametrize("table", range(40))
def test_two_ids_hardly_ever_share_both_tokens(table: int) -> None:
    """As rarely as chance has it, 2 n / d**2 of them, whatever the table's number."""
    count, size = 100_000, 100_000
    tokens = token_numbers(*hash_ids(torch.arange(count), FIRST_HASH_SEED + table), k=2, rows=size)
    _, shared = torch.unique(tokens.sort(dim=1).values, dim=0, return_counts=True)
    assert int(shared[shared > 1].sum()) <= 20 * 2 * count**2 / size**2


def test_the_seed_that_makes_both_halves_one() -> None:
    """With 8 they start alike and stay so: no table may have it."""
    h1, h2 = hash_ids(torch.arange(100), 8)
    assert torch.equal(2 * h2, 3 * h1)


@settings(deadline=None, max_examples=30)
@given(st.lists(IDS, min_size=1, max_size=20), SEEDS, st.integers(1, 64), st.integers(1, 2**31 - 1))
@example([0, -1, 2**63 - 1], 3, 64, 2**31 - 1)
@example([0, -1, 2**63 - 1], 3, 3, 1)
def test_tokens_follow_from_big_integers(ids: list[int], seed: int, k: int, rows: int) -> None:
    """Token j is the upper half of h1 + j h2 mod 2**64, reduced to the rows by multiplication."""
    h1, h2 = hash_ids(torch.tensor(ids), seed)
    expected = []
    for key in ids:
        a, b = oracle(key, seed)
        expected.append([((((a + j * b) % 2**64) >> 32) * rows) >> 32 for j in range(k)])
    assert token_numbers(h1, h2, k=k, rows=rows).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(st.lists(IDS, min_size=1, max_size=20), SEEDS, st.integers(1, 16), st.integers(1, 2**31 - 1))
@example([0, -1, 2**63 - 1], 9, 16, 2**31 - 1)
def test_weights_follow_from_big_integers(ids: list[int], seed: int, k: int, blocks: int) -> None:
    """The block comes from the lower half of h1, lane j from nibble j of h2 counted from the low end."""
    h1, h2 = hash_ids(torch.tensor(ids), seed)
    expected = []
    for key in ids:
        a, b = oracle(key, seed)
        block = ((a % 2**32) * blocks) >> 32
        expected.append([16 * block + (b >> (4 * j)) % 16 for j in range(k)])
    assert weight_positions(h1, h2, k=k, blocks=blocks).tolist() == expected


def test_shapes_are_kept_and_empty_ids_hash() -> None:
    """Hashes have the ids' shape, whatever it is, and narrower integers hash as the same number."""
    ids = torch.arange(6).reshape(2, 3)
    h1, h2 = hash_ids(ids, 1)
    assert h1.shape == h2.shape == (2, 3)
    assert token_numbers(h1, h2, k=4, rows=10).shape == (2, 3, 4)
    assert torch.equal(hash_ids(ids.to(torch.int32), 1)[0], h1)
    assert hash_ids(torch.empty(0, dtype=torch.int64), 1)[0].shape == (0,)
