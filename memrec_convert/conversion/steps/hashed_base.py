"""Hashed tokens instead of the mean row, for ids that are in no level: priced by what they save once they are fitted.

The bytes of M and W are taken from the levels. What that costs the plan says; what the tokens save nobody knows before
they are fitted to the very rows that are left over. So they are fitted at a small size, at larger ones as long as that
pays, and the best is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.coding.building import build_tables
from memrec_convert.conversion.steps.coding.members import assign_members
from memrec_convert.conversion.steps.coding.search import Search
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.distill.hashed import HashedFit, HashedTable, fit_hashed
from memrec_convert.distill.rows import TensorRows, gather_rows, is_large
from memrec_convert.encoding import HashSpec, TableSpec
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.kernels.hashing import FIRST_HASH_SEED
from memrec_convert.lookup import CompressedModule, HashGroup
from memrec_convert.planning.hashed import size_group
from memrec_convert.planning.membership import Membership
from memrec_convert.planning.search import TablePlan

LOW_RATE_BITS = 4.0
"""Of the budget per row of the tables that are replaced: above, codes reach every row that matters."""

SHARES = {"auto": (0.01, 0.03, 0.1, 0.25), "mean": (0.25, 0.5)}
"""Shares of the budget that M and W are tried with: under the plan's own bases, as long as a larger share is better,
and with all codes for all rows given up for them.
"""

ROWS_TRIED_ANYWAY = 1 << 18
"""Replaced rows up to which tokens are fitted whatever their price says."""

NAME = "plan with hashed tokens for the other ids"


@dataclass(frozen=True)
class HashedBase:
    """The best plan with a hashed base: built (`modules`) where it is predicted to lose less than the plain one.

    members says which ids its codes are of; ratio is what it is predicted to lose, over what the plain plan loses, both
    before codes are refined.
    """

    modules: tuple[CompressedModule, ...]
    nbytes: int
    distortion: float
    ratio: float
    price: float
    members: Membership | None = None


@dataclass(frozen=True)
class _Attempt:
    plan: TablePlan
    members: Membership
    specs: tuple[TableSpec, ...]
    fits: dict[str, HashedFit]
    loss: float
    saved: float


def try_hashed_base(search: Search, plan: TablePlan) -> HashedBase | None:
    """What hashed tokens would make of a plan; None where the budget is above their rates, or none can pay."""
    subject, budget_bytes = search.subject, search.budget_bytes
    replaced = [
        number
        for number, choice in enumerate(plan.choices)
        if not (choice.kept or number in search.fitted.left_out or is_large(subject.sites[number].reader.shape))
    ]
    rows = sum(subject.sites[number].rows for number in replaced)
    if not replaced or 8 * budget_bytes > LOW_RATE_BITS * rows:
        return None
    members = assign_members(search, plan)
    if members is None or (rows > ROWS_TRIED_ANYWAY and not _can_pay(search, plan, members, replaced)):
        return None
    plain = sum(choice.distortion for choice in members.choices)
    best: _Attempt | None = None
    for methods, shares in SHARES.items():
        for share in shares:
            made = _attempt(search, replaced, int(share * budget_bytes), methods)
            if made is not None and (best is None or made.loss < best.loss):
                best = made
            elif methods == "auto":
                break
    if best is None or plain <= 0:
        return None
    nbytes, ratio = best.members.nbytes, best.loss / plain
    if ratio >= 1:
        return HashedBase((), nbytes, best.loss, ratio, best.plan.price)
    groups = {name: _fill_group(best.specs, name, fit) for name, fit in best.fits.items()}
    members = replace(best.members, specs=best.specs)
    modules, distortion = build_tables(search, members, groups)
    return HashedBase(tuple(modules), nbytes, distortion - best.saved, ratio, best.plan.price, members)


def _can_pay(search: Search, plan: TablePlan, members: Membership, numbers: Sequence[int]) -> bool:
    """Whether hashed tokens of some size could save what their bytes cost at the plan's price.

    Tokens of r rows have r free vectors, so hashes that scatter the ids leave them little more than the r most valuable
    of the rows that are in no level, were they to meet those exactly. Rows that were made of hashed tokens are the
    exception, which this does not see.
    """
    values = np.concatenate(
        [search.fitted.fits[number].survey.values[:][members.levels[number] < 0] for number in numbers]
    )
    dim = min(search.subject.sites[number].dim for number in numbers)
    highest = np.cumsum(np.sort(values)[::-1], dtype=np.float64)
    for share in {share for shares in SHARES.values() for share in shares}:
        nbytes = int(share * search.budget_bytes)
        reach = min(max(1, nbytes // dim), len(highest)) - 1
        if len(highest) and highest[reach] > plan.price * nbytes:
            return True
    return False


def _takes_mean_row(spec: TableSpec) -> bool:
    return spec.form == "replaced" and spec.base_depth == 0


def _attempt(search: Search, numbers: Sequence[int], hashed_bytes: int, methods: str) -> _Attempt | None:
    """The plan that is left when M and W take so many bytes, and what they save of it once fitted."""
    groups = _size_groups(search.subject, numbers, hashed_bytes, search.options)

    def hash_bases(specs: Sequence[TableSpec]) -> tuple[TableSpec, ...]:
        return tuple(
            replace(spec, hashing=groups[spec.dim], hash_seed=FIRST_HASH_SEED + number)
            if number in numbers and _takes_mean_row(spec)
            else spec
            for number, spec in enumerate(specs)
        )

    def count_hashed(specs: Sequence[TableSpec]) -> int:
        return search.count(hash_bases(specs))

    try:
        plan = search.plan(methods, count_hashed)
    except BudgetTooSmallError:
        return None
    members = assign_members(search, plan, count_hashed, hashed=True)
    if members is None:
        return None
    specs = hash_bases(members.specs)
    hashed = [number for number in numbers if specs[number].hashing is not None]
    if not hashed:
        return None
    tables = {n: _cold_rows(search.subject, search.fitted, n, members.levels[n], specs[n].hash_seed) for n in hashed}
    fits, saved = {}, 0.0
    for dim in {specs[number].dim for number in hashed}:
        own = [number for number in hashed if specs[number].dim == dim]
        fits[groups[dim].group] = fit_hashed(groups[dim], [tables[number] for number in own])
        for number, distances in zip(own, fits[groups[dim].group].distances, strict=True):
            survey, cold = search.fitted.fits[number].survey, members.levels[number] < 0
            before = float(survey.values[:][cold].sum(dtype=np.float64))
            saved += before - float((survey.weights[:][cold].astype(np.float64) * distances).sum())
    return _Attempt(plan, members, specs, fits, sum(one.distortion for one in members.choices) - saved, saved)


def _size_groups(subject: Subject, numbers: Sequence[int], hashed_bytes: int, options: Options) -> dict[int, HashSpec]:
    """Per dim the group that its tables share; the bytes are shared in proportion to the tables' sizes."""
    sizes: dict[int, int] = {}
    for number in numbers:
        site = subject.sites[number]
        sizes[site.dim] = sizes.get(site.dim, 0) + site.rows * site.dim
    total = sum(sizes.values())
    return {
        dim: size_group(
            dim, hashed_bytes * size // total, most_rows=size // dim, k=options.k, k_weights=options.k_weights
        )
        for dim, size in sizes.items()
    }


def _cold_rows(subject: Subject, fitted: Fitted, number: int, levels: np.ndarray, hash_seed: int) -> HashedTable:
    """The rows of a table that are in no level, weighted by count and mean sensitivity."""
    site, fit, weight = subject.sites[number], fitted.fits[number], fitted.weights[number]
    ids = np.flatnonzero(levels < 0)
    sensitivity = np.float32(float(weight.metric.square().sum()) / site.dim)
    weights = (fit.survey.weights[:][ids] * sensitivity).astype(np.float32)
    rows = TensorRows(gather_rows(site.reader, ids))
    return HashedTable(rows, hash_seed, fit.survey.centre, weights, ids=ids, metric=fit.survey.metric)


def _fill_group(specs: Sequence[TableSpec], name: str, fit: HashedFit) -> HashGroup:
    spec = next(one.hashing for one in specs if one.hashing is not None and one.hashing.group == name)
    group = HashGroup(spec)
    for part, tensor in fit.tensors.items():
        setattr(group, part, tensor)
    return group
