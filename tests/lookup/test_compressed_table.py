"""Lookups equal a slow decoder's in every form, and tables behave as modules do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import BASES, RandomTable, decode_slowly, random_kept, random_table

from memrec_convert.encoding import TableSpec, describe_form
from memrec_convert.lookup import CompressedEmbedding, CompressedTable

KINDS = st.lists(st.sampled_from(["codes", "fp32", "bf16", "int8"]), max_size=2).map(tuple)


def make(table: RandomTable, *, oov: str = "error") -> CompressedTable:
    """The module of a random table, filled."""
    module = CompressedTable(table.spec, name="t", oov=oov, group=table.group)
    module.fill(table.tensors)
    return module


def all_ids(table: CompressedTable) -> torch.Tensor:
    """Every id once."""
    return torch.arange(table.spec.rows)


@pytest.mark.parametrize("base", BASES)
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), KINDS)
def test_lookups_equal_the_slow_decoder(base: str, seed: int, kinds: tuple[str, ...]) -> None:
    """Every row of a random table, whatever its base and levels, has the bits that the written description gives."""
    table = random_table(seed, base, kinds)
    expected = np.stack([decode_slowly(table, key) for key in range(table.spec.rows)])
    found = make(table).lookup(torch.arange(table.spec.rows))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("base", BASES)
def test_a_lookup_does_not_depend_on_its_company(base: str) -> None:
    """An id's row has the same bits alone, repeated, in any order, and as int32."""
    module = make(random_table(3, base, ("codes", "int8")))
    rows = module.lookup(all_ids(module))
    order = torch.randint(0, module.spec.rows, (500,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(module.lookup(order), rows[order])
    assert torch.equal(module.lookup(order.to(torch.int32)), rows[order])
    for key in (0, 7, module.spec.rows - 1):
        assert torch.equal(module.lookup(torch.tensor([key])), rows[key : key + 1])
    assert module.lookup(order[:0]).shape == (0, module.spec.dim)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_kept_tables_give_their_rows(codec: str) -> None:
    """A kept table gives the rows that its codec holds, and an empty lookup gives none."""
    spec, tensors, rows = random_kept(1, codec)
    module = CompressedTable(spec)
    module.fill(tensors)
    assert torch.equal(module.lookup(all_ids(module)), rows)
    assert module.lookup(torch.empty(0, dtype=torch.int64)).shape == (0, spec.dim)
    assert module.form_names() == ("kept",)
    assert module.form_of(all_ids(module)).eq(0).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(BASES), KINDS)
def test_forms_are_those_of_the_levels(seed: int, base: str, kinds: tuple[str, ...]) -> None:
    """Each id's form is its level's, the base's where it is in none."""
    table = random_table(seed, base, kinds)
    module = make(table)
    assert np.array_equal(module.form_of(all_ids(module)).numpy(), table.levels + 1)
    names = module.form_names()
    first = {"codes": f"code({table.spec.base_depth})", "mean": "mean"}.get(base, "hashed")
    assert names == (first, *(f"code({x.depth})" if x.kind == "codes" else "row" for x in table.spec.levels))


def test_forms_in_words() -> None:
    """A printed table says its size and its form."""
    table = random_table(4, "codes", ("codes", "int8"))
    spec, (deep, stored) = table.spec, table.spec.levels
    words = describe_form(spec)
    assert words == (
        f"{spec.base_bits()}-bit codes + {deep.index.count} ids at {spec.base_bits() + spec.level_bits(deep)} bits"
        f" + {stored.index.count} ids at int8 rows"
    )
    assert f"{spec.rows} x {spec.dim}, {words}" in repr(make(table))
    assert describe_form(random_table(4, "mean", ()).spec) == "mean row"
    weighted = random_table(4, "weighted", ()).spec
    assert weighted.hashing is not None
    assert describe_form(weighted) == f"{weighted.hashing.k} hashed tokens, {weighted.hashing.k_weights} weights"
    assert describe_form(TableSpec(3, 2, "kept", codec="bf16")) == "bf16 rows"


@pytest.mark.parametrize("base", BASES)
def test_tables_are_ordinary_modules(base: str) -> None:
    """Copies, state dicts, training mode and moves leave every row as it was."""
    table = random_table(6, base, ("codes", "bf16"))
    module = make(table)
    rows = module.lookup(all_ids(module))
    twin = copy.deepcopy(module)
    for buffer in module.buffers():
        buffer.zero_()
    assert not torch.equal(module.lookup(all_ids(module)), rows)
    assert torch.equal(twin.lookup(all_ids(twin)), rows)
    assert module.load_state_dict(twin.state_dict()).missing_keys == []
    assert torch.equal(module.lookup(all_ids(module)), rows)
    for changed in (module.train(), module.eval(), module.to("cpu"), module.requires_grad_(False)):
        assert torch.equal(changed.lookup(all_ids(module)), rows)
    assert not list(module.parameters())


@pytest.mark.parametrize("base", ["codes", "weighted"])
def test_out_of_vocabulary_choices(base: str) -> None:
    """An id outside is refused with its number and the table's size, clipped, taken modulo the rows, or zero."""
    table = random_table(8, base, ("codes",))
    rows = table.spec.rows
    ids = torch.tensor([0, -1, rows, 5, rows + 7, -(2**63), 2**63 - 1])
    known = make(table).lookup(torch.arange(rows))
    expected = {
        "clip": [0, 0, rows - 1, 5, rows - 1, 0, rows - 1],
        "hash": [0, rows - 1, 0, 5, 7 % rows, -(2**63) % rows, (2**63 - 1) % rows],
    }
    for oov, picked in expected.items():
        assert torch.equal(make(table, oov=oov).lookup(ids), known[picked])
    zeros = make(table, oov="zero").lookup(ids)
    assert torch.equal(zeros[[0, 3]], known[[0, 5]])
    assert zeros[[1, 2, 4, 5, 6]].eq(0).all()
    with pytest.raises(IndexError, match=rf"table t has {rows} rows: 5 ids are outside, the first is -1$"):
        make(table).lookup(ids)


@pytest.mark.parametrize("oov", ["error", "clip", "hash", "zero"])
def test_choices_do_not_touch_ids_inside(oov: str) -> None:
    """Where all ids are inside, every choice gives the same rows, and an empty lookup is no id outside."""
    table = random_table(9, "codes", ())
    module = make(table, oov=oov)
    assert torch.equal(module.lookup(all_ids(module)), make(table).lookup(all_ids(module)))
    assert module.lookup(torch.empty(0, dtype=torch.int32)).shape == (0, table.spec.dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8, torch.int16])
