"""Misses of the last-level cache in the embedding stage, simulated, beside the slides' table.

26 lookups a sample on Criteo Terabyte's row counts, ids by Zipf's law: DLRM gathers full rows of 512 bytes, MEM-REC
k = 1 token row and k' = 4 weights from tables of d = d' = 75,000. The first half of the trace warms the cache, the
second is counted. Cycles: 4 for every line that is touched and 100 more for one that misses, as for a core that has
a few under way at once; bandwidth is bytes missed per cycle. Neither the weights of the MLPs nor outputs are in the
trace. Where all of MEM-REC fits the cache, its misses are first touches alone, so that ratio grows with the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memrec_convert.lab.experiments.collisions import refuse_sizes
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.shapes.cache_model import SAMPLED, Cache, count_misses, draw_ids, trace_pooled, trace_tables
from memrec_convert.lab.shapes.shapes import read_shape

SLIDES = {14: (2.6, 2.3, 1.1), 28: (3.2, 6.3, 2.2), 56: (3.4, 341.0, 98.0)}
"""MiB of cache -> DLRM over MEM-REC in cycles, misses and bandwidth, as the slides print them."""

CYCLES_PER_LINE, CYCLES_PER_MISS = 4, 100
LINES_PER_ROW = 8


def _grid(_lab: Any, quick: bool) -> Grid:  # noqa: ANN401 - needs no bench
    return {
        "llc": tuple(SLIDES),
        "zipf": (1.05,) if quick else (0.9, 1.05, 1.2),
        "samples": (40_000 if quick else 400_000,),
        "d": (75_000,),
        "k": (1,),
        "k_weights": (4,),
    }


def _run(_lab: Any, cell: Cell, seed: int) -> Row:  # noqa: ANN401 - needs no bench
    rows = read_shape("criteo-tb").rows
    ids = draw_ids(rows, int(cell["samples"]), zipf=cell["zipf"], generator=np.random.default_rng(seed))
    cache = Cache(int(cell["llc"] * 2**20))
    d, k, k_weights = int(cell["d"]), int(cell["k"]), int(cell["k_weights"])
    lookups = ids.size // 2
    figures: dict[str, float] = {}
    for name, trace, touched in (
        ("dlrm", trace_tables(ids, rows), LINES_PER_ROW),
        ("memrec", trace_pooled(ids, d=d, d_weights=d, k=k, k_weights=k_weights), LINES_PER_ROW * k + k_weights),
    ):
        missed = SAMPLED * count_misses(cache, trace, counted_from=len(trace) // 2) / lookups
        figures[f"{name}_misses_per_lookup"] = missed
        figures[f"{name}_cycles_per_lookup"] = touched * CYCLES_PER_LINE + missed * CYCLES_PER_MISS
    misses, cycles = (
        figures[f"dlrm_{what}_per_lookup"] / max(figures[f"memrec_{what}_per_lookup"], 1 / lookups)
        for what in ("misses", "cycles")
    )
    slides = SLIDES.get(cell["llc"], (None, None, None))
    return {
        **figures,
        "cycles_ratio": cycles,
        "misses_ratio": misses,
        "bandwidth_ratio": misses / cycles,
        "slides_cycles": slides[0],
        "slides_misses": slides[1],
        "slides_bandwidth": slides[2],
    }


def _find(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row["slides_misses"] and row["zipf"] == 1.05] or list(rows)
    parts = [
        f"{row['misses_ratio']:.1f}x fewer misses at {row['llc']} MiB"
        + (f" (slides {row['slides_misses']:g}x)" if row["slides_misses"] else "")
        for row in known
    ]
    return f"at Zipf {known[0]['zipf']:g}, DLRM against MEM-REC: {', '.join(parts)}"


EXPERIMENT = Experiment(
    "cache",
    _grid,
    _run,
    _find,
    ChartSpec("llc", "misses_ratio", ("zipf",), log_x=False, log_y=True),
    limits={
        "llc": (0.01, 4096),
        "zipf": (0, 10),
        "samples": (10, 1e7),
        "d": (1, 2**31),
        "k": (1, 64),
        "k_weights": (0, 64),
    },
    needs_model=False,
    refuse=refuse_sizes,
)
