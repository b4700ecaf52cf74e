"""The rate-distortion plan: within the budget, the better the more bytes it may spend, whatever the tables' order."""

import re
from itertools import pairwise

import numpy as np
import pytest
from made_up_curves import LISTS, count_file, make_curves, make_tables

from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.encoding.spec import table_spec_from_json
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning import forms
from memrec_convert.planning.forms import FormChoice, LevelChoice, choose_form, count_form_bytes, mix_forms, spec_of
from memrec_convert.planning.search import FINE_RATIO, plan_tables

METHODS = ("auto", "codes", "int8")


def smallest_budget(curves, **choices):
    """The number that the error of an impossible budget names."""
    with pytest.raises(BudgetTooSmallError) as raised:
        plan_tables(curves, 10, count_file, **choices)
    return int(re.search(r"reachable budget: [^(]*\((\d+) bytes", str(raised.value)).group(1))


def specs_of(plan, curves):
    """The spec of each table under a plan."""
    return [spec_of(choice, one.rows, one.dim) for choice, one in zip(plan.choices, curves, strict=True)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_bytes_and_quality_over_budgets(seed, method):
    """From the smallest budget up: never beyond it, never fewer bytes or more distortion than with less to spend."""
    curves = make_tables(seed)
    least = smallest_budget(curves, methods=method)
    most = plan_tables(curves, 10**9, count_file, methods=method).nbytes
    plans = []
    for budget in np.geomspace(least, most, 7).astype(int).tolist():
        plan = plan_tables(curves, budget, count_file, methods=method)
        assert plan.nbytes == count_file(specs_of(plan, curves)) <= budget
        plans.append(plan)
    for less, more in pairwise(plans):
        assert less.nbytes <= more.nbytes
        assert less.distortion >= more.distortion
    assert plans[0].distortion > 100 * plans[-1].distortion


@pytest.mark.parametrize("method", METHODS)
def test_the_named_budget_works_and_a_byte_less_does_not(method):
    """The error says exactly how many bytes it takes, in numbers and words."""
    curves = make_tables(4)
    least = smallest_budget(curves, methods=method)
    assert plan_tables(curves, least, count_file, methods=method).nbytes == least
    with pytest.raises(BudgetTooSmallError, match=f"{least - 1} bytes.*3 tables"):
        plan_tables(curves, least - 1, count_file, methods=method)


def test_a_budget_for_everything_keeps_everything():
    """As much as the original needs: all tables at fp32, nothing lost, and no price on a byte."""
    curves = make_tables(5)
    plan = plan_tables(curves, 10**9, count_file)
    assert [choice.kept for choice in plan.choices] == ["fp32"] * 3
    assert plan.distortion == plan.price == 0


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_the_tables_does_not_matter(seed):
    """The same choice for each table wherever it stands."""
    curves = make_tables(seed)
    for budget in (15_000, 40_000):
        plan = plan_tables(curves, budget, count_file)
        order = (2, 0, 1)
        again = plan_tables([curves[n] for n in order], budget, count_file)
        assert [plan.choices[n] for n in order] == list(again.choices)


def test_a_plan_spends_most_of_its_budget():
    """What bisection leaves over is less than one table's step, here a tenth."""
    for seed in range(2):
        curves = make_tables(seed)
        for budget in (20_000, 60_000):
            assert plan_tables(curves, budget, count_file).nbytes > 0.9 * budget


def test_bytes_go_where_they_count():
    """A table whose rows are worth a million times as much gets the larger part of a small budget."""
    poor, rich = make_curves(1, 5000), make_curves(1, 5000)
    rich.class_rows.setflags(write=False)
    for curve in rich.lists:
        curve.distortion[:] *= 1e6
    rich = type(rich)(
        "rich",
        rich.rows,
        rich.dim,
        rich.class_rows,
        rich.lists,
        {"int8": rich.stored["int8"] * 1e6},
        {codec: loss * 1e6 for codec, loss in rich.kept.items()},
    )
    plan = plan_tables([poor, rich], 30_000, count_file)
    assert plan.choices[1].nbytes > 3 * plan.choices[0].nbytes


@pytest.mark.parametrize("price", [2.0**exponent for exponent in range(-20, 12, 5)])
def test_no_other_form_is_cheaper_by_much(price):
    """Over every base and pair of levels, spelled out class by class: none costs over 2 % less at this price."""
    curves = make_curves(7, 200_000, lists=LISTS[:1])
    chosen = choose_form(curves, price, thorough=True)
    cost = chosen.distortion + price * chosen.nbytes
    assert chosen.nbytes == count_form_bytes(chosen, curves.rows, curves.dim)
    least = min(loss + price * _kept_bytes(curves, codec) for codec, loss in curves.kept.items())
    (curve,) = curves.lists
    bits = np.cumsum([0, *(size.bit_length() - 1 for size in curve.sizes)])
    for base in range(len(bits)):
        options = [LevelChoice(depth=depth) for depth in range(base + 1, len(bits))] + [LevelChoice(codec="int8")]
        losses = {o: curves.stored["int8"] if o.codec else curve.distortion[o.depth] for o in options}
        nbytes = {o: 10.0 if o.codec else (bits[o.depth] - bits[base]) / 8 for o in options}
        for first in options:
            for second in options:
                pair = list(dict.fromkeys((first, second)))
                costs = [losses[o] + price * curves.class_rows * (nbytes[o] + 9 / 8) for o in pair]
                taken = np.argmin([curve.distortion[base], *costs], axis=0)
                counts = tuple(int(curves.class_rows[taken == n + 1].sum()) for n in range(len(pair)))
                distortion = np.choose(taken, [curve.distortion[base], *(losses[o] for o in pair)]).sum()
                form = FormChoice(sizes=curve.sizes, base_depth=base, levels=tuple(pair), counts=counts)
                least = min(least, distortion + price * count_form_bytes(form, curves.rows, curves.dim))
    assert cost <= 1.02 * least


@pytest.mark.parametrize("method", [*METHODS, "mean", "based"])
def test_bounds_pass_over_no_better_form(method, monkeypatch):
    """The search leaves out what cannot be cheapest: the choice is that among all forms."""
    prices = [2.0**exponent for exponent in range(-40, 16, 4)]
    tables = [curves for seed in range(4) for curves in make_tables(seed)]

    def choose():
        return [choose_form(one, price, thorough=True, methods=method) for one in tables for price in prices]

    chosen = choose()
    bound = forms._bound_bases
    monkeypatch.setattr(forms, "_bound_bases", lambda *given: [-1.0] * len(bound(*given)))
    assert chosen == choose()


def _kept_bytes(curves, codec):
    return count_form_bytes(FormChoice(kept=codec), curves.rows, curves.dim)


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_only_their_forms(method):
    """Codes alone stores no rows, int8 uses no code and keeps nothing but int8; specs are ones that a file may hold."""
    for seed in range(2):
        curves = make_tables(seed)
        for exponent in range(-24, 16, 8):
            for one in curves:
                choice = choose_form(one, 2.0**exponent, methods=method)
                codecs = {level.codec for level in choice.levels} - {""}
                if method == "codes":
                    assert not codecs
                if method == "int8":
                    assert choice.kept in ("", "int8")
                    assert choice.depths == (0,)
                based = choose_form(one, 2.0**exponent, methods="based")
                assert based.kept or based.base_depth > 0
                assert len(choice.levels) == len(choice.counts) <= 2
                assert all(choice.counts)
                spec = spec_of(choice, one.rows, one.dim)
                assert table_spec_from_json(spec.to_json()) == spec


def test_a_table_without_lists_is_kept():
    """Nothing was fitted for it, so at any price it stays as rows, the narrower the dearer a byte."""
    curves = make_curves(8, 500, lists=())
    found = [choose_form(curves, price).kept for price in (0.0, 1e-6, 2.0**60)]
    assert found[0] == "fp32"
    assert found[-1] == "int8"
    assert all(found)


def test_specs_leave_out_what_no_id_uses():
    """Levels of no ids, and stages below the deepest that is used."""
    choice = FormChoice(
        sizes=(4, 8, 16, 32), base_depth=1, levels=(LevelChoice(depth=4), LevelChoice(depth=2)), counts=(0, 9)
    )
    spec = spec_of(choice, 100, 3, (0, 1, 2, 3))
    assert (spec.stages, spec.shifts, spec.base_depth) == ((4, 8), (0, 1), 1)
    assert [(level.depth, level.index.count) for level in spec.levels] == [(2, 9)]
    assert spec_of(FormChoice(kept="bf16"), 100, 3) == TableSpec(100, 3, "kept", codec="bf16")
    assert spec_of(FormChoice(sizes=(4, 8)), 100, 3).stages == ()


def uses_fine_codecs(choice):
    """Whether a table, or a level of it, is held in one."""
    return bool({choice.kept, *(level.codec for level in choice.levels)} & set(FINE_CODECS))


@pytest.mark.parametrize("seed", range(3))
def test_fine_codecs_serve_moderate_ratios_alone(seed):
    """Down to a thirtieth they are taken where they lose less; beyond, plans are those of tables that have none."""
    curves, coarse = make_tables(seed, fine=True), make_tables(seed)
    source = sum(4 * one.rows * one.dim for one in curves)
    losses, used = [], []
    for ratio in (60, 33, 24, 12, 8, 6, 5):
        plan, plain = (plan_tables(tables, source // ratio + 3000, count_file) for tables in (curves, coarse))
        if ratio > FINE_RATIO:
            assert (plan.choices, plan.between) == (plain.choices, ())
        assert plan.distortion <= plain.distortion
        losses.append(plan.distortion)
        used.append(any(map(uses_fine_codecs, plan.choices)))
    assert losses == sorted(losses, reverse=True)
    assert any(used)
    for method in ("codes", "int8"):
        plan = plan_tables(curves, source // 8, count_file, methods=method)
        assert not any(map(uses_fine_codecs, plan.choices))


def test_forms_between_two_codecs_mix_them():
    """Rows kept in one codec, where a lower price keeps them in the next: some in each, on the mean row's frame."""
    (curves,) = [make_curves(1, 3000, fine=True)]
    four, five = FormChoice(kept="trellis4"), FormChoice(kept="trellis5")
    mixed = mix_forms(curves, four, five)
    assert [level.codec for level in mixed.levels] == ["trellis5", "trellis4"]
    assert sum(mixed.counts) == 3000
    assert spec_of(mixed, 3000, 8).tensors()["level0_rows"][1] == (1500, 5)
    coded = FormChoice(sizes=(4, 4), base_depth=1)
    assert mix_forms(curves, four, four) is four
    assert mix_forms(curves, four, coded) is coded
    assert mix_forms(curves, coded, five) is coded
    assert mix_forms(make_curves(1, 3000, lists=()), four, five) is four
