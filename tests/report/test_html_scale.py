"""Scales of charts: values keep their order, ticks are round, apart, and within."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.report.html.scale import APART, change_scale, linear_scale, list_scale, log_scale, round_step

FIGURES = st.floats(-1e9, 1e9, allow_subnormal=False)
SIZES = st.floats(1, 1e13)
CHANGES = st.floats(-1, 1, allow_subnormal=False)


def check_scale(scale, values):
    """Every value lies within, larger ones not before smaller ones; ticks are in order and within."""
    shares = [scale.share(value) for value in sorted(values)]
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)
    assert shares == sorted(shares)
    places = [scale.share(value) for value, _ in scale.ticks]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


@given(st.lists(FIGURES, min_size=1, max_size=9))
def test_linear_scales_hold_their_values(values):
    """Whatever the values, they lie between the first and the last of a handful of ticks."""
    scale = linear_scale(values, "{:g}".format)
    check_scale(scale, values)
    assert 2 <= len(scale.ticks) <= 8
    room = 1e-6 * max(map(abs, values))
    assert scale.ticks[0][0] <= min(values) + room
    assert scale.ticks[-1][0] >= max(values) - room


@given(st.lists(SIZES, min_size=1, max_size=9))
def test_log_scales_hold_their_values(values):
    """Equal factors are equal lengths, and no more than a handful of ticks is written."""
    scale = log_scale(values, "{:g}".format)
    check_scale(scale, values)
    assert len(scale.ticks) <= 5
    low, middle, high = min(values), (min(values) * max(values)) ** 0.5, max(values)
    assert scale.share(middle) == pytest.approx((scale.share(low) + scale.share(high)) / 2, abs=1e-6)


@given(st.lists(CHANGES, min_size=1, max_size=9))
def test_scales_of_changes_show_zero_and_both_sides(values):
    """Zero has its tick, with room on both sides, and ticks leave room for their labels."""
    scale = change_scale(values)
    check_scale(scale, values)
    assert (0.0, "0") in scale.ticks
    assert 0.02 < scale.share(0.0) < 0.98
    places = [scale.share(value) for value, _ in scale.ticks]
    assert all(b - a >= APART - 1e-9 for a, b in pairwise(places))


def test_small_changes_can_be_told_apart_beside_large_ones():
    """Beside a change of 0.05, one of 0.0002 still moves its point by more than two hundredths of the plot."""
    scale = change_scale([-0.05, -0.0002, 0.0])
    assert scale.share(0.0) - scale.share(-0.0002) > 0.02
    assert [label for _, label in change_scale([-0.0006, 0.0012]).ticks] == ["-0.0005", "0", "+0.0005", "+0.001"]


def test_scales_of_a_list_have_ticks_at_its_values():
    """Batch sizes are written as they are, those that stand too close left out, the largest kept."""
    scale = list_scale([1, 64, 512, 2048, 16384, 64], "{:g}".format)
    assert {value for value, _ in scale.ticks} <= {1, 64, 512, 2048, 16384}
    assert scale.ticks[-1][0] == 16384
    check_scale(list_scale([7], "{:g}".format), [7])


@given(st.floats(1e-12, 1e12))
def test_steps_are_round_and_no_smaller_than_asked(step):
    """1, 2, 2.5 or 5 times a power of ten, at most two and a half times as large."""
    found = round_step(step)
    assert step * (1 - 1e-6) <= found <= 2.5 * step
    assert f"{found:e}".split("e")[0].rstrip("0").rstrip(".") in ("1", "2", "2.5", "5")
