"""A plan without a checkpoint: what a budget would buy for a shape, beside what MEM-REC's authors count for theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.lab.shapes.shapes import Shape, count_published, read_shape
from memrec_convert.lab.shapes.zipf import BYTES_PER_TENSOR, ZipfForm, ZipfTable, choose_zipf_form, weigh_table
from memrec_convert.units import format_bytes, parse_budget

ZIPF = 1.05
HEADER_BYTES = 4_000
"""About what the header holds besides its tensors' entries."""
ASSUMED = (
    "ids of every table are read by Zipf's law with this exponent, one lookup a sample",
    "all tables matter alike, and codes leave of a row's error what they left on average of five measured tables",
    "bytes are those of the tensors with an allowance for the header; a plan from a checkpoint is exact",
)
_STEPS = 16
_HIGHEST_PRICE = 2.0**40


def plan_shape(shape: str | Shape, budget: str | int, *, zipf: float = ZIPF) -> dict[str, Any]:
    """What a conversion would do with a model of this shape whose ids are read by Zipf's law.

    {"shape", "zipf", "budget_bytes", "bytes", "source_bytes", "dense_bytes", "ratio", "bits_per_row", "covered",
    "lookups", "tables", "published", "published_bytes", "assumed"}. `covered` is the share of lookups that something
    better than the mean row answers; `published_bytes` is the authors' own count of the largest of their models that
    it puts within the budget (None where there is none), `published` all of them with an honest count beside.

    RecipeError for an unknown or contradictory shape, BudgetTooSmallError where the budget holds no plan.
    """
    name = shape if isinstance(shape, str) else "a shape of the caller's"
    shape = shape if isinstance(shape, Shape) else read_shape(shape)
    fixed = shape.dense_bytes + HEADER_BYTES + BYTES_PER_TENSOR * _count_dense_tensors(shape)
    budget_bytes = parse_budget(budget).resolve(table_bytes=shape.table_bytes, dense_bytes=shape.dense_bytes)
    tables = [weigh_table(rows, shape.dim, zipf, samples=shape.samples) for rows in shape.rows]
    forms = _fit(tables, budget_bytes, fixed)
    table_bytes = sum(form.nbytes for form in forms)
    published = count_published(shape)
    within = [one["published_bytes"] for one in published if one["published_bytes"] <= budget_bytes]
    return {
        "shape": name,
        "description": shape.description,
        "zipf": zipf,
        "budget_bytes": budget_bytes,
        "bytes": fixed + table_bytes,
        "source_bytes": shape.table_bytes,
        "dense_bytes": shape.dense_bytes,
        "ratio": shape.table_bytes / (fixed + table_bytes),
        "bits_per_row": 8 * table_bytes / sum(shape.rows),
        "covered": sum(1 - form.lookups().get("mean", 0.0) for form in forms) / len(forms),
        "lookups": _average([form.lookups() for form in forms]),
        "tables": [_describe_table(one, form) for one, form in zip(shape.table_names(), forms, strict=True)],
        "published": published,
        "published_bytes": max(within, default=None),
        "assumed": list(ASSUMED),
    }


def _count_dense_tensors(shape: Shape) -> int:
    return 2 * max(0, len(shape.dense.bottom) + len(shape.dense.top) - 2)


def _fit(tables: Sequence[ZipfTable], budget_bytes: int, fixed: int) -> list[ZipfForm]:
    """The forms at the lowest price of a byte whose sum is within the budget."""

    def at(price: float) -> tuple[int, list[ZipfForm]]:
        # Tables of one size get one form: a shape often has many alike.
        memory: dict[tuple[int, int], ZipfForm] = {}
        forms = []
        for table in tables:
            key = (table.rows, table.dim)
            if key not in memory:
                memory[key] = choose_zipf_form(table, price)
            forms.append(memory[key])
        return fixed + sum(form.nbytes for form in forms), forms

    free_bytes, best = at(0.0)
    if free_bytes <= budget_bytes:
        return best
    smallest, best = at(_HIGHEST_PRICE)
    if smallest > budget_bytes:
        what = "is below the dense part alone" if budget_bytes < fixed else "leaves too little for the tables"
        raise BudgetTooSmallError(
            f"{format_bytes(budget_bytes)} ({budget_bytes} bytes) {what}: the dense part is {format_bytes(fixed)}, and "
            f"the smallest reachable budget is {format_bytes(smallest)} ({smallest} bytes).",
            smallest_bytes=smallest,
        )
    low, high, beyond = -60.0, 40.0, list[ZipfForm]()
    for _ in range(_STEPS):
        middle = (low + high) / 2
        nbytes, forms = at(2.0**middle)
        if nbytes <= budget_bytes:
            high, best = middle, forms
        else:
            low, beyond = middle, forms
    return _spend_rest(best, beyond or best, budget_bytes - fixed)


def _spend_rest(forms: Sequence[ZipfForm], dearer: Sequence[ZipfForm], table_bytes: int) -> list[ZipfForm]:
    """The forms, with those of the next dearer plan where the bytes that are left still pay for them."""
    chosen, spent = list(forms), sum(form.nbytes for form in forms)
    for number in sorted(range(len(chosen)), key=lambda n: dearer[n].distortion - chosen[n].distortion):
        more = dearer[number].nbytes - chosen[number].nbytes
        if 0 < more <= table_bytes - spent:
            chosen[number], spent = dearer[number], spent + more
    return chosen


def _average(shares: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in shares:
        for form, share in one.items():
            total[form] = total.get(form, 0.0) + share / len(shares)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _describe_table(name: str, form: ZipfForm) -> dict[str, Any]:
    lookups = form.lookups()
    return {
        "name": name,
        "rows": form.rows,
        "dim": form.dim,
        "bytes_before": 4 * form.rows * form.dim,
        "bytes": form.nbytes,
        "bits_per_row": 8 * form.nbytes / form.rows,
        "form": form.describe(),
        "covered": 1 - lookups.get("mean", 0.0),
        "lookups": lookups,
    }
