"""AUC at equal bytes, tables ten to a thousand times smaller: our plan, codes alone, int8 rows, published MEM-REC."""

from __future__ import annotations

from collections.abc import Sequence

from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import profile_facts, stay_silent
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.outcome import Shrunk
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab
from memrec_convert.units import parse_budget

METHODS = ("auto", "codes", "int8", "memrec")
SAME = 0.0005


def _grid(_lab: Lab, quick: bool) -> Grid:
    ratios = (100,) if quick else (10, 33, 100, 300, 1000)
    return {"ratio": ratios, "method": ("auto", "int8", "memrec") if quick else METHODS}


def run_method(lab: Lab, cell: Cell, seed: int) -> Row:
    """One method at one budget, nothing trained; without figures where it cannot reach the budget."""
    try:
        shrunk = shrink_with(lab, str(cell["method"]), cell["ratio"], seed)
    except BudgetTooSmallError as error:
        return {"bytes": error.smallest_bytes, "auc": None, "auc_delta": None, "ci_low": None, "ci_high": None}
    return lab.measure(shrunk.model, shrunk.chosen.nbytes)


def shrink_with(lab: Lab, method: str, ratio: float, seed: int) -> Shrunk:
    """What a conversion by this method would be, not trained."""
    return shrink(
        lab.subject,
        parse_budget(f"{ratio:g}x"),
        lab.job.options.change(method=method, seed=seed, epochs=0),
        profile=profile_facts(lab.job.profile),
        progress=stay_silent,
        watch=Stopwatch(),
        fitted=lab.fit(method, seed),
        train=False,
        rivals=False,
    )


def _find(rows: Sequence[Row]) -> str:
    parts = []
    for ratio in sorted({row["ratio"] for row in rows}):
        measured = [row for row in rows if row["ratio"] == ratio and row["auc_delta"] is not None]
        best_first = sorted(measured, key=lambda row: -row["auc_delta"])
        figures = [f"{row['method']} {row['auc_delta']:+.4f}" for row in best_first]
        parts.append(f"{ratio:g}x: {', '.join(figures) or 'out of reach'}")
    return "change of the AUC at equal bytes, best first; " + "; ".join(parts)


EXPERIMENT = Experiment(
    "equal-bytes", _grid, run_method, _find, ChartSpec("bytes", "auc_delta", ("method",)), limits={"ratio": (1, 1e6)}
)
