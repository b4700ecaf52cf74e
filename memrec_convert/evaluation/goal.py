"""What a model is for: its objective, and the metric that a conversion is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from memrec_convert.errors import OptionError
from memrec_convert.evaluation.measures import AUC, Metric, choose_metric
from memrec_convert.evaluation.objectives import BINARY, Objective, OwnLoss, choose_objective

_DEFAULTS = {"binary": "auc", "regression": "rmse", "ranking": "ndcg@10"}


@dataclass(frozen=True)
class Goal:
    """An objective and its metric."""

    objective: Objective = BINARY
    metric: Metric = AUC

    @property
    def is_plain(self) -> bool:
        """Whether this is the AUC of clicks."""
        return self.objective is BINARY and self.metric is AUC

    def describe(self) -> dict[str, str]:
        """What a report says of it; nothing of the AUC of clicks."""
        return {} if self.is_plain else {"objective": self.objective.name, "metric": self.metric.name}


CLICKS = Goal()
"""What holds where nothing else is said."""


def choose_goal(objective: object, metric: object, higher_is_better: bool | None) -> Goal:
    """The goal of these arguments, None being the default; OptionError for what does not go together."""
    chosen = choose_objective(objective)
    if metric is None:
        if isinstance(chosen, OwnLoss):
            raise OptionError("objective is a function; set metric= to what the result is judged by, such as rmse.")
        if higher_is_better is not None:
            raise OptionError("higher_is_better says how to read a metric; set metric= too.")
        metric = _DEFAULTS[chosen.name]
    found = choose_metric(metric, higher_is_better)
    if chosen.name not in found.objectives:
        own = " or ".join(found.objectives)
        raise OptionError(
            f"{found.name} is no metric of the objective {chosen.name}; choose another metric, or the objective {own}."
        )
    return Goal(chosen, found)
