"""Which rows of every table go to which level of a plan, by what they lose there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memrec_convert.conversion.steps.coding.search import Search
from memrec_convert.conversion.steps.fitting import fit_chosen
from memrec_convert.distill.refine import find_centre, measure_mean_row
from memrec_convert.distill.rows import is_large
from memrec_convert.distill.streamed import MOST_CANDIDATES, measure_levels, rank_ids
from memrec_convert.parallel import Job
from memrec_convert.planning.forms import FormChoice
from memrec_convert.planning.membership import LevelCandidates, Membership, assign_levels
from memrec_convert.planning.search import CountFile, TablePlan


def assign_members(
    search: Search, plan: TablePlan, count: CountFile | None = None, *, hashed: bool = False
) -> Membership | None:
    """The level of every id under a plan, to the last bytes of the budget; None where not even empty levels fit.

    Once it is known which ids stay at the mean row, that is their own mean, and all ids are placed anew; not where
    hashed tokens will stand beside it, which are fitted around the centre of the table.
    """
    found = [
        _assign(search, choices, plan.price, count or search.count, moved=not hashed)
        for choices in (plan.choices, plan.between)
        if choices
    ]
    fitting = [members for members in found if members is not None]
    return min(fitting, key=lambda one: sum(choice.distortion for choice in one.choices), default=None)


def _assign(
    search: Search, choices: Sequence[FormChoice], price: float, count: CountFile, *, moved: bool
) -> Membership | None:
    sites, workers = search.subject.sites, search.options.workers
    candidates = _list_candidates(search, choices)
    members = assign_levels(candidates, search.budget_bytes, count, price=price, workers=workers)
    if members is None or not moved:
        return members
    changed = list(candidates)
    for number, one in enumerate(candidates):
        if one.choice.levels and not one.choice.base_depth and one.ids is None:
            reader, survey = sites[number].reader, search.fitted.fits[number].survey
            centre = find_centre(reader, survey, members.levels[number] < 0)
            if centre is not None:
                losses = np.stack([measure_mean_row(reader, survey, centre), *one.losses[1:]])
                changed[number] = replace(one, losses=losses)
    if all(one is other for one, other in zip(changed, candidates, strict=True)):
        return members
    return assign_levels(changed, search.budget_bytes, count, price=price, workers=workers)


def _list_candidates(search: Search, choices: Sequence[FormChoice]) -> list[LevelCandidates]:
    """Per table what its rows lose in the levels of the form that is chosen for it."""
    sites = search.subject.sites
    replaced = {number: choice for number, choice in enumerate(choices) if not choice.kept}
    fit_chosen(search.subject, search.fitted, [(n, one.sizes) for n, one in replaced.items()], search.options)
    most = MOST_CANDIDATES // max(1, sum(is_large(site.reader.shape) for site in sites))
    large = {n: choice for n, choice in replaced.items() if is_large(sites[n].reader.shape)}
    jobs: list[tuple[int, Job[Any]]] = [
        (sites[n].rows, _find_candidates(search, n, choice, most=most)) for n, choice in large.items()
    ]
    jobs += search.code_small({n: choice for n, choice in replaced.items() if n not in large})
    found = dict(zip(large, search.finish(jobs), strict=False))  # what is known of small tables, `search` holds
    return [
        found[number] if number in large else _candidates_of(search, number, choice)
        for number, choice in enumerate(choices)
    ]


def _candidates_of(search: Search, number: int, choice: FormChoice) -> LevelCandidates:
    """What the rows of a small table lose in the levels; nothing where it is kept."""
    site = search.subject.sites[number]
    if choice.kept:
        return LevelCandidates(choice, site.rows, site.dim, (), np.zeros((1, 0), dtype=np.float32))
    coded = search.code(number, choice.sizes)
    of_levels = [
        search.weigh_stored(number, level.codec, coded) if level.codec else coded.losses[level.depth]
        for level in choice.levels
    ]
    losses = np.stack([coded.losses[choice.base_depth], *of_levels])
    return LevelCandidates(choice, site.rows, site.dim, tuple(stage.shift for stage in coded.stages), losses)


def _find_candidates(search: Search, number: int, choice: FormChoice, *, most: int) -> Job[LevelCandidates]:
    """The ids of a large table that the plan's levels may take, and what they lose there."""
    site, fit = search.subject.sites[number], search.fitted.fits[number]
    stages = search.stages(number, choice.sizes)
    levels = [choice.base_depth, *(level.codec or level.depth for level in choice.levels)]
    ids = np.zeros(0, dtype=np.int64)
    if choice.levels:
        ids = rank_ids(fit.survey.values, wanted=sum(choice.counts), most=most)
    label = f"levels of {number} {choice.sizes} {levels} {len(ids)}"
    measured = measure_levels(site.reader, fit.survey, stages, levels, ids, workers=search.options.workers, label=label)

    def join(found: Iterator[Any]) -> LevelCandidates:
        losses, shifts = measured.join(found), tuple(stage.shift for stage in stages)
        return LevelCandidates(choice, site.rows, site.dim, shifts, losses, ids)

    return Job(measured.work, join)
