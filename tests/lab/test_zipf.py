"""Zipf's law in classes, and byte counts that are those of the real tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.encoding.index import choose_index
from memrec_convert.encoding.spec import LevelSpec, TableSpec, count_bytes
from memrec_convert.errors import OptionError
from memrec_convert.lab.shapes.zipf import (
    BYTES_PER_TENSOR,
    ZipfForm,
    ZipfLevel,
    choose_zipf_form,
    classify_ranks,
    count_index,
    weigh_table,
)
from memrec_convert.planning.curves import STAGE_LISTS


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.05, 2.0])
@pytest.mark.parametrize("rows", [1, 2, 5, 5000, 300_000])
def test_classes_hold_every_rank_once_with_its_share(rows, exponent):
    """Rows add up, and each class has the share that a sum over its ranks gives."""
    classes = classify_ranks(rows, exponent)
    shares = np.arange(1, rows + 1, dtype=np.float64) ** -exponent
    shares /= shares.sum()
    ends = np.cumsum(classes.rows)
    exact = np.diff(np.append(0.0, np.cumsum(shares)[ends - 1]))
    assert ends[-1] == rows
    np.testing.assert_allclose(classes.lookups, exact, rtol=2e-6)


@pytest.mark.parametrize("exponent", [-0.1, 11.0, float("nan"), float("inf")])
def test_exponents_beyond_reason_are_refused(exponent):
    """Negative, too steep, and what is no number."""
    with pytest.raises(OptionError, match="Zipf exponent"):
        classify_ranks(10, exponent)


@given(rows=st.integers(1, 50_000_000), share=st.floats(0, 1))
def test_an_index_is_counted_as_the_encoding_lays_it_out(rows, share):
    """The smaller of bitmap and keys, to the byte."""
    count = max(1, int(rows * share))
    assert count_index(rows, count) == choose_index(rows, count).nbytes


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 3_000_000), dim=st.sampled_from([4, 16, 128]), price=st.floats(-50, 10))
def test_a_form_is_counted_as_the_encoding_stores_it(rows, dim, price):
    """Bytes of the tensors of the same table as the real spec has it, and 200 for each."""
    form = choose_zipf_form(weigh_table(rows, dim, 1.05, samples=1000), 2.0**price)
    shapes = to_spec(form).tensors()
    assert form.nbytes == count_bytes(shapes.values()) + BYTES_PER_TENSOR * len(shapes)


def to_spec(form: ZipfForm) -> TableSpec:
    """The table spec that a forecast stands for."""
    if form.kept:
        return TableSpec(form.rows, form.dim, "kept", codec=form.kept)
    for sizes in STAGE_LISTS:
        depths = {int(bits): depth for depth, bits in enumerate(np.cumsum([0, *(s.bit_length() - 1 for s in sizes)]))}
        deepest = max([form.base_bits, *(level.bits for level in form.levels)])
        if deepest in depths and form.base_bits in depths and sum(sizes[: depths[deepest]]) == form.entries:
            break
    levels = tuple(
        LevelSpec("codes", choose_index(form.rows, level.rows), depth=depths[level.bits])
        if level.bits
        else LevelSpec("rows", choose_index(form.rows, level.rows), codec="int8")
        for level in form.levels
    )
    stages = sizes[: depths[deepest]]
    return TableSpec(
        form.rows,
        form.dim,
        "replaced",
        stages=stages,
        shifts=(0,) * len(stages),
        base_depth=depths[form.base_bits],
        levels=levels,
    )


def test_forms_say_what_they_are():
    """The mean row is named where some row has nothing else."""
    some = ZipfForm(100, 8, levels=(ZipfLevel(8, 10, 0.6),))
    every = ZipfForm(100, 8, levels=(ZipfLevel(8, 90, 0.9), ZipfLevel(0, 10, 0.1)))
    assert some.describe() == "mean row + 10 ids at 8 bits"
    assert some.lookups() == {"8-bit code": 0.6, "mean": pytest.approx(0.4)}
    assert every.describe() == "90 ids at 8 bits + 10 ids as int8 rows"
    assert "mean" not in every.lookups()
