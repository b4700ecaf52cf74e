"""What a conversion ends in, before it is measured and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.conversion.steps.candidates import Candidate
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.finetune.loop import FineTuning


@dataclass(frozen=True)
class Shrunk:
    """The outcome: the model with its metadata, the candidate behind it, those that lost, and how training went."""

    model: nn.Module
    metadata: Metadata
    chosen: Candidate
    lost: tuple[Candidate, ...]
    budget_bytes: int
    weights: str
    fitted: Fitted
    fine_tuning: FineTuning | None
    warnings: tuple[str, ...]


def describe_wish(text: str, budget_bytes: int, method: str) -> dict[str, Any]:
    """What was asked for, as metadata hold it; the budget's text and number have one length together.

    The file's size then does not depend on how the budget is written, and the smallest budget that an error names is
    still enough when it is given.
    """
    return {"budget": text[:12].ljust(12 + 20 - len(str(budget_bytes))), "budget_bytes": budget_bytes, "method": method}


@dataclass(frozen=True)
class GateResult:
    """The drop of AUC (original less artifact) on the judging log, its 95 % interval, and the bound it was held to.

    `tried` lists the budgets of a search with their drops; `supported` says whether the whole interval is in bounds.
    """

    bound: float
    drop: float
    interval: tuple[float, float]
    judged_on: str
    samples: int
    tried: tuple[tuple[int, float], ...] = ()

    @property
    def supported(self) -> bool:
        """Whether the bound holds with 95 % confidence, and not in the estimate alone."""
        return self.interval[1] <= self.bound

    def describe(self) -> str:
        """One sentence for the report."""
        low, high = self.interval
        verdict = "supports" if self.supported else "does not settle"
        return (
            f"AUC drop on {self.judged_on} {self.drop:.5f}, allowed {self.bound:.5f}; the 95 % interval {low:.5f} to "
            f"{high:.5f} on {self.samples:,} rows {verdict} it"
        )
