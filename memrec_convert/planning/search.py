"""The price of a byte: bisected until the file fits, so that every table spends where it helps the model most."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass

from memrec_convert.encoding.spec import TableSpec
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning.curves import TableCurves
from memrec_convert.planning.forms import FormChoice, choose_form, spec_of
from memrec_convert.units import format_bytes

CountFile = Callable[[Sequence[TableSpec]], int]
"""Exact bytes of the whole file for these specs."""

FormMemo = MutableMapping[tuple[int, float, bool, str], FormChoice]
"""Forms that one search found and another may ask for: by table, price, thoroughness and methods."""

STEPS = 26
ROUGH_STEPS = 14
"""Halvings of the price's range where a plan within a percent of the budget will do."""
_HIGHEST_PRICE = 2.0**60


@dataclass(frozen=True)
class TablePlan:
    """The chosen form of every table, the price of a byte that led there, and the file's predicted bytes."""

    choices: tuple[FormChoice, ...]
    price: float
    nbytes: int

    @property
    def distortion(self) -> float:
        """Predicted sum over lookups of the squared change of the logit."""
        return sum(choice.distortion for choice in self.choices)


def plan_tables(
    curves: Sequence[TableCurves],
    budget_bytes: int,
    count_file: CountFile,
    *,
    methods: str = "auto",
    memo: FormMemo | None = None,
    steps: int = STEPS,
) -> TablePlan:
    """The forms of least predicted distortion whose file is within the budget; BudgetTooSmallError where none is.

    memo is for several searches over the same curves; fewer `steps` (ROUGH_STEPS) leave a little of the budget over.
    """
    known: FormMemo = {} if memo is None else memo

    def form(number: int, price: float, thorough: bool) -> FormChoice:
        key = (number, price, thorough, methods)
        if key not in known:
            known[key] = choose_form(curves[number], price, thorough=thorough, methods=methods)
        return known[key]

    def at(price: float, *, thorough: bool = False) -> TablePlan:
        choices = tuple(form(number, price, thorough) for number in range(len(curves)))
        specs = [spec_of(choice, one.rows, one.dim) for choice, one in zip(choices, curves, strict=True)]
        return TablePlan(choices, price, count_file(specs))

    free = at(0.0)
    if free.nbytes <= budget_bytes:
        return free
    smallest = at(_HIGHEST_PRICE)
    if smallest.nbytes > budget_bytes:
        raise BudgetTooSmallError(
            f"{format_bytes(budget_bytes)} ({budget_bytes} bytes) cannot hold this model; smallest reachable budget: "
            f"{format_bytes(smallest.nbytes)} ({smallest.nbytes} bytes, all {len(curves)} tables at their minimum).",
            smallest_bytes=smallest.nbytes,
        )
    low, high, best = -100.0, 60.0, smallest
    for _ in range(steps):
        middle = (low + high) / 2
        plan = at(2.0**middle)
        if plan.nbytes <= budget_bytes:
            high, best = middle, plan
        else:
            low = middle
    if steps < STEPS:
        return best
    refined = at(best.price, thorough=True)
    return refined if refined.nbytes <= budget_bytes and refined.distortion <= best.distortion else best