def test_ids_of_other_types_are_refused(dtype: torch.dtype) -> None:
    """Ids are int64 or int32, as in torch."""
    with pytest.raises(TypeError, match="expected int64 or int32"):
        make(random_table(1, "mean", ())).lookup(torch.zeros(3, dtype=dtype))


def test_filling_refuses_other_shapes_and_types() -> None:
    """Tensors that are not those of the spec are refused by name."""
    spec, tensors, _ = random_kept(1, "int8")
    with pytest.raises(ValueError, match="scale"):
        CompressedTable(spec).fill(tensors | {"scale": tensors["scale"].to(torch.float32)})
    with pytest.raises(ValueError, match="rows"):
        CompressedTable(spec).fill(tensors | {"rows": tensors["rows"][1:]})


def test_the_mean_row_is_not_handed_out_itself() -> None:
    """Rows that a caller writes into leave the table as it was."""
    table = random_table(2, "mean", ())
    module = CompressedEmbedding(table.spec)
    module.fill(table.tensors)
    before = module(torch.tensor([1, 2]))
    module(torch.tensor([1, 2])).zero_()
    assert torch.equal(module(torch.tensor([1, 2])), before)
    spec, tensors, rows = random_kept(3, "fp32")
    kept = CompressedEmbedding(spec)
    kept.fill(tensors)
    kept(torch.tensor([4])).zero_()
    assert torch.equal(kept(torch.tensor([4])), rows[4:5])
