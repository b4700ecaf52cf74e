"""The same budgets and methods on one domain's model after another: run it once per domain, with --domain NAME.

Each run's rows bear the digests of its own checkpoint and logs, so that a folder can hold several domains.
"""

from __future__ import annotations

from collections.abc import Sequence

from memrec_convert.lab.experiments.equal_bytes import run_method
from memrec_convert.lab.experiments.experiment import ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab


def _grid(_lab: Lab, quick: bool) -> Grid:
    return {"ratio": (100,) if quick else (33, 100, 300), "method": ("auto", "memrec")}


def _find(rows: Sequence[Row]) -> str:
    gaps = []
    for ratio in sorted({row["ratio"] for row in rows}):
        found = {
            row["method"]: row["auc_delta"] for row in rows if row["ratio"] == ratio and row["auc_delta"] is not None
        }
        if {"auto", "memrec"} <= set(found):
            gaps.append(f"{ratio:g}x: {found['auto']:+.4f}, all hashed {found['memrec']:+.4f}")
    return f"change of the AUC by our plan and by the published form, {'; '.join(gaps) or 'out of reach'}"


EXPERIMENT = Experiment(
    "domains", _grid, run_method, _find, ChartSpec("ratio", "auc_delta", ("method",)), limits={"ratio": (1, 1e6)}
)
