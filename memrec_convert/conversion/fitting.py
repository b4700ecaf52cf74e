"""Row weights and rate curves of every table: what plans for any budget start from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from memrec_convert.conversion.options import Options
from memrec_convert.conversion.stopwatch import Stopwatch
from memrec_convert.conversion.subject import Progress, Subject
from memrec_convert.conversion.weighting import choose_source, weigh_tables
from memrec_convert.distill.curves import STAGE_LISTS, TableFit, fit_table
from memrec_convert.distill.rows import RowReader, read_chunks
from memrec_convert.distill.survey import survey_table
from memrec_convert.distill.weights import TableWeights
from memrec_convert.errors import NonFiniteRowsError
from memrec_convert.parallel import ordered_map


@dataclass(frozen=True)
class Fitted:
    """Where the weights came from, the weights, and the fit of every table."""

    source: str
    weights: tuple[TableWeights, ...]
    fits: tuple[TableFit, ...]


def fit_subject(subject: Subject, options: Options, progress: Progress, watch: Stopwatch) -> Fitted:
    """Weighs and fits every table, the largest first, several at a time."""
    with watch.stage("weights"):
        source = choose_source(subject, options.weights)
        weights = weigh_tables(subject, source, options, progress)
    order = sorted(range(len(subject.sites)), key=lambda number: -subject.sites[number].rows)

    # Stored rows over the mean need no codes: one list stands for all.
    lists = () if options.method == "int8" else STAGE_LISTS

    def fit(number: int) -> TableFit:
        site, weight = subject.sites[number], weights[number]
        survey = survey_table(site.reader, weight.rows, weight.metric)
        replaceable = options.method != "memrec" and options.may_replace(site.rows, site.nbytes)
        return fit_table(site.name, site.reader, survey, replaceable=replaceable, seed=options.seed, lists=lists)

    found: dict[int, TableFit] = {}
    with watch.stage("fit"):
        progress("fit tables", 0, len(order))
        for number, one in zip(order, ordered_map(fit, order, workers=options.workers), strict=True):
            found[number] = one
            progress("fit tables", len(found), len(order))
    return Fitted(source, tuple(weights), tuple(found[number] for number in range(len(order))))


@dataclass(frozen=True)
class FiniteRows:
    """Rows of a reader with zeros for what is NaN or infinite."""

    inner: RowReader

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""
        return self.inner.shape

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """As the inner reader's, all finite."""
        rows: np.ndarray = np.nan_to_num(self.inner.read_rows(start, stop), nan=0.0, posinf=0.0, neginf=0.0)
        return rows


def find_nonfinite_rows(reader: RowReader) -> tuple[int, int]:
    """How many rows hold NaN or infinite values, and the first of them (-1 where there is none)."""
    count, first = 0, -1
    for start, chunk in read_chunks(reader):
        odd = (~torch.isfinite(chunk).all(dim=1)).nonzero().flatten()
        if len(odd) and first < 0:
            first = start + int(odd[0])
        count += len(odd)
    return count, first


def refuse_nonfinite(where: str, count: int, first: int) -> NonFiniteRowsError:
    """The error that names the table and its first such row."""
    rows = "1 row holds" if count == 1 else f"{count} rows hold"
    return NonFiniteRowsError(
        f"{where}: {rows} NaN or infinite values, the first is row {first}; expected finite numbers; repair the "
        "checkpoint, or read such rows as zeros with --allow-nonfinite."
    )
