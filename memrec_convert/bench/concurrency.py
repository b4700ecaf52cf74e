"""A model under load: several threads of a server call it at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from memrec_convert.bench.contenders import MODEL, Contender
from memrec_convert.bench.draws import Source
from memrec_convert.bench.timing import summarise

DRAWS_EACH = 16
"""Batches that a thread calls with in turn."""
WARM_CALLS = 3


def time_load(
    contenders: Sequence[Contender], source: Source, batch: int, callers: int, *, seconds: float
) -> list[dict[str, Any]]:
    """A row per contender of whole models: {"batch", "callers", "contender", "items_per_second", "ms_p50", "ms_p99"}.

    Every caller is a thread with samples of its own that calls again as soon as it has its answer.
    """
    models = [one for one in contenders if one.stage == MODEL]
    return [
        {"batch": batch, "callers": callers, "contender": one.name}
        | _load(one, source, batch, callers, seconds=seconds / len(models))
        for one in models
    ]


@torch.no_grad()
def _load(one: Contender, source: Source, batch: int, callers: int, *, seconds: float) -> dict[str, float]:
    given = [[one.prepare(draw) for draw in source.draw_calls(DRAWS_EACH, batch)] for _ in range(callers)]
    for draws in given:
        for draw in draws[:WARM_CALLS]:
            one.run(draw)
    ready = threading.Barrier(callers)

    @torch.no_grad()
    def call(draws: list[Any]) -> list[float]:
        own: list[float] = []
        ready.wait()
        stop = time.perf_counter() + seconds
        while (start := time.perf_counter()) < stop or not own:
            one.run(draws[len(own) % DRAWS_EACH])
            own.append(time.perf_counter() - start)
        return own

    with ThreadPoolExecutor(callers) as pool:
        spent = list(pool.map(call, given))
    timing = summarise([call for own in spent for call in own])
    rate = sum(batch * len(own) / sum(own) for own in spent)
    return {"items_per_second": rate, "ms_p50": timing.p50 * 1e3, "ms_p99": timing.p99 * 1e3}
