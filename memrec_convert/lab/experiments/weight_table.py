"""Sensitivity to d', the entries of the weight table, at fixed d; with the time of the embedding stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memrec_convert.bench.timing import time_interleaved
from memrec_convert.conversion.steps.assembly import replace_tables
from memrec_convert.kernels.hashing import WEIGHT_LANES
from memrec_convert.lab.experiments.collisions import refuse_sizes
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab, count_blocks
from memrec_convert.models import ClickNetwork

REPEATS = 7
TIMED_ROWS = 2048


def _grid(lab: Lab, quick: bool) -> Grid:
    d = max(2, lab.hashed_rows() // 100)
    shares = (1,) if quick else (1000, 100, 10, 1, 0.1)
    sizes = dict.fromkeys(max(WEIGHT_LANES, int(d / share)) for share in shares)
    return {"d": (d,), "d_weights": (0, *sizes), "k": (2,), "k_weights": (4,)}


def _run(lab: Lab, cell: Cell, seed: int) -> Row:
    entries = int(cell["d_weights"])
    k_weights = int(cell["k_weights"]) if entries else 0
    modules, nbytes = lab.make_hashed(
        int(cell["d"]), int(cell["k"]), k_weights, blocks=count_blocks(entries), seed=seed
    )
    model = replace_tables(lab.subject, modules)
    return {**lab.measure(model, nbytes), "ns_per_lookup": time_lookups(lab, model)}


def time_lookups(lab: Lab, model: torch.nn.Module) -> float:
    """Median over a few repetitions of the embedding stage on one batch of the evaluation log, in ns per lookup."""
    assert lab.job.judged is not None
    assert isinstance(model, ClickNetwork)
    ids = next(iter(lab.job.judged.stream())).ids
    if not isinstance(ids, Tensor):
        return float("nan")
    ids = ids[:TIMED_ROWS]
    with torch.no_grad():
        timing = time_interleaved({"embed": lambda _: model.embed(ids)}, REPEATS)["embed"]
    return timing.median / ids.numel() * 1e9


def _find(rows: Sequence[Row]) -> str:
    best, worst = max(rows, key=lambda row: row["auc_delta"]), min(rows, key=lambda row: row["auc_delta"])
    without = [row for row in rows if not row["d_weights"]]
    said = f"without weights {without[0]['auc_delta']:+.4f}, " if without else ""
    spread = [row["ns_per_lookup"] for row in rows]
    return (
        f"at d = {best['d']} {said}best {best['auc_delta']:+.4f} at d' = {best['d_weights']}, worst "
        f"{worst['auc_delta']:+.4f} at d' = {worst['d_weights']}; {min(spread):.0f} to {max(spread):.0f} ns per lookup"
    )


EXPERIMENT = Experiment(
    "weight-table",
    _grid,
    _run,
    _find,
    ChartSpec("d_weights", "auc_delta", (), log_x=False),
    limits={"d": (1, 1e9), "d_weights": (0, 1e9), "k": (1, 64), "k_weights": (1, 16)},
    refuse=refuse_sizes,
)
