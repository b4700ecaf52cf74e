"""The price of a byte: bisected until the file fits, so that every table spends where it helps the model most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace

from memrec_convert.encoding.spec import TableSpec, count_table_bytes
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning.curves import LARGEST_BOOK, SMALL_LISTS, TableCurves
from memrec_convert.planning.forms import FormChoice, choose_form, mix_forms, spec_of
from memrec_convert.units import format_bytes

CountFile = Callable[[Sequence[TableSpec]], int]
"""Exact bytes of the whole file for these specs."""

FormMemo = MutableMapping[tuple[int, float, bool, str, bool, bool], FormChoice]
"""Forms that one search found and another may ask for: by table, price, thoroughness, methods, and which forms."""

FINE_RATIO = 30
"""Up to this ratio of fp32 to compressed tables the fine codecs are among the forms.

Beyond it, codes are ahead of them, and files stay of format 1.
"""

SMALL_SHARE, NARROW = 1.5, 4
"""Small lists are among the forms up to so many times the bytes that the largest codebooks of all tables take.

Of tables up to so many columns they always are: these have small codebooks anyway, and are fitted in no time.
"""

STEPS = 26
ROUGH_STEPS = 14
"""Halvings of the price's range where a plan within a percent of the budget will do."""
_HIGHEST, _BEYOND = 60.0, 110.0
"""Powers of two: the highest price of a byte, and that of models whose rows are beyond all measure."""


@dataclass(frozen=True)
class TablePlan:
    """The chosen form of every table, the price of a byte that led there, and the file's predicted bytes.

    between: where fine codecs are among the forms, those between the chosen ones and the best at a lower price.
    """

    choices: tuple[FormChoice, ...]
    price: float
    nbytes: int
    between: tuple[FormChoice, ...] = ()

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
    small = False
    plain = [_without_small(one) for one in curves]

    def form(number: int, price: float, thorough: bool, fine: bool) -> FormChoice:
        key = (number, price, thorough, methods, fine, small)
        if key not in known:
            own = curves[number] if small else plain[number]
            known[key] = choose_form(own, price, thorough=thorough, methods=methods, fine=fine)
        return known[key]

    def at(price: float, *, thorough: bool = False, fine: bool = False) -> TablePlan:
        choices = tuple(form(number, price, thorough, fine) for number in range(len(curves)))
        return TablePlan(choices, price, count_file(_list_specs(choices, curves)))

    def search(*, fine: bool) -> TablePlan:
        low, high, best, above = -100.0, highest, smallest, free
        for _ in range(steps):
            middle = (low + high) / 2
            plan = at(2.0**middle, fine=fine)
            if plan.nbytes <= budget_bytes:
                high, best = middle, plan
            else:
                low, above = middle, plan
        if steps == STEPS:
            refined = at(best.price, thorough=True, fine=fine)
            if refined.nbytes <= budget_bytes and refined.distortion <= best.distortion:
                best = refined
        return replace(best, between=tuple(map(mix_forms, curves, best.choices, above.choices))) if fine else best

    free = at(0.0)
    if free.nbytes <= budget_bytes:
        return free
    highest, smallest = _HIGHEST, at(2.0**_HIGHEST)
    if smallest.nbytes > budget_bytes:
        highest, smallest = _BEYOND, at(2.0**_BEYOND)
    if smallest.nbytes > budget_bytes:
        raise _describe_lack(budget_bytes, smallest.nbytes, len(curves))
    for_tables = budget_bytes - (smallest.nbytes - count_table_bytes(_list_specs(smallest.choices, curves)))
    small = takes_small_lists([(one.rows, one.dim) for one in curves if one.takes_codes], for_tables)
    found = [search(fine=False)]
    if methods == "auto" and takes_fine_codecs(sum(4 * one.rows * one.dim for one in curves), for_tables):
        found.append(search(fine=True))
    best = min(found, key=lambda plan: plan.distortion)
    return replace(best, between=found[-1].between)


def _describe_lack(budget_bytes: int, least: int, tables: int) -> BudgetTooSmallError:
    return BudgetTooSmallError(
        f"{format_bytes(budget_bytes)} ({budget_bytes} bytes) cannot hold this model; smallest reachable budget: "
        f"{format_bytes(least)} ({least} bytes, all {tables} tables at their minimum).",
        smallest_bytes=least,
    )


def _without_small(curves: TableCurves) -> TableCurves:
    lists = tuple(one for one in curves.lists if one.sizes not in SMALL_LISTS)
    return curves if curves.dim <= NARROW or len(lists) == len(curves.lists) else replace(curves, lists=lists)


def _list_specs(choices: Sequence[FormChoice], curves: Sequence[TableCurves]) -> list[TableSpec]:
    return [spec_of(choice, one.rows, one.dim) for choice, one in zip(choices, curves, strict=True)]


def takes_fine_codecs(source_bytes: int, table_bytes: int) -> bool:
    """Whether tables of so many bytes as fp32, to be held in so many bytes, may take the fine codecs."""
    return table_bytes * FINE_RATIO >= source_bytes


def takes_small_lists(replaceable: Iterable[tuple[int, int]], table_bytes: int) -> bool:
    """Whether tables in so many bytes may take the small lists; `replaceable`: (rows, dim) of those that take codes."""
    return table_bytes < SMALL_SHARE * sum(min(LARGEST_BOOK, 2 * rows) * dim for rows, dim in replaceable)
