"""Finished alternatives within a budget, and which of them changes the model's answers least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject, join_groups
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.coding.building import build_tables
from memrec_convert.conversion.steps.coding.members import assign_members
from memrec_convert.conversion.steps.coding.search import Search
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.conversion.steps.hashed_base import NAME as HASHED_BASE
from memrec_convert.conversion.steps.hashed_base import try_hashed_base
from memrec_convert.conversion.steps.outcome import Candidate
from memrec_convert.conversion.steps.published_form import find_published_form
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning.search import CountFile, TablePlan

CONFIRM_SAMPLES = 131_072
"""Samples on which candidates are compared by their logits."""

FAR_BEHIND = 2.0
"""A plan that is predicted to lose so many times what the best one loses is not built."""

BASES_WITHIN = 1.1
"""A plan with codes for all ids is built beside one that leaves some at the mean row, where it is predicted to lose no
more than so many times as much: what a sample's ids lose at the mean adds up, which a sum over tables does not see.
"""

LEAST_AT_MEAN = 2
"""Tables over the mean row, from which on that is done: the errors of one have nothing to add up with."""

ODD_NOTE = "not used: its answers are not all finite"

PASSES_TO_CODE = 2
"""Passes over a large table for one candidate: what its likely ids lose, and the codes of all rows."""

_NAMES = {
    "auto": "rate-distortion plan",
    "based": "plan with codes for all ids",
    "codes": "codes alone",
    "int8": "int8 rows of hot ids + mean row",
}


def find_candidates(
    subject: Subject,
    fitted: Fitted,
    budget_bytes: int,
    options: Options,
    count: CountFile,
    *,
    progress: Progress,
    watch: Stopwatch,
    rivals: bool = True,
    refine: bool = True,
) -> list[Candidate]:
    """Finished alternatives within the budget; BudgetTooSmallError where the wanted method has none.

    refine=False leaves codes and codebooks as the fit made them: the same bytes, for somewhat more distortion; hashed
    tokens for ids at the mean row are then not tried.
    """
    search = Search(subject, fitted, budget_bytes, options, count, refine)
    if options.method == "memrec":
        with watch.stage("hashed fit"):
            return find_published_form(search, progress)
    methods = ("auto", "int8") if options.method == "auto" and rivals else (options.method,)
    found = list[Candidate]()
    without_data = subject.hold_out is None and subject.train is None
    reading = PASSES_TO_CODE * subject.large_bytes * (1 if without_data else len(methods))
    with subject.meter.stage("plan and code", reading, progress):
        for done, method in enumerate(methods):
            if not reading:
                progress("plan and code", done, len(methods))
            try:
                with watch.stage("plan"):
                    plan = search.plan(method)
            except BudgetTooSmallError:
                if not found:
                    raise
                continue
            # Where nothing can be measured, the plan that predicts least is the one to build.
            if found and (without_data or plan.distortion > FAR_BEHIND * found[0].planned):
                figures = plan.nbytes, plan.distortion, plan.price, plan.distortion
                note = _describe_behind(plan.distortion / max(found[0].planned, 1e-30))
                found.append(Candidate(_NAMES[method], (), *figures, note=note))
                continue
            with watch.stage("code"):
                made = _make_candidate(search, plan, method)
            found += [made] if made is not None else []
            if method == "auto" and made is not None and rivals:
                found += [] if without_data else _code_all_bases(search, plan, watch)
                found += _hash_bases(search, plan, watch) if refine else []
    if not reading:
        progress("plan and code", len(methods), len(methods))
    return found


def _code_all_bases(search: Search, plan: TablePlan, watch: Stopwatch) -> list[Candidate]:
    """The best plan without the mean row, finished, where `plan` takes that for several tables and is not far ahead.

    Of small tables alone: another pass over large ones would take too long.
    """
    at_mean = sum(not choice.kept and not choice.base_depth for choice in plan.choices) - len(search.fitted.left_out)
    if search.subject.large_bytes or at_mean < LEAST_AT_MEAN:
        return []
    with watch.stage("plan"):
        try:
            based = search.plan("based")
        except BudgetTooSmallError:
            return []
    if based.choices == plan.choices or based.distortion > BASES_WITHIN * plan.distortion:
        return []
    with watch.stage("code"):
        made = _make_candidate(search, based, "based")
    return [] if made is None else [made]


def _make_candidate(search: Search, plan: TablePlan, method: str) -> Candidate | None:
    """The plan's tables, finished; None where the budget has no room for them."""
    members = assign_members(search, plan)
    if members is None:
        return None
    modules, distortion = build_tables(search, members)
    return Candidate(
        _NAMES[method], tuple(modules), members.nbytes, distortion, plan.price, plan.distortion, members=members
    )


def _describe_behind(ratio: float) -> str:
    return f"not built: predicted loss is {ratio:.3f} times the plan's"


def _hash_bases(search: Search, plan: TablePlan, watch: Stopwatch) -> list[Candidate]:
    """The plan with hashed tokens instead of the mean row, finished or not built; none where they cannot pay."""
    with watch.stage("hashed base"):
        base = try_hashed_base(search, plan)
    if base is None:
        return []
    note = "" if base.modules else _describe_behind(base.ratio)
    figures = base.nbytes, base.distortion, base.price, base.distortion
    return [Candidate(HASHED_BASE, base.modules, *figures, note=note, members=base.members)]


def confirm(
    subject: Subject,
    candidates: Sequence[Candidate],
    options: Options,
    *,
    progress: Progress,
    measure_alone: bool = True,
) -> list[Candidate]:
    """The candidates by divergence from the original on the hold-out (else a sample of the training log), best first.

    Without data, by the distortion that the fit predicts.
    """
    source = subject.hold_out or subject.train
    if source is None or (len(candidates) == 1 and not measure_alone):
        return sorted(candidates, key=lambda candidate: (not candidate.modules, candidate.distortion))
    planned = [candidate for candidate in candidates if not candidate.modules]
    made = [candidate for candidate in candidates if candidate.modules]

    def measure() -> list[float]:
        return _measure_divergences(subject, source, made, options, progress)

    divergences = subject.crew.decide(f"divergences of {len(made)}", measure)
    pairs = list(zip(made, divergences, strict=True))
    scored = [replace(one, divergence=found) for one, found in pairs if np.isfinite(found)]
    if not scored:  # the original itself may answer beyond all measure
        return sorted(candidates, key=lambda candidate: (not candidate.modules, candidate.distortion))
    odd = [replace(one, modules=(), note=ODD_NOTE) for one, found in pairs if not np.isfinite(found)]
    return [*sorted(scored, key=lambda candidate: candidate.divergence or 0.0), *planned, *odd]


def _measure_divergences(
    subject: Subject, source: BatchSource, candidates: Sequence[Candidate], options: Options, progress: Progress
) -> list[float]:
    """How far each candidate's answers on the source's first samples are from the original's."""
    # Held, since a caller's loader may shuffle anew each time, and the logits are compared sample by sample.
    batches = list(source.stream(limit=CONFIRM_SAMPLES))
    if source.mark:
        original = subject.score_original(source, options.workers, limit=CONFIRM_SAMPLES)
    else:
        original = subject.score(subject.model, batches, options.workers)
    groups = join_groups(source, batches)
    found = list[float]()
    for number, candidate in enumerate(candidates):
        progress("compare plans", number, len(candidates))
        outputs = subject.score(candidate.as_model(subject), batches, options.workers)
        found.append(subject.goal.objective.divergence(original, outputs, groups))
    progress("compare plans", len(candidates), len(candidates))
    return found
