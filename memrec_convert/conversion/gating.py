"""The quality gate, and the smallest file that passes it: budgets searched with one fit, judged on the hold-out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.fitting import fit_subject
from memrec_convert.conversion.steps.outcome import GateResult, Shrunk
from memrec_convert.errors import BudgetTooSmallError, LogError, OptionError, QualityError
from memrec_convert.evaluation.delong import compare_auc
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.units import Budget, format_bytes

STEP = 1.025
"""Ratio between neighbouring budgets of the search: the next smaller candidate is at most 3 % smaller."""

LARGEST_BOUND = 0.5


class Gate:
    """Judges models of one subject on one labelled source, the original scored once."""

    def __init__(self, subject: Subject, source: BatchSource, bound: float, *, judged_on: str, workers: int) -> None:
        check_bound(bound)
        if not source.has_labels:
            raise LogError(
                f"the bound on the AUC drop needs labels, and the {judged_on} data has none; give labelled data."
            )
        self.subject, self.source, self.bound, self.judged_on = subject, source, bound, judged_on
        self.workers = subject.scoring_workers(workers)
        self.labels = np.concatenate([source.labels_of(batch).numpy() for batch in source.stream()])
        if len(np.unique(self.labels)) < 2:
            raise LogError(
                f"the bound on the AUC drop needs both classes, and the {judged_on} data holds one; give other data."
            )
        with single_threaded_torch():
            self.before = score_batches(subject.model, source.stream(), subject.forward, workers=self.workers)

    def judge(self, shrunk: Shrunk) -> GateResult:
        """The drop of one outcome."""
        with single_threaded_torch():
            after = score_batches(shrunk.model, self.source.stream(), self.subject.forward, workers=self.workers)
        difference = compare_auc(self.labels, self.before, after)
        assert difference is not None
        low, high = difference.ci95
        return GateResult(self.bound, -difference.delta, (-high, -low), self.judged_on, len(self.labels))

    def require_resolution(self, found: GateResult) -> None:
        """LogError where the judging log has too few rows to tell a drop of this size from none."""
        half = (found.interval[1] - found.interval[0]) / 2
        if half > self.bound:
            needed = int(np.ceil(found.samples * (half / self.bound) ** 2))
            raise LogError(
                f"the {self.judged_on} data of {found.samples:,} rows cannot resolve an AUC drop of {self.bound}: its "
                f"95 % interval is +-{half:.5f}; about {needed:,} rows are needed."
            )


def check_bound(bound: float) -> None:
    """OptionError for a bound that no AUC drop can be held to."""
    if not 0 < bound <= LARGEST_BOUND:
        raise OptionError(f"the bound on the AUC drop is {bound}; expected a number above 0, up to {LARGEST_BOUND}.")


def require_quality(gate: Gate, shrunk: Shrunk, nbytes: int) -> GateResult:
    """QualityError where the outcome drops more AUC than the bound allows."""
    found = gate.judge(shrunk)
    if found.drop > gate.bound:
        raise QualityError(
            f"at {format_bytes(nbytes)} the AUC drops by {found.drop:.5f} on {gate.judged_on}, and {gate.bound} is "
            "allowed; nothing was written; give a larger budget or a wider bound."
        )
    return found


def find_smallest(
    gate: Gate,
    options: Options,
    *,
    cap_bytes: int | None,
    profile: dict[str, object],
    progress: Progress,
    watch: Stopwatch,
) -> tuple[Shrunk, GateResult]:
    """The smallest outcome within the gate's bound, on a grid of budgets that rise by STEP; QualityError if none is.

    First without training, by bisection; then, where fine-tuning is possible, downwards from there with it.
    """
    subject = gate.subject
    with single_threaded_torch():
        fitted = fit_subject(subject, options, progress, watch)
    tried: dict[int, GateResult] = {}

    def attempt(budget_bytes: int, *, train: bool, rivals: bool = False) -> tuple[Shrunk, GateResult]:
        progress("search budgets", len(tried), 20)
        shrunk = shrink(
            subject,
            Budget(str(budget_bytes), fixed_bytes=budget_bytes),
            options,
            profile=profile,
            watch=watch,
            progress=_hush,
            train=train,
            fitted=fitted,
            rivals=rivals,
        )
        found = gate.judge(shrunk)
        tried[budget_bytes] = found
        return shrunk, found

    grid = _make_grid(subject, attempt, cap_bytes)

    def passes(place: int, train: bool) -> bool:
        return attempt(grid[place], train=train)[1].drop <= gate.bound

    if not passes(len(grid) - 1, False) and not passes(len(grid) - 1, True):
        drop = tried[grid[-1]].drop
        raise QualityError(
            f"even at {format_bytes(grid[-1])} the AUC drops by {drop:.5f} on {gate.judged_on}, and {gate.bound} is "
            "allowed; nothing was written; give a larger budget or a wider bound."
        )
    best = bisect_lowest(lambda place: passes(place, False), -1, len(grid) - 1)
    trains = bool(options.epochs) and subject.train is not None and subject.hold_out is not None
    if trains:
        low, stride = best, 2
        while low >= 0 and passes(low, True):
            best, low, stride = low, low - stride, 2 * stride
        best = bisect_lowest(lambda place: passes(place, True), max(low, -1), best)
    shrunk, found = attempt(grid[best], train=trains, rivals=True)
    gate.require_resolution(found)
    drops = tuple((nbytes, result.drop) for nbytes, result in sorted(tried.items()))
    return shrunk, GateResult(found.bound, found.drop, found.interval, found.judged_on, found.samples, drops)


def bisect_lowest(passes: Callable[[int], bool], low: int, high: int) -> int:
    """The lowest place in (low, high] that passes, `high` being known to and `low` not, if passing is monotone."""
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle
    return high


def _make_grid(subject: Subject, attempt: Callable[..., tuple[Shrunk, GateResult]], cap_bytes: int | None) -> list[int]:
    """Budgets from the smallest reachable to the original's size, or to the cap."""
    try:
        attempt(1, train=False)
    except BudgetTooSmallError as error:
        smallest = error.smallest_bytes
    else:
        smallest = 1
    top = cap_bytes or subject.table_bytes + subject.dense_bytes("fp32") + 100_000
    if top < smallest:
        attempt(top, train=False)
    grid = [smallest]
    while grid[-1] * STEP < top:
        grid.append(int(grid[-1] * STEP))
    return [*grid, top] if top > grid[-1] else grid


def _hush(_stage: str, _done: int, _total: int) -> None:
    """The progress of one attempt in a search: the search tells its own."""
