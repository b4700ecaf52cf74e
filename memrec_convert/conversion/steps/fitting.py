"""Row weights and rate curves of every table: what plans for any budget start from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from memrec_convert.conversion.inputs.metering import Stopwatch, count_large_bytes
from memrec_convert.conversion.inputs.subject import Progress, Subject, TableSite
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.weighting import choose_source, weigh_tables
from memrec_convert.distill.curves import (
    SAMPLE_ROWS,
    TableFit,
    count_list_work,
    fit_stages,
    group_lists,
    measure_lists,
    measure_table,
)
from memrec_convert.distill.rows import is_large
from memrec_convert.distill.stages import SampleRows, Stage
from memrec_convert.distill.survey import Sample, Survey, ValueClasses, survey_table
from memrec_convert.distill.weights import TableWeights
from memrec_convert.parallel import ALONE, even_out, ordered_map
from memrec_convert.planning.curves import SMALL_LISTS, STAGE_LISTS, ListCurve, TableCurves
from memrec_convert.planning.search import NARROW, FormMemo, takes_fine_codecs, takes_small_lists

SAMPLE_BYTES = 512 << 20
"""The samples of all large tables together take no more."""

PASSES_TO_FIT = 1
"""Passes over a large table, for its values; of what tells its centre, and of its sample, a few rows are read."""

MOST_HEADER = 1 << 15
"""Bytes that a file's header may take, which only the planner counts: small lists are fitted where it may want them."""

LEAST_SAMPLE_ROWS = 4096
MOST_LARGE_FITS = 2
"""Fits at a time where tables are large: each takes hundreds of megabytes beside its sample. `even_out` may add one."""

FIT_CLASSES = (ListCurve, Sample, SampleRows, Survey, TableCurves, TableFit, ValueClasses)
"""The dataclasses of which a fit consists."""


ListKey = tuple[int, tuple[int, ...]]
"""A table's number, and one of its stage lists."""


@dataclass(frozen=True)
class IdleTable:
    """A table that the hold-out does not miss: what its log loss rises by without it, and the standard error."""

    number: int
    rise: float
    error: float


@dataclass(frozen=True)
class Fitted:
    """Where the weights came from, the weights, and the fit of every table; and what searches for plans share.

    `fault`: why the optimizer's state is not used, though there is one. `stages`: of all lists of small tables, and of
    those lists of large ones that plans have chosen. `idle`: tables left at their mean row, of the fit `whole`; None
    where none was sought.
    """

    source: str
    weights: tuple[TableWeights, ...]
    fits: tuple[TableFit, ...]
    fault: str = ""
    forms: FormMemo = field(default_factory=dict, compare=False, repr=False)
    stages: dict[ListKey, tuple[Stage, ...]] = field(default_factory=dict, compare=False, repr=False)
    idle: tuple[IdleTable, ...] | None = None
    whole: Fitted | None = field(default=None, compare=False, repr=False)

    @property
    def left_out(self) -> frozenset[int]:
        """Numbers of the idle tables."""
        return frozenset(one.number for one in self.idle or ())


def fit_subject(
    subject: Subject, options: Options, progress: Progress, watch: Stopwatch, *, budget_bytes: int | None = None
) -> Fitted:
    """Weighs and fits every table, the largest first, several at a time; what the subject's store has is not redone.

    budget_bytes: the file's, where the fits are for that one alone; otherwise they serve all budgets.
    """
    source, fault = choose_source(subject, options.weights)
    # Stored rows over the mean need no codes: one list stands for all.
    lists, all_lists = () if options.method == "int8" else (*STAGE_LISTS, *SMALL_LISTS), True
    sample_rows = _choose_sample(subject)
    fine = options.method == "auto"
    if budget_bytes is not None:
        for_tables = budget_bytes - subject.dense_bytes(options.dense)
        fine = fine and takes_fine_codecs(subject.table_bytes, for_tables)
        shapes = [(site.rows, site.dim) for site in subject.sites if _is_replaceable(site, options)]
        all_lists = takes_small_lists(shapes, for_tables - MOST_HEADER)
    about = f"{source}, {sample_rows}, {len(lists)}" + ", small" * all_lists + (", fine" if fine else "")
    names = [f"fit of {number}, {about}" for number in range(len(subject.sites))]
    found: dict[int, TableFit] = {
        number: held for number, name in enumerate(names) if (held := subject.work.find(name, FIT_CLASSES)) is not None
    }
    with watch.stage("weights"):
        if len(found) == len(names):
            weights = [TableWeights(found[n].survey.weights, found[n].survey.metric) for n in range(len(names))]
        else:
            weights = weigh_tables(subject, source, options, progress)

    def measure(number: int) -> tuple[int, TableFit]:
        site, weight = subject.sites[number], weights[number]
        large = is_large(site.reader.shape)
        shared: dict[str, Any] = {"scratch": subject.scratch, "workers": options.workers if large else 1}
        shared |= {"label": names[number], "crew": subject.crew if large else ALONE}
        survey = survey_table(site.reader, weight.rows, weight.metric, **shared)
        choices: dict[str, Any] = {"replaceable": _is_replaceable(site, options), "sample_rows": sample_rows}
        made = measure_table(site.name, site.reader, survey, seed=options.seed, fine=fine, **choices, **shared)
        subject.work.keep(names[number], made, FIT_CLASSES)
        return number, made

    missing = sorted((n for n in range(len(names)) if n not in found), key=lambda n: -subject.sites[n].rows)
    large, small = ([n for n in missing if is_large(subject.sites[n].reader.shape) == kind] for kind in (True, False))
    reading = PASSES_TO_FIT * count_large_bytes([subject.sites[number].reader for number in missing])
    with watch.stage("fit"), subject.meter.stage("fit tables", reading, progress):
        found.update(map(measure, large))
        found.update(ordered_map(measure, small, workers=options.workers))
        fits, stages = list[TableFit](), dict[ListKey, tuple[Stage, ...]]()
        of_site = [lists if all_lists or site.dim <= NARROW else lists[: len(STAGE_LISTS)] for site in subject.sites]
        ordered = [found[number] for number in range(len(names))]
        for one, own in _fit_curves(subject, about, ordered, of_site, options, logged=source == "log"):
            stages |= {(len(fits), sizes): fitted for sizes, fitted in own.items()}
            fits.append(one)
            if not reading:
                progress("fit tables", len(fits), len(names))
    return Fitted(source, tuple(weights), tuple(fits), fault, stages=stages)


