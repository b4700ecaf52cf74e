"""What a conversion ends in, before it is measured and written."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.conversion.steps.assembly import replace_tables
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.encoding import TableSpec
from memrec_convert.finetune.loop import FineTuning
from memrec_convert.lookup import CompressedModule
from memrec_convert.planning.membership import Membership


@dataclass(frozen=True)
class Candidate:
    """A finished alternative: its modules, exact bytes, predicted distortion and, given data, measured divergence.

    One that has no modules was planned only; `note` then says why it was not built.

    distortion is the summed weight * (change of the logit)**2 that the fit predicts; planned is what it was before ids
    were placed one by one and codes refined; price is that of a byte in the plan.
    """

    name: str
    modules: tuple[CompressedModule, ...]
    nbytes: int
    distortion: float
    price: float = 0.0
    planned: float = 0.0
    divergence: float | None = None
    note: str = ""
    members: Membership | None = field(default=None, compare=False, repr=False)

    @property
    def specs(self) -> tuple[TableSpec, ...]:
        """The spec of every table."""
        return tuple(module.spec for module in self.modules)

    def as_model(self, subject: Subject) -> nn.Module:
        """The subject's model with these modules in place."""
        return replace_tables(subject, self.modules)


@dataclass(frozen=True)
class TakenTable:
    """A table of an earlier day: its rows then and now, those that have a code now, and of these who kept theirs.

    renumbered  rows that had another number, by the row map
    refitted    its codebooks were fitted anew to today's rows
    loss, fresh_loss   what a sample loses, and what it would lose with codebooks and levels from nothing
    """

    name: str
    rows_before: int
    rows: int
    coded: int = 0
    kept: int = 0
    refitted: bool = False
    loss: float = 0.0
    fresh_loss: float = 0.0
    renumbered: int = 0


@dataclass(frozen=True)
class TakenOver:
    """What came of starting from an earlier artifact; `reason` says why it was converted anew after all, if it was."""

    path: str
    tables: tuple[TakenTable, ...]
    reason: str = ""

    @property
    def loss(self) -> float:
        """What the samples of all tables lose."""
        return sum(table.loss for table in self.tables)

    @property
    def fresh_loss(self) -> float:
        """What they would lose, fitted from nothing."""
        return sum(table.fresh_loss for table in self.tables)

    @property
    def says(self) -> str:
        """One sentence for the report."""
        if self.reason:
            return f"Converted anew and not like {self.path}: {self.reason}"
        coded, kept = sum(one.coded for one in self.tables), sum(one.kept for one in self.tables)
        refitted = [one.name for one in self.tables if one.refitted]
        moved = sum(one.renumbered for one in self.tables)
        grown = [one.name for one in self.tables if one.rows != one.rows_before]
        return (
            f"Like {self.path}: {kept:,} of {coded:,} rows kept their codes"
            + (f"; {moved:,} rows had another number" if moved else "")
            + (f"; other numbers of rows: {', '.join(grown)}" if grown else "")
            + (f"; codebooks refitted: {', '.join(refitted)}" if refitted else "")
        )


@dataclass(frozen=True)
class Shrunk:
    """The outcome: the model with its metadata, the candidate behind it, those that lost, and how training went.

    before   the model before its training, where training made another one
    mapped   paths of the tables whose rows went through a map in training
    """

    model: nn.Module
    metadata: Metadata
    chosen: Candidate
    lost: tuple[Candidate, ...]
    budget_bytes: int
    weights: str
    fitted: Fitted
    fine_tuning: FineTuning | None
    warnings: tuple[str, ...]
    taken: TakenOver | None = None
    before: nn.Module | None = None
    mapped: tuple[str, ...] = ()

    def untrained(self) -> nn.Module:
        """The converted model before its training."""
        if self.before is not None:
            return self.before
        if self.fine_tuning is None or not self.fine_tuning.start:
            return self.model
        copied = copy.deepcopy(self.model)
        copied.load_state_dict(self.fine_tuning.start)
        return copied


def describe_wish(text: str, budget_bytes: int, method: str) -> dict[str, Any]:
    """What was asked for, as metadata hold it; the budget's text and number have one length together.

    The file's size then does not depend on how the budget is written, and the smallest budget that an error names is
    still enough when it is given.
    """
    return {"budget": text[:12].ljust(12 + 20 - len(str(budget_bytes))), "budget_bytes": budget_bytes, "method": method}


@dataclass(frozen=True)
class GateResult:
    """What the metric loses on the judging log (for AUC, original less artifact), its 95 % interval, and its bound.

    `what` names the loss; `tried` lists the budgets of a search with their drops; `supported` says whether the whole
    interval is in bounds.
    """

    bound: float
    drop: float
    interval: tuple[float, float]
    judged_on: str
    samples: int
    tried: tuple[tuple[int, float], ...] = ()
    what: str = "AUC drop"

    @property
    def supported(self) -> bool:
        """Whether the bound holds with 95 % confidence, and not in the estimate alone."""
        return self.interval[1] <= self.bound

    def describe(self) -> str:
        """One sentence for the report."""
        low, high = self.interval
        verdict = "supports" if self.supported else "does not settle"
        return (
            f"{self.what} on {self.judged_on} {self.drop:.5f}, allowed {self.bound:.5f}; the 95 % interval {low:.5f} "
            f"to {high:.5f} on {self.samples:,} rows {verdict} it"
        )
