"""Our own contenders: what `convert` makes, fitted once for all budgets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import profile_facts, stay_silent
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.fitting import Fitted, fit_subject
from memrec_convert.distill.curves import TableFit
from memrec_convert.distill.stages import SampleRows, Stage
from memrec_convert.distill.survey import Sample, Survey, ValueClasses
from memrec_convert.distill.weights import TableWeights
from memrec_convert.errors import BudgetTooSmallError, OptionError
from memrec_convert.lab.contest import Contest, Made
from memrec_convert.planning.curves import ListCurve, TableCurves
from memrec_convert.units import parse_budget

_CLASSES = (Fitted, ListCurve, Sample, SampleRows, Stage, Survey, TableCurves, TableFit, TableWeights, ValueClasses)


@dataclass(frozen=True)
class Conversion:
    """`convert` with one method; trained where the contest trains."""

    name: str
    contest: Contest
    method: str

    @cached_property
    def fitted(self) -> Fitted:
        """Weights and fits, which know no budget."""
        make = partial(fit_subject, self.contest.job.subject, self.options, stay_silent, Stopwatch())
        return self.contest.fits.recall(f"conversion: {self.method}", make, _CLASSES)

    def prepare(self) -> None:
        """Fits every table."""
        _ = self.fitted

    @property
    def options(self) -> Options:
        """The contest's, with this method."""
        return self.contest.job.options.change(method=self.method)

    def make(self, budget: str | int) -> Made:
        """The plan that a conversion would choose, to the byte."""
        job = self.contest.job
        try:
            shrunk = shrink(
                job.subject,
                parse_budget(budget),
                self.options,
                profile=profile_facts(job.profile),
                progress=stay_silent,
                watch=Stopwatch(),
                fitted=self.fitted,
            )
        except BudgetTooSmallError as error:
            return Made(None, error.smallest_bytes or None)
        except OptionError as error:  # no table is large enough to be hashed
            return Made(None, None, str(error))
        return Made(shrunk.model, shrunk.chosen.nbytes, shrunk.chosen.name)
