"""Turns of contenders: who is called when, with which number, and what of it is timed."""

from __future__ import annotations

import itertools

import pytest

from memrec_convert.bench.timing import LOOKUPS_IN_A_ROW, calls_in_a_row, time_interleaved


@pytest.mark.parametrize(("in_a_row", "lead"), [(1, 0), (2, 1), (3, 3)])
def test_turns_are_led_in_and_numbered(in_a_row, lead):
    """Every contender gets the same numbers, once per repetition; the calls that lead a turn in are not timed."""
    clock = itertools.count()
    calls = []
    found = time_interleaved(
        {name: lambda number, name=name: calls.append((name, number)) for name in "ab"},
        5,
        in_a_row=in_a_row,
        lead=lead,
        clock=lambda: next(clock) * 10**9,
    )
    turn = lead + in_a_row
    counted = calls[2 * turn :]  # after the first repetition, which warms up
    for name in "ab":
        assert [number for one, number in counted if one == name] == list(range(5 * turn))
    assert [one for one, _ in counted[::turn]] == list("abbaabbaab")
    assert found["a"].median == found["b"].median == 1.0


def test_untimed_calls_do_not_count():
    """A first call that takes long, as it does in cold caches, leaves the median alone."""
    now = [0]

    def run(number):
        now[0] += 1000 if number % 4 < 2 else 1

    timing = time_interleaved({"a": run}, 7, in_a_row=2, lead=2, clock=lambda: now[0])["a"]
    assert timing.p99 == pytest.approx(1e-9)


def test_small_calls_come_in_long_turns():
    """A turn is about as many lookups whatever a call holds, and at least one call."""
    assert calls_in_a_row(LOOKUPS_IN_A_ROW * 9) == calls_in_a_row(LOOKUPS_IN_A_ROW) == 1
    assert calls_in_a_row(LOOKUPS_IN_A_ROW // 8) == 8
    assert calls_in_a_row(1) == calls_in_a_row(0) == 200
