"""Specs survive JSON, refuse what contradicts itself, and count bytes that the module then has."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import BASES, random_spec

from memrec_convert.encoding import TableSpec, count_bytes
from memrec_convert.encoding.description import describe_table
from memrec_convert.encoding.spec import table_spec_from_json
from memrec_convert.lookup import CompressedEmbedding, HashGroup
from memrec_convert.lookup.modules import build_module

KINDS = st.lists(st.sampled_from(["codes", "fp32", "bf16", "int8"]), max_size=2).map(tuple)
SPECS = st.builds(
    lambda seed, base, kinds: random_spec(np.random.default_rng(seed), base, kinds)[0],
    st.integers(0, 2**32 - 1),
    st.sampled_from(BASES),
    KINDS,
)
REFUSALS = (ValueError, KeyError, TypeError)
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**30, -(2**63)]),
    st.floats(),
    st.sampled_from(["", "codes", "rows", "keys", "bitmap", "kept", "replaced", "int8", "x"]),
    st.lists(st.integers(-1, 9), max_size=3),
    st.just({}),
    st.just([[]]),
    st.just([{}]),
)


def through_json(plain: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return json.loads(json.dumps(plain))


def list_paths(plain: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a nested JSON value."""
    children = list(plain.items()) if isinstance(plain, dict) else []
    children = list(enumerate(plain)) if isinstance(plain, list) else children
    found = [path] if path else []
    for key, value in children:
        found += list_paths(value, (*path, key))
    return found


def place_of(plain: Any, path: tuple[str | int, ...]) -> Any:
    """What holds the value at a path."""
    for key in path[:-1]:
        plain = plain[key]
    return plain


@settings(deadline=None, max_examples=30)
@given(SPECS)
def test_specs_survive_json(spec: TableSpec) -> None:
    """A spec that went through JSON text is the same spec."""
    assert table_spec_from_json(through_json(spec.to_json())) == spec


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_kept_specs_survive_json(codec: str) -> None:
    """A kept table's spec is the same after JSON, and an unknown codec is refused."""
    spec = TableSpec(7, 3, "kept", codec=codec)
    assert table_spec_from_json(through_json(spec.to_json())) == spec
    with pytest.raises(ValueError, match="int4"):
        table_spec_from_json(spec.to_json() | {"codec": "int4"})


@settings(deadline=None, max_examples=30)
@given(SPECS, st.data())
def test_falsified_specs_are_refused_or_sound(spec: TableSpec, data: st.DataObject) -> None:
    """Whatever value is put anywhere, the answer is a refusal of three kinds or a spec that survives JSON itself."""
    for _ in range(20):
        plain = through_json(spec.to_json())
        path = data.draw(st.sampled_from(list_paths(plain)))
        if data.draw(st.booleans()):
            place_of(plain, path)[path[-1]] = data.draw(ODD_VALUES)
        else:
            del place_of(plain, path)[path[-1]]
        try:
            read = table_spec_from_json(plain)
        except REFUSALS:
            continue
        assert all(length >= 0 for _, shape in read.tensors().values() for length in shape)
        again = read.to_json()
        assert table_spec_from_json(through_json(again)).to_json() == again


FALSIFIED = {
    "rows 0": {"rows": 0},
    "rows as text": {"rows": "9"},
    "rows as a truth": {"rows": True},
    "rows as float": {"rows": 9.0},
    "rows beyond 64 bits": {"rows": 10**30},
    "dim 0": {"dim": 0},
    "form": {"form": "lost"},
    "stage sizes that are no powers": {"stages": [3, 4, 16]},
    "stage of 512": {"stages": [512, 4, 16]},
    "stage of 1": {"stages": [1, 4, 16]},
    "too few shifts": {"shifts": [0, 1]},
    "falling shifts": {"shifts": [2, 1, 3]},
    "shift 8": {"shifts": [0, 1, 8]},
    "sums beyond int16": {"stages": [2] * 9, "shifts": [0] * 8 + [7]},
    "base beyond the stages": {"base_depth": 4},
    "negative base": {"base_depth": -1},
    "base beyond a level": {"base_depth": 2},
    "hash seed": {"hash_seed": 2**32},
}
FALSIFIED_LEVELS = {
    "kind": {"kind": "pages"},
    "count 0": {"count": 0},
    "count beyond rows": {"count": 101},
    "index": {"index": "tree"},
    "narrow keys": {"key_bits": 3},
    "keys beyond ids": {"key_bits": 8},
    "depth beyond stages": {"depth": 4},
    "depth of the base": {"depth": 1},
    "unknown codec": {"kind": "rows", "codec": "fp8"},
    "more keys than buckets take": {"count": 30, "key_bits": 7},
}
FALSIFIED_HASHING = {
    "dim of another table": {"dim": 3},
    "no tokens": {"rows": 0},
    "too many tokens": {"rows": 2**31},
    "k 0": {"k": 0},
    "k 65": {"k": 65},
    "17 weights": {"k_weights": 17},
    "weights without blocks": {"blocks": 0},
    "blocks without weights": {"k_weights": 0},
    "codec": {"token_codec": "fp16"},
    "group": {"group": 5},
    "unknown field": {"colour": 1},
}
SOUND: dict[str, Any] = {
    "rows": 100,
    "dim": 2,
    "form": "replaced",
    "stages": [2, 4, 16],
    "shifts": [0, 1, 3],
    "base_depth": 1,
    "levels": [{"kind": "codes", "count": 20, "index": "keys", "key_bits": 5, "depth": 2}],
}
HASHED: dict[str, Any] = SOUND | {
    "base_depth": 0,
    "hash_seed": 3,
    "hashing": {"group": "dim2", "dim": 2, "rows": 9, "k": 2, "blocks": 1, "k_weights": 4, "token_codec": "int8"},
}


