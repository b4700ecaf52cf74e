"""Ids to levels: exact bytes within the budget, each id where it pays, and no level that does not earn its keep."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_curves import count_file

from memrec_convert.encoding.spec import table_spec_from_json
from memrec_convert.planning.forms import FormChoice, LevelChoice, spec_of
from memrec_convert.planning.membership import LevelCandidates, _place, assign_levels, level_costs

SIZES, SHIFTS = (16, 16, 64, 64), (0, 1, 1, 2)
LEVELS = ((LevelChoice(depth=2),), (LevelChoice(depth=2), LevelChoice(codec="int8")), (LevelChoice(depth=4),), ())


def make_table(seed):
    """A table with up to two levels, some rows worth much more than others."""
    draw = np.random.default_rng(seed)
    rows, levels = int(draw.integers(300, 3000)), LEVELS[int(draw.integers(len(LEVELS)))]
    base = draw.exponential(size=rows) * np.exp(2 * draw.normal(size=rows))
    shares = [draw.uniform(0, 0.6, rows), draw.uniform(0, 0.1, rows)]
    losses = np.stack([base, *(base * share for share, _ in zip(shares, levels, strict=False))]).astype(np.float32)
    choice = FormChoice(
        sizes=SIZES,
        base_depth=int(draw.integers(0, 2)),
        levels=levels,
        counts=tuple(rows // 4 for _ in levels),
        distortion=float(base.sum()),
    )
    return LevelCandidates(choice, rows, 8, SHIFTS, losses)


def empty_bytes(tables):
    """The file where no id is in any level."""
    return count_file([spec_of(replace(t.choice, levels=(), counts=()), t.rows, t.dim) for t in tables])


def distortion_of(member):
    """What all tables lose."""
    return sum(choice.distortion for choice in member.choices)


@pytest.mark.parametrize("seed", range(12))
def test_levels_within_the_budget(seed):
    """Exact bytes, counts and numbers agree, unused levels are gone, and more budget never loses more."""
    tables = [make_table(seed), make_table(seed + 100)]
    before = float("inf")
    for extra in (0, 300, 1500, 4000, 10_000, 10**7):
        budget = empty_bytes(tables) + extra
        member = assign_levels(tables, budget, count_file, price=0.01)
        assert member.nbytes == count_file(member.specs) <= budget
        for table, choice, levels, spec in zip(tables, member.choices, member.levels, member.specs, strict=True):
            assert table_spec_from_json(spec.to_json()) == spec
            assert levels.dtype == np.int8
            assert len(levels) == table.rows
            counts = [int((levels == number).sum()) for number in range(len(choice.levels))]
            assert counts == list(choice.counts) == [level.index.count for level in spec.levels]
            assert all(counts)
            assert set(np.unique(levels)) <= {-1, *range(len(choice.levels))}
            held = {(level.depth, level.codec): n + 1 for n, level in enumerate(table.choice.levels)}
            numbers = np.array([0, *(held[level.depth, level.codec] for level in choice.levels)])[levels + 1]
            if table.choice.levels:
                lost = table.losses[numbers, np.arange(table.rows)].sum(dtype=np.float64)
                assert choice.distortion == pytest.approx(lost)
        assert distortion_of(member) <= before
        before = distortion_of(member)


def test_of_all_that_fits_the_least_lossy_is_taken(monkeypatch):
    """Bytes do not rise steadily as the price falls: of what was tried within the budget nothing loses less."""
    from memrec_convert.planning import membership

    tried = []

    def remember(table, price, workers):
        tried.append(_place(table, price, workers))
        return tried[-1]

    monkeypatch.setattr(membership, "_place", remember)
    for seed in (11, 18, 19, 24, 32):
        for extra in (700, 1500):
            table, sizes = make_table(seed), []
            tried.clear()

            def count(specs, sizes=sizes):
                sizes.append(count_file(specs))
                return sizes[-1]

            budget = empty_bytes([table]) + extra
            member = assign_levels([table], budget, count, price=0.01)
            losses = [choice.distortion for choice, _ in tried]
            assert distortion_of(member) == min(
                loss for loss, size in zip(losses, sizes, strict=True) if size <= budget
            )


def test_a_starting_price_far_off_does_no_harm():
    """The bisection finds the budget from wherever the plan's price was."""
    tables = [make_table(3), make_table(104)]
    budget = empty_bytes(tables) + 4000
    found = [distortion_of(assign_levels(tables, budget, count_file, price=price)) for price in (1e-4, 0.01, 10.0)]
    assert max(found) <= 1.02 * min(found)


