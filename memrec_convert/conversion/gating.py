"""The quality gate, and the smallest file that passes it: budgets searched with one fit, judged on the hold-out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject, read_truth
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.fitting import fit_subject, without_tables
from memrec_convert.conversion.steps.outcome import GateResult, Shrunk
from memrec_convert.conversion.steps.yesterday import Yesterday
from memrec_convert.errors import BudgetTooSmallError, LogError, OptionError, QualityError
from memrec_convert.evaluation.measures import AUC, Metric
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.units import Budget, format_bytes, parse_budget

STEP = 1.025
"""Ratio between neighbouring budgets of the search: the next smaller candidate is at most 3 % smaller."""

LARGEST_BOUND = 0.5


class Gate:
    """Judges models of one subject on one labelled source by its metric, the original scored once."""

    def __init__(self, subject: Subject, source: BatchSource, bound: float, *, judged_on: str, workers: int) -> None:
        self.metric = subject.goal.metric
        self.what = f"{self.metric.title} {self.metric.loss_word}"
        check_bound(bound, self.metric)
        truth = read_truth(source)
        if truth is None:
            raise LogError(
                f"the bound on the {self.what} needs labels, and the {judged_on} data has none; give labelled data."
            )
        self.subject, self.source, self.bound, self.judged_on = subject, source, bound, judged_on
        self.workers, self.truth = workers, truth
        with single_threaded_torch():
            self.before = subject.score(subject.model, source.stream(), workers)
        if self.metric.measure(truth, self.before) is None:
            lacks = (
                "both classes, and the {} data holds one" if subject.goal.is_plain else "other labels than the {} data"
            )
            raise LogError(f"the bound on the {self.what} needs {lacks.format(judged_on)}; give other data.")

    def judge(self, shrunk: Shrunk) -> GateResult:
        """The loss of one outcome: a drop, or a rise where lower is better."""
        with single_threaded_torch():
            after = self.subject.score(shrunk.model, self.source.stream(), self.workers)
        difference = self.metric.compare(self.truth, self.before, after, workers=self.workers)
        assert difference is not None
        loss = -self.metric.sign * difference.delta
        low, high = sorted(-self.metric.sign * bound for bound in difference.ci95)
        return GateResult(self.bound, loss, (low, high), self.judged_on, len(self.truth.labels), what=self.what)

    def require_resolution(self, found: GateResult) -> None:
        """LogError where the judging log has too few rows to tell a drop of this size from none."""
        half = (found.interval[1] - found.interval[0]) / 2
        if half > self.bound:
            needed = int(np.ceil(found.samples * min(half / self.bound, 1e6) ** 2))
            raise LogError(
                f"the {self.judged_on} data of {found.samples:,} rows cannot resolve {_with_article(self.what)} of "
                f"{self.bound}: its 95 % interval is +-{half:.5f}; about {needed:,} rows are needed."
            )


@dataclass(frozen=True)
class Bounds:
    """What a conversion may lose of its metric: `search` asks for the smallest file within it, `gate` refuses more."""

    search: float | None = None
    gate: float | None = None

    def check(self, metric: Metric = AUC) -> None:
        """OptionError for a bound that no change of the metric can be held to."""
        for bound in (self.search, self.gate):
            if bound is not None:
                check_bound(bound, metric)


NO_BOUNDS = Bounds()


def shrink_within(
    subject: Subject,
    budget: str | int | None,
    options: Options,
    bounds: Bounds,
    *,
    judged: BatchSource | None,
    profile: dict[str, object],
    progress: Progress,
    watch: Stopwatch,
    like: Yesterday | None = None,
) -> tuple[Shrunk, GateResult | None]:
    """The outcome at the budget, `like` an earlier artifact, or the smallest within `bounds.search`; held to a gate.

    Where there is a bound, tables are coded even if the hold-out does not miss them: leaving them out may cost some.
    Judged on the hold-out; a gate alone on the evaluation data `judged` where there is none.
    """
    asked = None if budget is None else parse_budget(budget)
    run = partial(shrink, subject, options=options, profile=profile, progress=progress, watch=watch)
    bound = bounds.search if bounds.search is not None else bounds.gate
    if bound is None:
        assert asked is not None
        return run(asked, like=like), None
    judging = subject.hold_out or (judged if bounds.search is None else None)
    if judging is None:
        needed = "a hold-out (--val)" if bounds.search is not None else "a hold-out (--val) or evaluation data (--eval)"
        what = f"{subject.goal.metric.title} {subject.goal.metric.loss_word}"
        raise LogError(f"the bound of {bound} on the {what} needs {needed} to be judged on; add it.")
    judged_on = "val" if judging is subject.hold_out else "eval"
    gate = Gate(subject, judging, bound, judged_on=judged_on, workers=options.workers)
    if bounds.search is None:
        assert asked is not None
        shrunk = run(asked, like=like, spare=False)
    else:
        dense_bytes = subject.dense_bytes("fp32")
        cap = None if asked is None else asked.resolve(table_bytes=subject.table_bytes, dense_bytes=dense_bytes)
        shrunk, found = find_smallest(gate, options, cap_bytes=cap, profile=profile, progress=progress, watch=watch)
        if bounds.gate is None or found.drop <= bounds.gate:
            return shrunk, found
        gate.bound = bounds.gate
    found = require_quality(gate, shrunk, shrunk.chosen.nbytes)
    gate.require_resolution(found)
    return shrunk, found


def check_bound(bound: float, metric: Metric = AUC) -> None:
    """OptionError for a bound that no change of the metric can be held to."""
    most = np.inf if metric.relative else LARGEST_BOUND
    if not isinstance(bound, int | float | np.floating) or not 0 < bound <= most or bound == np.inf:
        limit = "" if metric.relative else f", up to {LARGEST_BOUND}"
        what = f"{metric.title} {metric.loss_word}"
        shown = repr(bound) if isinstance(bound, str) else bound
        raise OptionError(f"the bound on the {what} is {shown}; expected a number above 0{limit}.")


def _with_article(what: str) -> str:
    """An AUC drop, a GAUC drop, a hit@10 drop; letters read by their names take "an" before a vowel's sound."""
    sounds_open = what[0] in "aeiou" or (what.split()[0].isupper() and what[0] in "AEFHILMNORSX")
    return f"{'an' if sounds_open else 'a'} {what}"


def require_quality(gate: Gate, shrunk: Shrunk, nbytes: int) -> GateResult:
    """QualityError where the outcome loses more of the metric than the bound allows."""
    found = gate.judge(shrunk)
    if found.drop > gate.bound:
        raise QualityError(
            f"at {format_bytes(nbytes)} the {gate.metric.title} {gate.metric.loss_word}s by {found.drop:.5f} on "
            f"{gate.judged_on}, and {gate.bound} is allowed; nothing was written; give a larger budget or a wider "
            "bound."
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
        fitted = without_tables(fit_subject(subject, options, progress, watch), ())
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
            f"even at {format_bytes(grid[-1])} the {gate.metric.title} {gate.metric.loss_word}s by {drop:.5f} on "
            f"{gate.judged_on}, and {gate.bound} is allowed; nothing was written; give a larger budget or a wider "
            "bound."
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
    return shrunk, replace(found, tried=drops)


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
