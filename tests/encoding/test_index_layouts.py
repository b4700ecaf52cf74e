"""Every layout of the index is exact, of the size it says, and notices damage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.encoding.index import (
    KEY_BITS,
    LINE_BYTES,
    MOST_KEYS_PER_BUCKET,
    IndexSpec,
    build_index,
    check_index,
    choose_index,
    find_places,
    list_ids,
    mix_ids,
    order_ids,
    unmix_ids,
)

LAYOUTS = [("bitmap", 0), *(("keys", bits) for bits in KEY_BITS)]


def build(kind: str, key_bits: int, rows: int, count: int, seed: int) -> tuple[IndexSpec, np.ndarray, torch.Tensor]:
    """A random level: its spec, its ids in the order of their places, and the index."""
    ids = np.random.default_rng(seed).choice(rows, count, replace=False).astype(np.int64)
    spec = IndexSpec(kind, rows, count, key_bits)
    ordered = order_ids(spec, ids)
    assert sorted(ordered.tolist()) == sorted(ids.tolist())
    return spec, ordered, torch.from_numpy(build_index(spec, ordered))


def allowed_rows(kind: str, key_bits: int) -> tuple[int, int]:
    """Fewest and most rows to try a layout with."""
    return (1, 3000) if kind == "bitmap" else ((1 << (key_bits - 1)) + 1, max(3000, 1 << (key_bits + 1)))


@pytest.mark.parametrize(("kind", "key_bits"), LAYOUTS)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_membership_and_places_are_exact(kind: str, key_bits: int, data: st.DataObject) -> None:
    """Each id of a random level is found at its place, every other row at none; the bytes are as promised."""
    rows = data.draw(st.integers(*allowed_rows(kind, key_bits)))
    most = rows if kind == "bitmap" else min(rows, MOST_KEYS_PER_BUCKET * IndexSpec(kind, rows, 1, key_bits).buckets)
    count = data.draw(st.one_of(st.integers(1, min(most, 200)), st.just(most)))
    spec, ordered, index = build(kind, key_bits, rows, count, data.draw(st.integers(0, 2**32 - 1)))
    assert index.dtype == torch.uint8
    assert len(index) == spec.nbytes
    expected = np.full(rows, -1)
    expected[ordered] = np.arange(count)
    assert np.array_equal(find_places(spec, index, torch.arange(rows)).numpy(), expected)
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(find_places(spec, index, shuffled).numpy(), expected[shuffled.numpy()])
    few = shuffled[:100]  # too few to be found together
    assert np.array_equal(find_places(spec, index, few).numpy(), expected[few.numpy()])
    assert list_ids(spec, index).tolist() == ordered.tolist()
    assert check_index(spec, index) == ""


@pytest.mark.parametrize("first", [0, 481, 90_000])
@pytest.mark.parametrize("step", [1, 15, 17, 40])
def test_ids_side_by_side_or_far_apart_have_the_same_places(first: int, step: int) -> None:
    """Near each other they are found together, else each for itself."""
    spec, ordered, index = build("bitmap", 0, 120_000, 30_000, 1)
    expected = np.full(120_000, -1)
    expected[ordered] = np.arange(30_000)
    ids = torch.arange(first, min(first + 300 * step, 120_000), step).flip(0)
    assert np.array_equal(find_places(spec, index, ids).numpy(), expected[ids.numpy()])


@pytest.mark.parametrize(("kind", "key_bits"), [("bitmap", 0), ("keys", 5), ("keys", 12)])
def test_nobody_asked_and_nobody_there(kind: str, key_bits: int) -> None:
    """No ids give no places, and a level without ids has none of them."""
    spec, _, index = build(kind, key_bits, 5000, 40, 1)
    assert find_places(spec, index, torch.empty(0, dtype=torch.int64)).shape == (0,)
    spec, _, index = build(kind, key_bits, 5000, 0, 1)
    assert len(index) == spec.nbytes
    assert find_places(spec, index, torch.arange(5000)).eq(-1).all()
    assert list_ids(spec, index).tolist() == []


@pytest.mark.parametrize(("kind", "key_bits"), [("bitmap", 0), ("keys", 4), ("keys", 7), ("keys", 10)])
def test_every_flipped_bit_is_found(kind: str, key_bits: int) -> None:
    """One wrong bit in the part of an index that decides lookups is found, or is without any effect."""
    rows, count = 700, 40
    spec, _, index = build(kind, key_bits, rows, count, 5)
    places = find_places(spec, index, torch.arange(rows))
    for position in range(len(index)):
        for bit in range(8):
            wrong = index.clone()
            wrong[position] ^= 1 << bit
            if not check_index(spec, wrong):  # a key may become that of another row: then the level is another one
                found = find_places(spec, wrong, torch.arange(rows))
                assert sorted(found[found >= 0].tolist()) == list(range(count))
                if kind == "bitmap":
                    assert torch.equal(found, places)


def test_a_bitmap_names_what_is_wrong() -> None:
    """A wrong rank, a lost id and an id behind the last row are each found in a bitmap."""
    spec, _, index = build("bitmap", 0, 500, 20, 3)
    assert len(index) == 2 * LINE_BYTES
    rank, lost, beyond = index.clone(), index.clone(), index.clone()
    rank[LINE_BYTES] += 1
    lost[int((index[4:LINE_BYTES] > 0).nonzero()[0]) + 4] = 0
    assert check_index(spec, rank) == check_index(spec, lost) == "its ranks and bits disagree"
    last = LINE_BYTES + 4 + 20 // 8  # the 500 rows end at bit 20 of the second line
    beyond[last] |= 1 << 4
    assert check_index(IndexSpec("bitmap", 500, 21), beyond) == "it holds ids beyond the table"


def test_keys_name_what_is_wrong() -> None:
    """Starts that fall, a wrong count, keys out of order or twice, and ids behind the last row are each found."""
    spec, ordered, index = build("keys", 8, 600, 100, 3)
    starts, twice = index.clone(), index.clone()
    starts[4 * spec.groups + 2] = 255
    assert "starts" in check_index(spec, starts)
    short = IndexSpec("keys", 600, 99, 8)
    assert "starts" in check_index(short, index[: short.nbytes])
    twice[spec.keys_start + 1] = twice[spec.keys_start]
    assert "rise" in check_index(spec, twice)
    swapped = index.clone()
    first = spec.keys_start
    swapped[first : first + 2] = index[[first + 1, first]]
    assert "rise" in check_index(spec, swapped)
    fewer = IndexSpec("keys", int(ordered.max()), 100, 8)
    assert fewer.mixed_bits == spec.mixed_bits
    assert check_index(fewer, index) == "it holds ids beyond the table"


@settings(deadline=None, max_examples=14)
@given(st.integers(4, 14))
def test_mixing_is_a_bijection(bits: int) -> None:
    """Mixing maps the numbers of `bits` bits onto themselves, one to one, and unmixing is the way back."""
    everything = torch.arange(1 << bits)
    mixed = mix_ids(everything, bits)
    assert torch.equal(mixed.sort().values, everything)
    assert torch.equal(unmix_ids(mixed, bits), everything)


@settings(deadline=None, max_examples=30)
@given(st.integers(15, 48), st.data())
def test_mixing_can_be_undone_at_any_width(bits: int, data: st.DataObject) -> None:
    """Mixed ids of up to 48 bits stay inside their width and are brought back by unmixing."""
    ids = torch.tensor(data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=20)))
    mixed = mix_ids(ids, bits)
    assert int(mixed.min()) >= 0
    assert int(mixed.max()) < 1 << bits
    assert torch.equal(unmix_ids(mixed, bits), ids)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 1 << 22), st.floats(0, 1))
def test_the_chosen_layout_is_the_smallest(rows: int, share: float) -> None:
    """No layout that could hold the level takes fewer bytes than the chosen one."""
    count = max(1, int(rows * share**4))
    chosen = choose_index(rows, count)
    assert chosen.nbytes <= IndexSpec("bitmap", rows, count).nbytes
    for key_bits in KEY_BITS:
        other = IndexSpec("keys", rows, count, key_bits)
        if key_bits <= other.mixed_bits and count <= MOST_KEYS_PER_BUCKET * other.buckets:
            assert chosen.nbytes <= other.nbytes
    assert (chosen.rows, chosen.count) == (rows, count)


def test_a_group_too_full_for_its_starts_is_refused() -> None:
    """Ids chosen so that one group of buckets overflows 16 bits are refused, never stored wrongly."""
    spec = IndexSpec("keys", 1 << 20, 70_000, 12)
    ids = unmix_ids(torch.arange(70_000), spec.mixed_bits).numpy()
    with pytest.raises(ValueError, match="65,535"):
        build_index(spec, order_ids(spec, ids))
