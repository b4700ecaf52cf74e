"""Key lines find what their index finds, or say that a line is full; they are made where there is room for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec, count_bytes
from memrec_convert.encoding.index import (
    KEY_BITS,
    LINE_BYTES,
    IndexSpec,
    build_index,
    choose_index,
    mix_ids,
    order_ids,
    unmix_ids,
)
from memrec_convert.lookup.key_lines import (
    KEYS_PER_LINE,
    LEAST_ROOM_BYTES,
    ROOM_SHARE,
    build_lines,
    choose_lines,
    count_line_bytes,
    count_lines,
)


def find_by_hand(spec: IndexSpec, lines: torch.Tensor, id_: int) -> int | None:
    """The place of an id, -1 where it is in none; None where its line is full and does not have it."""
    mixed = int(mix_ids(torch.tensor([id_]), spec.mixed_bits))
    words = lines.numpy().view("<u2")[(mixed * len(lines)) >> spec.mixed_bits]
    held = int(words[2])
    for lane in range(min(held, KEYS_PER_LINE)):
        if words[3 + lane] == mixed % 65536:
            return int(words[0]) + 65536 * int(words[1]) + lane
    return None if held > KEYS_PER_LINE else -1


def check_lines(spec: IndexSpec, ids: np.ndarray) -> int:
    """Asserts that lines and index agree about every row; how many rows full lines leave to the index."""
    ordered = order_ids(spec, ids)
    lines = build_lines(spec, torch.from_numpy(build_index(spec, ordered)), count_lines(spec))
    assert lines.shape == (count_lines(spec), LINE_BYTES)
    place = {int(id_): number for number, id_ in enumerate(ordered)}
    left = 0
    for row in range(spec.rows):
        found = find_by_hand(spec, lines, row)
        left += found is None
        assert found is None or found == place.get(row, -1)
    return left


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_lines_agree_with_their_index(data: st.DataObject) -> None:
    """Every row of a random table is at its place, at none, or in a line that says it is full."""
    rows = data.draw(st.integers(16, 3000))
    count = data.draw(st.integers(1, rows))
    bits = data.draw(st.sampled_from([bits for bits in KEY_BITS if bits <= IndexSpec("keys", rows, 1, 4).mixed_bits]))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    check_lines(IndexSpec("keys", rows, count, bits), draw.choice(rows, count, replace=False).astype(np.int64))


@pytest.mark.parametrize("count", [KEYS_PER_LINE, KEYS_PER_LINE + 1, 60])
def test_a_full_line_says_so(count: int) -> None:
    """Ids that mix to neighbours fall into one line: what it has no room for is left to the index, nothing else is."""
    rows = 4096
    ids = np.sort(unmix_ids(torch.arange(count), 12).numpy())
    left = check_lines(IndexSpec("keys", rows, count, 8), ids)
    assert (left > 0) == (count > KEYS_PER_LINE)


def test_sixteen_bits_tell_ids_apart_in_large_tables() -> None:
    """However few ids a large table has in its index, a line spans at most 65,536 mixed ids."""
    for rows, count in ((2**16, 3), (2**20, 3), (2**20 + 1, 3), (2**26, 1000)):
        spec = choose_index(rows, count)
        assert spec.kind == "keys"
        assert (1 << spec.mixed_bits) / count_lines(spec) <= 65536
    mixed = torch.tensor([5, 5 + 65536])
    spec = IndexSpec("keys", 2**20, 2, 16)
    lines = build_lines(spec, torch.from_numpy(build_index(spec, unmix_ids(mixed, 20).numpy())), count_lines(spec))
    assert [find_by_hand(spec, lines, int(id_)) for id_ in unmix_ids(mixed, 20)] == [0, 1]
    assert find_by_hand(spec, lines, int(unmix_ids(torch.tensor([5 + 2 * 65536]), 20))) == -1


def test_no_lines_where_none_are_asked_for_or_the_index_is_damaged() -> None:
    """Bitmaps, empty indexes and damaged ones are read as they are."""
    spec = IndexSpec("keys", 4096, 60, 8)
    index = torch.from_numpy(build_index(spec, order_ids(spec, np.arange(60))))
    assert len(build_lines(spec, index, count_lines(spec))) == count_lines(spec) > 0
    assert len(build_lines(spec, index, 0)) == 0
    for position in (0, 4 * spec.groups, spec.keys_start):
        damaged = index.clone()
        damaged[position] ^= 0x80
        assert len(build_lines(spec, damaged, count_lines(spec))) == 0
    assert count_lines(IndexSpec("bitmap", 4096, 60)) == 0
    assert count_lines(IndexSpec("keys", 2**48, 60, 16)) == 0


def make_spec(hot: int, *, hashing: HashSpec | None = None) -> TableSpec:
    """A table of a million rows with so many of them in an index of keys."""
    level = LevelSpec("rows", choose_index(10**6, hot), codec="int8")
    return TableSpec(10**6, 16, "replaced", levels=(level,), hashing=hashing)


def test_lines_are_made_while_there_is_room() -> None:
    """Half a megabyte, or a twelfth of what the tables and their shared tokens take; what has no room gets none."""
    small, large = make_spec(10_000), make_spec(70_000)
    of_small, of_large = (count_lines(spec.levels[0].index) for spec in (small, large))
    assert of_small * LINE_BYTES < LEAST_ROOM_BYTES // 2
    assert LEAST_ROOM_BYTES // 4 < of_large * LINE_BYTES < LEAST_ROOM_BYTES // 2
    assert choose_lines([small]) == [[of_small]]
    assert count_line_bytes([small]) == of_small * LINE_BYTES
    assert choose_lines([large] * 4 + [small]) == [[of_large], [of_large], [0], [0], [of_small]]
    hashing = HashSpec("shared", 16, 1_000_000, 1)
    tables = [make_spec(70_000, hashing=hashing)] * 20
    held = 20 * count_bytes(tables[0].tensors().values()) + count_bytes(hashing.tensors().values())
    room = held // ROOM_SHARE
    assert LEAST_ROOM_BYTES < count_line_bytes(tables) <= room < count_line_bytes(tables) + of_large * LINE_BYTES
    assert choose_lines([TableSpec(100, 16, "kept", codec="fp32")]) == [[]]