def without_tables(fitted: Fitted, idle: Sequence[IdleTable]) -> Fitted:
    """The fit in which idle tables have one form, the mean row, and lose nothing in it."""
    if not idle:
        return replace(fitted, idle=())
    fits = list(fitted.fits)
    for one in idle:
        curves = fits[one.number].curves
        mean_row = ListCurve((), np.zeros((1, len(curves.class_rows))))
        fits[one.number] = replace(fits[one.number], curves=replace(curves, lists=(mean_row,), stored={}, kept={}))
    return replace(fitted, fits=tuple(fits), forms={}, idle=tuple(idle), whole=fitted)


def _is_replaceable(site: TableSite, options: Options) -> bool:
    return options.method != "memrec" and options.may_replace(site.rows, site.nbytes)


def _fit_curves(
    subject: Subject,
    about: str,
    measured: Sequence[TableFit],
    lists: Sequence[Sequence[tuple[int, ...]]],
    options: Options,
    *,
    logged: bool,
) -> Iterator[tuple[TableFit, dict[tuple[int, ...], tuple[Stage, ...]]]]:
    """The tables' fits with the curves of those of its `lists` that each may take, and the stages of the final ones.

    `about` is what they depend on; `logged` says whether weights come from a log.
    """
    groups = [
        group_lists(site.rows, own) if _is_replaceable(site, options) else []
        for site, own in zip(subject.sites, lists, strict=True)
    ]
    tasks = [(number, group) for number, own in enumerate(groups) for group in own]
    costs = [float(count_list_work(measured[number], group, logged=logged)) for number, group in tasks]
    order = sorted(range(len(tasks)), key=lambda n: -costs[n])

    def fit(turn: int) -> tuple[tuple[ListCurve, tuple[Stage, ...]], ...]:
        number, group = tasks[turn]
        return measure_lists(measured[number], group, seed=options.seed, logged=logged)

    workers = min(options.workers, MOST_LARGE_FITS) if subject.large_bytes else options.workers
    shared: dict[str, Any] = {"classes": (ListCurve, Stage), "costs": [costs[n] for n in order]}
    made = subject.crew.map(f"lists, {about}", fit, order, workers=workers, **shared)
    of_task = dict(zip(order, made, strict=True))
    found = iter([of_task[turn] for turn in range(len(tasks))])
    for one, own in zip(measured, groups, strict=True):
        pairs = [pair for _ in own for pair in next(found)]
        curves = replace(one.curves, lists=(*one.curves.lists, *(curve for curve, _ in pairs)))
        yield replace(one, curves=curves), {curve.sizes: stages for curve, stages in pairs if stages}


def fit_chosen(subject: Subject, fitted: Fitted, keys: Iterable[ListKey], options: Options) -> None:
    """Fits the lists that a plan has chosen and none before it."""
    missing = [key for key in dict.fromkeys(keys) if key[1] and key not in fitted.stages]

    def fit(key: ListKey) -> tuple[Stage, ...]:
        return fit_stages(fitted.fits[key[0]], key[1], seed=options.seed)

    workers = min(options.workers, MOST_LARGE_FITS) if subject.large_bytes else options.workers
    workers = even_out(workers, len(missing))
    name = f"stages of {missing}, {fitted.source}"
    samples = [fitted.fits[number].sample.rows.residual.numel() for number, _ in missing]
    costs = [float(values * sum(sizes)) for values, (_, sizes) in zip(samples, missing, strict=True)]
    found = subject.crew.map(name, fit, missing, workers=workers, classes=(Stage,), costs=costs)
    fitted.stages.update(zip(missing, found, strict=True))


def _choose_sample(subject: Subject) -> int:
    """Rows of each table's sample: fewer where the samples of many large tables would take too much together."""
    large = [site for site in subject.sites if is_large(site.reader.shape)]
    if not large:
        return SAMPLE_ROWS
    together = 4 * max(site.dim for site in large) * len(large)
    return max(LEAST_SAMPLE_ROWS, min(SAMPLE_ROWS, SAMPLE_BYTES // together))
