"""The split of a budget over tables: never above it, and no single change that still fits would be better."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.lab.rivals.rival import Option
from memrec_convert.lab.split import split_budget

FIXED_BYTES = 50


def make_option(nbytes: int, distortion: float) -> Option:
    """An option of one tensor; it is never built."""
    return Option(f"{nbytes} bytes", {"x": (torch.uint8, (nbytes,))}, distortion, lambda: None)


def count(options) -> int:
    """The bytes of the whole file."""
    return FIXED_BYTES + sum(option.shapes["x"][1][0] for option in options)


options = st.builds(make_option, st.integers(1, 400), st.floats(0, 1e6, allow_nan=False))
tables = st.lists(st.lists(options, min_size=1, max_size=6), min_size=1, max_size=4)


@given(tables, st.integers(0, 1500))
def test_the_split_stays_within_the_budget(tables, budget):
    """And says how large it is; where nothing fits, it is the smallest there is."""
    split = split_budget(tables, budget, count)
    smallest = FIXED_BYTES + sum(min(count([option]) - FIXED_BYTES for option in one) for one in tables)
    assert split.fits == (smallest <= budget)
    assert split.nbytes == count(split.options)
    assert split.nbytes <= budget if split.fits else split.nbytes == smallest
    assert all(option in one for option, one in zip(split.options, tables, strict=True))


@given(tables, st.integers(0, 1500))
def test_no_single_table_could_do_better(tables, budget):
    """What is left of the budget buys nothing more."""
    split = split_budget(tables, budget, count)
    for place, one in enumerate(tables if split.fits else ()):
        for option in one:
            changed = [*split.options[:place], option, *split.options[place + 1 :]]
            assert count(changed) > budget or option.distortion >= split.options[place].distortion


def test_bytes_go_where_they_help():
    """Of two tables of equal sizes the one that loses more gets the bytes."""
    cheap, dear = ([make_option(10, loss), make_option(100, 0.0)] for loss in (1.0, 5.0))
    split = split_budget([cheap, dear], FIXED_BYTES + 110, count)
    assert [option.shapes["x"][1][0] for option in split.options] == [10, 100]
    assert split.distortion == 1.0
