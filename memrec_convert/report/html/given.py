"""What other commands measured and a page shows beside a report: the JSON of `compare` and of `bench`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AllowInfNan, Field, TypeAdapter, ValidationError

from memrec_convert.errors import ReportError
from memrec_convert.results import to_plain

Finite = Annotated[float, AllowInfNan(False)]
Positive = Annotated[float, AllowInfNan(False), Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Made = TypeVar("Made")


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
    return _read(_Budgets, values, "the comparison", "what compare --json prints").budgets


def read_latency(values: object) -> Latency:
    """What `bench --json` printed; ReportError for anything else."""
    return _read(Latency, values, "the measurement of speed", "what bench --json prints")


def _read(kind: type[Made], values: Any, what: str, expected: str) -> Made:  # noqa: ANN401 - any JSON value
    try:
        return TypeAdapter(kind).validate_json(json.dumps(to_plain(values)), strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
        place = " > ".join(str(part) for part in detail["loc"]) or "the whole"
        raise ReportError(f"{what} cannot be read: {place}: {detail['msg']}; give {expected}.") from None
