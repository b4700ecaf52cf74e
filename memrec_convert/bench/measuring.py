"""Times contenders at a batch size: they take turns of several calls, each with new ids; medians over calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from memrec_convert.bench.contenders import CONVERTED, EMBEDDING, MODEL, ORIGINAL, Contender
from memrec_convert.bench.draws import Source
from memrec_convert.bench.timing import Timing, calls_in_a_row, time_interleaved

LEAST_REPETITIONS, MOST_REPETITIONS = 9, 1000
HELD_BYTES = 256 << 20
"""Ids are drawn before the timing; beyond these bytes of them, ids come again, long after the caches forgot them."""
DRAWN_AT_ONCE = 256
"""So many samples are drawn together, or those of one call: drawing for each small call by itself takes longer."""

Row = dict[str, Any]


def time_batch(
    contenders: Sequence[Contender], source: Source, batch: int, inputs: Sequence[int], *, seconds: float
) -> list[Row]:
    """A row per contender: {"stage", "batch", "contender", "ns_per_lookup", "items_per_second", "ms_p50", "ms_p99",
    "spread", "noisy", "repetitions", "ratio_to_original", "ratio_to": {contender: how many times its speed}}.

    The embedding stage is timed by itself: between whole models it would find its tables put out of the caches.
    """
    rows: list[Row] = []
    stages = [stage for stage in (EMBEDDING, MODEL) if any(one.stage == stage for one in contenders)]
    for stage in stages:
        own = [one for one in contenders if one.stage == stage]
        rows += time_stage(own, source, batch, inputs, seconds=seconds / len(stages))
    return rows


@torch.no_grad()
def time_stage(
    contenders: Sequence[Contender], source: Source, batch: int, inputs: Sequence[int], *, seconds: float
) -> list[Row]:
    """`time_batch` of contenders that take turns."""
    (drawn,) = source.draw_calls(1, batch)
    lookups = sum(len(drawn.columns[number].ids) for number in inputs)
    calls = calls_in_a_row(lookups)
    repetitions = count_repetitions(contenders, source, batch, seconds / (2 * calls))
    held = max(2, min(2 * calls * repetitions, HELD_BYTES // max(1, drawn.nbytes * len(contenders))))
    # Nobody looks up what another one has just brought into the caches: each has its own samples.
    prepared = [_prepare(one, source, held, batch) for one in contenders]
    runs = {
        f"{number}": lambda repetition, one=one, own=own: one.run(own[repetition % held])
        for number, (one, own) in enumerate(zip(contenders, prepared, strict=True))
    }
    timings = time_interleaved(runs, repetitions, in_a_row=calls, lead=calls).values()
    return [
        make_row(one, timing, batch, lookups, repetitions * calls)
        for one, timing in zip(contenders, timings, strict=True)
    ]


def _prepare(one: Contender, source: Source, calls: int, batch: int) -> list[Any]:
    """What a contender takes in so many calls, drawn a few calls at a time: what it does not keep is freed between."""
    at_once = max(1, DRAWN_AT_ONCE // batch)
    sizes = [min(at_once, calls - start) for start in range(0, calls, at_once)]
    return [one.prepare(draw) for size in sizes for draw in source.draw_calls(size, batch)]


def count_repetitions(contenders: Sequence[Contender], source: Source, batch: int, seconds: float) -> int:
    """So many that all contenders together take about `seconds`."""
    spent = 0
    for one in contenders:
        for draw in source.draw_calls(2, batch):  # the first call makes what later ones find
            prepared = one.prepare(draw)
            start = time.perf_counter_ns()
            one.run(prepared)
            last = time.perf_counter_ns() - start
        spent += last
    return max(LEAST_REPETITIONS, min(MOST_REPETITIONS, int(seconds * 1e9 / max(spent, 1))))


def make_row(one: Contender, timing: Timing, batch: int, lookups: int, repetitions: int) -> Row:
    """The figures of one contender; `lookups` of a call."""
    return {
        "stage": one.stage,
        "batch": batch,
        "contender": one.name,
        "ns_per_lookup": timing.median * 1e9 / max(lookups, 1),
        "items_per_second": batch / timing.median,
        "ms_p50": timing.p50 * 1e3,
        "ms_p99": timing.p99 * 1e3,
        "spread": timing.spread,
        "noisy": timing.noisy,
        "repetitions": repetitions,
        "ratio_to_original": None,
    }


def add_ratios(rows: Sequence[Row]) -> None:
    """Puts into each row how many times as fast as the original it is, and into the converted model's how many times as
    fast as every other contender of its stage.
    """
    times = {(row["stage"], row["batch"], row["contender"]): row["ms_p50"] for row in rows}
    for row in rows:
        original = times.get((row["stage"], row["batch"], ORIGINAL))
        row["ratio_to_original"] = None if original is None else original / row["ms_p50"]
        if row["contender"].startswith(CONVERTED):
            row["ratio_to"] = {
                name: value / row["ms_p50"]
                for (stage, batch, name), value in times.items()
                if (stage, batch) == (row["stage"], row["batch"]) and not name.startswith(CONVERTED)
            }
