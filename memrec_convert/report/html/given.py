"""What other commands measured and a page shows beside a report: the JSON of `compare` and of `bench`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AllowInfNan, Field

from memrec_convert.results import read_as

Finite = Annotated[float, AllowInfNan(False)]
Positive = Annotated[float, AllowInfNan(False), Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class RivalRow:
    """One method at one budget; figures of None: it cannot get that small."""

    method: str
    bytes: Count | None
    auc: Finite | None
    auc_delta: Finite | None
    ci95: tuple[Finite, Finite] | None = None
    epochs: int = 0
    note: str = ""


@dataclass(frozen=True)
class RivalTable:
    """Every method at one budget."""

    budget_bytes: Count
    rows: tuple[RivalRow, ...]


@dataclass(frozen=True)
class LatencyRow:
    """One contender at one batch size, in one stage."""

    stage: str
    batch: Count
    contender: str
    ns_per_lookup: Positive
    items_per_second: Positive
    ms_p50: Positive
    ms_p99: Positive
    noisy: bool = False
    ratio_to_original: Positive | None = None


@dataclass(frozen=True)
class TimedFile:
    """What was timed."""

    path: str
    bytes: Count


@dataclass(frozen=True)
class Latency:
    """What `bench` found."""

    artifact: TimedFile
    threads: Count
    rows: tuple[LatencyRow, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Budgets:
    budgets: tuple[RivalTable, ...]


def read_comparison(values: object) -> tuple[RivalTable, ...]:
    """What `compare` printed; ReportError for anything else."""
    return read_as(_Budgets, values, "the comparison", "what compare --json prints").budgets


def read_latency(values: object) -> Latency:
    """What `bench --json` printed; ReportError for anything else."""
    return read_as(Latency, values, "the measurement of speed", "what bench --json prints")


def read_points(entries: object, across: str, up: str, *, least: float = 1) -> list[tuple[float, float]]:
    """(across, up) of those entries of what may be a list that have both as finite numbers, across from `least` on."""
    points = []
    for entry in entries if isinstance(entries, Sequence) and not isinstance(entries, str) else ():
        found = (entry.get(across), entry.get(up)) if isinstance(entry, Mapping) else (None, None)
        x, y = (_read_number(value) for value in found)
        if x is not None and y is not None and x >= least:
            points.append((x, y))
    return points


def _read_number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None  # type: ignore[arg-type]
