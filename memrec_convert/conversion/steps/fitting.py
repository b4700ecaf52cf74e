"""Row weights and rate curves of every table: what plans for any budget start from."""

from __future__ import annotations

from dataclasses import dataclass, field

from memrec_convert.conversion.inputs.metering import Stopwatch, count_large_bytes
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.weighting import choose_source, weigh_tables
from memrec_convert.distill.curves import SAMPLE_ROWS, TableFit, fit_table
from memrec_convert.distill.rows import is_large
from memrec_convert.distill.stages import FittedList, SampleRows, Stage
from memrec_convert.distill.survey import Sample, Survey, ValueClasses, survey_table
from memrec_convert.distill.weights import TableWeights
from memrec_convert.parallel import ordered_map
from memrec_convert.planning.curves import STAGE_LISTS, ListCurve, TableCurves
from memrec_convert.planning.search import FormMemo, takes_fine_codecs

SAMPLE_BYTES = 512 << 20
"""The samples of all large tables together take no more."""

PASSES_TO_FIT = 3
"""Passes over a large table for its centre, its values and its sample."""

LEAST_SAMPLE_ROWS = 4096
MOST_LARGE_FITS = 2
"""Fits at a time where tables are large: each takes a few hundred megabytes beside its sample."""


FIT_CLASSES = (FittedList, ListCurve, Sample, SampleRows, Stage, Survey, TableCurves, TableFit, ValueClasses)
"""The dataclasses of which a fit consists."""


@dataclass(frozen=True)
class Fitted:
    """Where the weights came from, the weights, and the fit of every table; and what searches for plans share.

    `fault`: why the optimizer's state is not used, though there is one.
    """

    source: str
    weights: tuple[TableWeights, ...]
    fits: tuple[TableFit, ...]
    fault: str = ""
    forms: FormMemo = field(default_factory=dict, compare=False, repr=False)


def fit_subject(
    subject: Subject, options: Options, progress: Progress, watch: Stopwatch, *, budget_bytes: int | None = None
) -> Fitted:
    """Weighs and fits every table, the largest first, several at a time; what the subject's store has is not redone.

    budget_bytes: the file's, where the fits are for that one alone; otherwise they serve all budgets.
    """
    source, fault = choose_source(subject, options.weights)
    # Stored rows over the mean need no codes: one list stands for all.
    lists = () if options.method == "int8" else STAGE_LISTS
    sample_rows = _choose_sample(subject)
    fine = options.method == "auto"
    if fine and budget_bytes is not None:
        fine = takes_fine_codecs(subject.table_bytes, budget_bytes - subject.dense_bytes(options.dense))
    about = f"{source}, {sample_rows}, {len(lists)}" + (", fine" if fine else "")
    names = [f"fit of {number}, {about}" for number in range(len(subject.sites))]
    found: dict[int, TableFit] = {
        number: held for number, name in enumerate(names) if (held := subject.work.find(name, FIT_CLASSES)) is not None
    }
    with watch.stage("weights"):
        if len(found) == len(names):
            weights = [TableWeights(found[n].survey.weights, found[n].survey.metric) for n in range(len(names))]
        else:
            weights = weigh_tables(subject, source, options, progress)
    missing = [number for number in range(len(names)) if number not in found]
    order = sorted(missing, key=lambda number: -subject.sites[number].rows)

    def fit(number: int) -> TableFit:
        site, weight = subject.sites[number], weights[number]
        survey = survey_table(site.reader, weight.rows, weight.metric, scratch=subject.scratch, workers=options.workers)
        replaceable = options.method != "memrec" and options.may_replace(site.rows, site.nbytes)
        made = fit_table(
            site.name,
            site.reader,
            survey,
            replaceable=replaceable,
            seed=options.seed,
            lists=lists,
            fine=fine,
            sample_rows=sample_rows,
            scratch=subject.scratch,
            workers=options.workers,
        )
        subject.work.keep(names[number], made, FIT_CLASSES)
        return made

    workers = min(options.workers, MOST_LARGE_FITS) if subject.large_bytes else options.workers
    reading = PASSES_TO_FIT * sum(count_large_bytes([subject.sites[number].reader]) for number in order)
    with watch.stage("fit"), subject.meter.stage("fit tables", reading, progress):
        for number, one in zip(order, ordered_map(fit, order, workers=workers), strict=True):
            found[number] = one
            if not reading:
                progress("fit tables", len(found), len(names))
    return Fitted(source, tuple(weights), tuple(found[number] for number in range(len(names))), fault)


def _choose_sample(subject: Subject) -> int:
    """Rows of each table's sample: fewer where the samples of many large tables would take too much together."""
    large = [site for site in subject.sites if is_large(site.reader.shape)]
    if not large:
        return SAMPLE_ROWS
    together = 4 * max(site.dim for site in large) * len(large)
    return max(LEAST_SAMPLE_ROWS, min(SAMPLE_ROWS, SAMPLE_BYTES // together))