@pytest.mark.parametrize("change", FALSIFIED.values(), ids=FALSIFIED)
def test_false_fields_are_refused(change: dict[str, Any]) -> None:
    """Each field of a table outside its range, of a wrong kind or against another is refused."""
    table_spec_from_json(SOUND)
    with pytest.raises(ValueError, match=r".+"):
        table_spec_from_json(SOUND | change)


@pytest.mark.parametrize("change", FALSIFIED_LEVELS.values(), ids=FALSIFIED_LEVELS)
def test_false_levels_are_refused(change: dict[str, Any]) -> None:
    """Each field of a level outside its range, or against the table's, is refused."""
    with pytest.raises(ValueError, match=r".+"):
        table_spec_from_json(SOUND | {"levels": [SOUND["levels"][0] | change]})


@pytest.mark.parametrize("change", FALSIFIED_HASHING.values(), ids=FALSIFIED_HASHING)
def test_false_groups_are_refused(change: dict[str, Any]) -> None:
    """Each field of a hashed group outside its range, or against the table's, is refused."""
    assert table_spec_from_json(HASHED).hashing is not None
    with pytest.raises((ValueError, TypeError), match=r".+"):
        table_spec_from_json(HASHED | {"hashing": HASHED["hashing"] | change})


def test_a_third_level_and_a_hashed_base_under_codes_are_refused() -> None:
    """Two levels are the most, and an id's base is hashed or coded, never both."""
    with pytest.raises(ValueError, match="3 levels"):
        table_spec_from_json(SOUND | {"levels": SOUND["levels"] * 3})
    with pytest.raises(ValueError, match="does not fit"):
        table_spec_from_json(HASHED | {"base_depth": 1})


@settings(deadline=None, max_examples=30)
@given(SPECS)
def test_counted_bytes_are_the_modules(spec: TableSpec) -> None:
    """The bytes that a spec counts are those of the buffers that its module has, the group's counted once."""
    group = HashGroup(spec.hashing) if spec.hashing else None
    module = CompressedEmbedding(spec, group=group)
    expected = count_bytes(spec.tensors().values())
    if spec.hashing:
        expected += count_bytes(spec.hashing.tensors().values())
    assert sum(buffer.nbytes for buffer in module.buffers()) == expected
    assert sum(tensor.nbytes for tensor in module.state_dict().values()) == expected


def test_bytes_of_odd_shapes() -> None:
    """Scalars take one element, shapes with a zero take none."""
    assert count_bytes([(torch.float32, ()), (torch.int8, (0, 5)), (torch.int64, (2, 3))]) == 4 + 0 + 48


@settings(deadline=None, max_examples=30)
@given(SPECS, st.sampled_from(["", "sum", "mean"]), st.booleans(), st.sampled_from([None, 0, 3]))
def test_descriptions_build_the_module_again(spec: TableSpec, mode: str, with_end: bool, padding: int | None) -> None:
    """A described module is built again with the same buffers, pooling, padding and handling of foreign ids."""
    plain = through_json(
        describe_table(
            spec, name="t", oov="hash", mode=mode, include_last_offset=with_end and bool(mode), padding_idx=padding
        )
    )
    module = build_module(copy.deepcopy(plain), {})
    assert module.spec == spec
    assert (module.name, module.oov, module.padding_idx) == ("t", "hash", padding)
    assert getattr(module, "mode", "") == mode
    assert getattr(module, "include_last_offset", False) == (with_end and bool(mode))


@pytest.mark.parametrize(
    "change",
    [{"oov": "drop"}, {"oov": None}, {"padding_idx": 100}, {"padding_idx": -1}, {"padding_idx": "0"}, {"mode": "max"}],
    ids=str,
)
def test_false_descriptions_are_refused(change: dict[str, Any]) -> None:
    """A description with an unknown choice, or padding outside the table, is refused."""
    plain = SOUND | {"name": "t", "oov": "error", "mode": "sum"}
    build_module(plain, {})
    with pytest.raises(ValueError, match=r".+"):
        build_module(plain | change, {})


def test_groups_are_shared_and_may_not_differ() -> None:
    """Tables of one group share one module for it; a second description of the group must be the first's."""
    groups: dict[str, HashGroup] = {}
    plain = HASHED | {"name": "t", "oov": "error"}
    first, second = build_module(plain, groups), build_module(plain | {"hash_seed": 8}, groups)
    assert first.group is second.group is groups["dim2"]
    with pytest.raises(ValueError, match="differently"):
        build_module(plain | {"hashing": HASHED["hashing"] | {"rows": 10}}, groups)
