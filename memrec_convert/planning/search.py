"""The price of a byte: bisected until the file fits, so that every table spends where it helps the model most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memrec_convert.distill.curves import TableCurves
from memrec_convert.encoding.spec import TableSpec
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning.forms import FormChoice, choose_form, spec_of
from memrec_convert.units import format_bytes

CountFile = Callable[[Sequence[TableSpec]], int]
"""Exact bytes of the whole file for these specs."""

_STEPS = 26
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
    curves: Sequence[TableCurves], budget_bytes: int, count_file: CountFile, *, methods: str = "auto"
) -> TablePlan:
    """The forms of least predicted distortion whose file is within the budget; BudgetTooSmallError where none is."""

    def at(price: float, *, thorough: bool = False) -> TablePlan:
        choices = tuple(choose_form(one, price, thorough=thorough, methods=methods) for one in curves)
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
    for _ in range(_STEPS):
        middle = (low + high) / 2
        plan = at(2.0**middle)
        if plan.nbytes <= budget_bytes:
            high, best = middle, plan
        else:
            low = middle
    refined = at(best.price, thorough=True)
    return refined if refined.nbytes <= budget_bytes and refined.distortion <= best.distortion else best
