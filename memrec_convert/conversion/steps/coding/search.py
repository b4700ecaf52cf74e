"""The search for a plan within a budget, and what its plans share: codebooks, and codes of small tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.distill.finish import CodedTable, code_table
from memrec_convert.distill.stages import Stage, count_search_work
from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.parallel import Job, Pass
from memrec_convert.planning.forms import FormChoice
from memrec_convert.planning.search import CountFile, TablePlan, plan_tables

ROWS_SHARED = 1 << 22
"""Rows of small and large tables that a crew shares at a time; a larger table is shared alone."""

_TRELLIS_WORK = 64
"""What a fine codec's encoder does, which searches, in entries compared."""

Made = TypeVar("Made")
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Search:
    """The search for a plan within a budget: what plans are made from, and codes that several of them share.

    count gives the exact bytes of a file; refine: whether codes improve with the codebooks once the depths are known.
    """

    subject: Subject
    fitted: Fitted
    budget_bytes: int
    options: Options
    count: CountFile
    refine: bool = True
    coded: dict[tuple[int, tuple[int, ...]], CodedTable] = field(default_factory=dict)
    stored: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    def plan(self, methods: str, count: CountFile | None = None) -> TablePlan:
        """The plan that loses least within the budget; BudgetTooSmallError where there is none."""
        curves = [fit.curves for fit in self.fitted.fits]
        return plan_tables(curves, self.budget_bytes, count or self.count, methods=methods, memo=self.fitted.forms)

    def stages(self, number: int, sizes: tuple[int, ...]) -> tuple[Stage, ...]:
        """The codebooks of a table's list, as `fit_chosen` has fitted them."""
        return self.fitted.stages[number, sizes] if sizes else ()

    def code(self, number: int, sizes: tuple[int, ...]) -> CodedTable:
        """Codes and losses of a small table at every depth of a list, and as stored int8 rows last."""
        return self.coded[number, sizes]

    def weigh_stored(self, number: int, codec: str, coded: CodedTable) -> np.ndarray:
        """What each row of a table loses as a stored row, float32 [rows]; `coded` is the table by any list."""
        found: np.ndarray = coded.losses[-1] if codec == "int8" else self.stored[number, codec]
        return found

    def code_small(self, choices: Mapping[int, FormChoice]) -> list[tuple[int, Job[None]]]:
        """The jobs after which `code` and `weigh_stored` know these tables in these forms, each with its rows."""
        wanted = {number: (number, choice.sizes) for number, choice in choices.items()}
        rows = [site.rows for site in self.subject.sites]
        jobs = [(rows[number], self._code(*key)) for number, key in wanted.items() if key not in self.coded]
        codecs = {
            (number, level.codec): None
            for number, choice in choices.items()
            for level in choice.levels
            if level.codec not in ("", "int8") and (number, level.codec) not in self.stored
        }
        return jobs + [(rows[number], self._weigh(number, codec)) for number, codec in codecs]

    def finish(self, jobs: Sequence[tuple[int, Job[Made]]]) -> list[Made]:
        """What comes of jobs, each with the number of rows that it is about.

        Of as many at a time as have `ROWS_SHARED` rows: until they are all through, results are held twice.
        """
        shares = _in_groups(jobs, [rows for rows, _ in jobs])
        return [made for share in shares for made in self.subject.crew.finish([job for _, job in share])]

    def split(self, numbers: Sequence[int]) -> list[list[int]]:
        """These tables in groups of at most `ROWS_SHARED` rows, or of one table."""
        return _in_groups(numbers, [self.subject.sites[number].rows for number in numbers])

    def _code(self, number: int, sizes: tuple[int, ...]) -> Job[None]:
        reader, fit, stages = self.subject.sites[number].reader, self.fitted.fits[number], self.stages(number, sizes)
        levels = [*range(len(stages) + 1), "int8"]

        def make(_: int) -> CodedTable:
            return code_table(reader, fit.survey, stages, levels, workers=self.options.workers)

        def join(found: Iterator[CodedTable]) -> None:
            (self.coded[number, sizes],) = found

        rows, dim = reader.shape
        costs = [float(rows * count_search_work(sizes, dim)[-1])]
        name, classes = f"codes of {number} {sizes}", (CodedTable, Stage)
        return Job(Pass(name, make, [number], classes=classes, costs=costs), join)

    def _weigh(self, number: int, codec: str) -> Job[None]:
        reader, fit = self.subject.sites[number].reader, self.fitted.fits[number]

        def make(_: int) -> np.ndarray:
            losses: np.ndarray = code_table(reader, fit.survey, (), [codec], workers=self.options.workers).losses[0]
            return losses

        def join(found: Iterator[np.ndarray]) -> None:
            (self.stored[number, codec],) = found

        rows, dim = reader.shape
        costs = [float(rows * dim * (_TRELLIS_WORK if codec in FINE_CODECS else 1))]
        return Job(Pass(f"{codec} rows of {number}", make, [number], costs=costs), join)


def _in_groups(things: Sequence[Thing], rows: Sequence[int]) -> list[list[Thing]]:
    """Things that have so many rows each, in groups of at most `ROWS_SHARED` rows, or of one thing."""
    groups, together = list[list[Thing]](), 0
    for one, own in zip(things, rows, strict=True):
        if not groups or together + own > ROWS_SHARED:
            groups.append([])
            together = 0
        groups[-1].append(one)
        together += own
    return groups