def test_everything_fits_a_large_budget():
    """Each id is where it loses least."""
    table = make_table(1)
    assert table.choice.levels
    member = assign_levels([table], 10**9, count_file, price=0.01)
    assert member.choices[0].distortion == pytest.approx(table.losses.min(axis=0).sum(dtype=np.float64), rel=1e-4)


def test_a_budget_below_the_empty_levels_gives_none():
    """One byte less than bases and centres take."""
    tables = [make_table(1), make_table(2)]
    assert assign_levels(tables, empty_bytes(tables) - 1, count_file, price=0.01) is None
    assert assign_levels(tables, empty_bytes(tables), count_file, price=0.01) is not None


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(-12, 12))
def test_each_id_is_where_it_pays(seed, exponent):
    """At any price, no id would be better off, its bytes counted, in the base or in another level that is open."""
    table, price = make_table(seed), 2.0**exponent
    choice, levels = _place(table, price)
    costs = [0.0, *level_costs(table.choice, table.rows, table.dim)] if table.choice.levels else [0.0]
    numbers = [0, *(1 + table.choice.levels.index(level) for level in choice.levels)]
    totals = np.stack([table.losses[n].astype(np.float64) + price * costs[n] for n in numbers])
    chosen = totals[levels + 1, np.arange(table.rows)]
    assert (chosen <= totals.min(axis=0) * (1 + 1e-5) + 1e-6 * price).all()


def test_a_level_for_one_id_is_dropped():
    """It would cost an index and a header entry for a single code: what it saves must pay for them."""
    losses = np.zeros((2, 1000), dtype=np.float32)
    choice = FormChoice(sizes=SIZES, levels=(LevelChoice(depth=2),), counts=(100,))
    for saved, members in ((100.0, 0), (10_000.0, 1)):
        losses[0, 7] = saved
        found, levels = _place(LevelCandidates(choice, 1000, 8, SHIFTS, losses), 1.0)
        assert int((levels >= 0).sum()) == members
        assert len(found.levels) == len(found.counts) == members
        assert found.distortion == (0 if members else saved)


def test_the_second_level_moves_up_when_the_first_is_dropped():
    """Numbers say the place among the levels that are left."""
    losses = np.zeros((3, 500), dtype=np.float32)
    losses[0], losses[1] = 50.0, 49.9
    choice = FormChoice(sizes=SIZES, levels=(LevelChoice(depth=2), LevelChoice(codec="int8")), counts=(100, 100))
    found, levels = _place(LevelCandidates(choice, 500, 8, SHIFTS, losses), 1.0)
    assert found.levels == (LevelChoice(codec="int8"),)
    assert found.counts == (500,)
    assert levels.tolist() == [0] * 500


def test_costs_are_code_bits_and_key_bits():
    """A code costs its bits beyond the base, a stored row its parts, and both their key."""
    levels = (LevelChoice(depth=3), LevelChoice(codec="int8"))
    choice = FormChoice(sizes=SIZES, base_depth=1, levels=levels, counts=(50, 60_000))
    code, row = level_costs(choice, 100_000, 8)
    assert (4 + 6 + 4) / 8 < code < (4 + 6 + 17 + 300) / 8
    assert row == pytest.approx(8 + 2 + 0.25 / 8)


def test_kept_tables_pass_through():
    """No level, no member, their spec and distortion as they were."""
    table = LevelCandidates(FormChoice(kept="int8", distortion=3.5), 40, 8, (), np.zeros((1, 0), dtype=np.float32))
    member = assign_levels([table], 10**6, count_file, price=0.0)
    assert member.specs[0].form == "kept"
    assert member.choices[0].distortion == 3.5
    assert member.levels[0].tolist() == [-1] * 40
