"""Sizes of the published form: within the budget and near it, and an error that names one that works."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up_curves import count_file

from memrec_convert.encoding import TableSpec, count_bytes
from memrec_convert.encoding.spec import table_spec_from_json
from memrec_convert.planning.hashed import KEPT_SHARES, TableShape, plan_hashed, refuse_budget

SHAPES = st.lists(
    st.builds(TableShape, st.integers(200, 50_000), st.sampled_from([1, 3, 8, 24, 100]), st.booleans()),
    min_size=1,
    max_size=4,
).filter(lambda shapes: any(shape.replaceable for shape in shapes))
KINDS = st.sampled_from([(1, 0), (2, 0), (2, 4), (3, 16)])


def bare_bytes(shapes):
    """The file without any group."""
    return count_file(
        [
            TableSpec(s.rows, s.dim, "replaced") if s.replaceable else TableSpec(s.rows, s.dim, "kept", codec="int8")
            for s in shapes
        ]
    )


def groups_of(specs):
    """The groups of a plan, each once."""
    return set({spec.hashing for spec in specs if spec.hashing is not None})


@settings(deadline=None, max_examples=30)
@given(SHAPES, st.floats(-3, 0), st.sampled_from(KEPT_SHARES), KINDS)
def test_a_plan_fits_and_uses_its_bytes(shapes, exponent, share, kind):
    """Never beyond the budget; all but a row and a block per group is used unless M has as many rows as its tables."""
    k, k_weights = kind
    hashable = sum(s.rows * s.dim for s in shapes if s.replaceable)
    budget = bare_bytes(shapes) + int(2000 + hashable * 10**exponent)
    specs = plan_hashed(shapes, budget, count_file, kept_share=share, k=k, k_weights=k_weights)
    assume(specs is not None)
    used, groups = count_file(specs), groups_of(specs)
    assert used <= budget
    for group in groups:
        assert (group.k, group.k_weights, group.token_codec) == (k, k_weights, "int8")
        own = [s for s, spec in zip(shapes, specs, strict=True) if spec.hashing == group]
        assert {s.dim for s in own} == {group.dim}
        assert group.rows <= sum(s.rows for s in own)
        if group.rows == sum(s.rows for s in own):
            return
    left_over = sum(group.dim + 1 + 32 for group in groups) + 1
    assert budget - used <= left_over
    hashed = sum(count_bytes(group.tensors().values()) for group in groups)
    if hashed > 100 * left_over:
        assert used > bare_bytes(shapes) + 0.99 * hashed


@settings(deadline=None, max_examples=20)
@given(SHAPES, KINDS)
def test_the_named_budget_works(shapes, kind):
    """A hopeless budget is refused with one that a plan then fits."""
    k, k_weights = kind
    sizes = {"k": k, "k_weights": k_weights}
    assert plan_hashed(shapes, 500, count_file, kept_share=0.0, **sizes) is None
    message = str(refuse_budget(shapes, 500, count_file, **sizes))
    named = int(re.search(r"method memrec: [^(]*\((\d+) bytes", message).group(1))
    specs = plan_hashed(shapes, named, count_file, kept_share=0.0, **sizes)
    assert count_file(specs) <= named
    assert plan_hashed(shapes, int(0.998 * named), count_file, kept_share=0.0, **sizes) is None


def test_specs_are_ones_that_a_file_may_hold():
    """Kept tables at int8; the others hashed with a seed each, in one group per dim."""
    shapes = [TableShape(5000, 8, True), TableShape(60, 8, False), TableShape(9000, 8, True), TableShape(800, 4, True)]
    specs = plan_hashed(shapes, 20_000, count_file, kept_share=0.0, k=2, k_weights=4)
    assert [spec.form for spec in specs] == ["replaced", "kept", "replaced", "replaced"]
    assert specs[1].codec == "int8"
    hashed = [spec for spec in specs if spec.hashing]
    assert len({spec.hash_seed for spec in hashed}) == 3
    assert {group.dim for group in groups_of(specs)} == {4, 8}
    assert all(table_spec_from_json(spec.to_json()) == spec for spec in specs)


def test_a_share_keeps_the_smallest_tables():
    """A larger share of the budget for kept tables keeps more of them, smallest first; none with a share of zero."""
    shapes = [TableShape(rows, 8, True) for rows in (40_000, 300, 5000, 1000)]
    kept = []
    for share in KEPT_SHARES:
        specs = plan_hashed(shapes, 60_000, count_file, kept_share=share, k=2, k_weights=0)
        kept.append({shapes[n].rows for n, spec in enumerate(specs) if spec.form == "kept"})
    assert kept == [set(), {300}, {300, 1000}, {300, 1000}]


def test_groups_share_in_proportion_to_their_tables():
    """A dim whose tables are four times as large gets about four times the bytes."""
    shapes = [TableShape(40_000, 16, True), TableShape(20_000, 8, True)]
    specs = plan_hashed(shapes, 50_000, count_file, kept_share=0.0, k=2, k_weights=4)
    large, small = (count_bytes(spec.hashing.tensors().values()) for spec in specs)
    assert large == pytest.approx(4 * small, rel=0.02)


def test_nothing_to_hash_is_no_plan():
    """Where every table stays, the published form has no part."""
    assert plan_hashed([TableShape(50, 4, False)], 10**6, count_file, kept_share=0.0, k=2, k_weights=4) is None
