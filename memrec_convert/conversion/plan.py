"""`plan`: what a conversion would do, without fine-tuning and without writing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.conversion.inputs.preparing import Job, prepare, profile_facts, source_at_hand
from memrec_convert.conversion.inputs.workspace import open_workspace
from memrec_convert.conversion.measuring.precision import settle_dense
from memrec_convert.conversion.measuring.prediction import (
    compare_neighbours,
    draw_curve,
    explain_tables,
    measure_drop,
    model_auc,
)
from memrec_convert.conversion.measuring.reporting import describe_alternative, describe_plan, report_tables
from memrec_convert.conversion.options import InputChoices
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.outcome import Shrunk
from memrec_convert.conversion.steps.sizing import make_counter
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.report import Alternative, TableReport
from memrec_convert.results import Result
from memrec_convert.units import SHARE_ALLOWANCE_BYTES, parse_budget


@dataclass(frozen=True)
class Plan(Result):
    """What a conversion would do: forms and bytes by table, what lost, and what other bytes would buy.

    Predicted drops need data, `measured_auc_drop` labels in the hold-out, and `curve` is None unless it was asked for.
    """

    budget_bytes: int
    predicted_bytes: int
    weights: str
    tables: tuple[TableReport, ...]
    plan: Mapping[str, Any]
    alternatives: tuple[Alternative, ...]
    assumed: tuple[str, ...]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    predicted_auc_drop: float | None = None
    measured_auc_drop: float | None = None
    explained: tuple[Mapping[str, Any], ...] = ()
    neighbours: tuple[Mapping[str, Any], ...] = ()
    curve: tuple[Mapping[str, Any], ...] | None = None


@plain_torch()
def plan(
    path: str | Path, budget: str | int | None = None, *, curve: bool = False, **choices: Unpack[InputChoices]
) -> Plan:
    """What `convert` would do, without fine-tuning and without writing anything.

    Predicted drops are calibrated to the drop measured on `val` where that has labels. `curve` adds the predicted drop
    over many budgets. `choices` are as `InputChoices` says.
    """
    with source_at_hand(path, budget, choices, None) as source:
        return _plan(source, budget, choices, curve=curve)


def _plan(path: Path, budget: str | int | None, choices: InputChoices, *, curve: bool) -> Plan:
    job = prepare(path, budget, choices, space=open_workspace(choices.get("work"), None))
    job = replace(job, options=settle_dense(job.subject, job.options))
    assert job.budget is not None
    shrunk = shrink(
        job.subject,
        parse_budget(job.budget),
        job.options,
        profile=profile_facts(job.profile),
        progress=job.progress,
        watch=job.watch,
        train=False,
        refine=False,
    )
    explained = _explain(job, shrunk, curve=curve)
    return Plan(
        budget_bytes=shrunk.budget_bytes,
        predicted_bytes=shrunk.chosen.nbytes,
        weights=shrunk.weights,
        tables=report_tables(job.subject, shrunk.chosen),
        plan=describe_plan(shrunk),
        alternatives=tuple(describe_alternative(one, shrunk.chosen) for one in shrunk.lost),
        assumed=job.source.assumed,
        seconds=job.watch.rounded(),
        warnings=(*job.warnings, *shrunk.warnings),
        **explained,
    )


def _explain(job: Job, shrunk: Shrunk, *, curve: bool) -> dict[str, Any]:
    """Predicted and measured drop of the plan, what each table's next bytes are worth, and other budgets."""
    subject, options, hold_out = job.subject, job.options, job.subject.hold_out
    count = make_counter(subject, shrunk.metadata, oov=options.oov)
    found: dict[str, Any] = {"predicted_auc_drop": None, "measured_auc_drop": None}
    with job.watch.stage("explain"), single_threaded_torch():
        model = model_auc(subject, workers=options.workers)
        if model is not None:
            found["predicted_auc_drop"] = model.drop(shrunk.chosen.distortion)
        if model is not None and hold_out is not None and hold_out.has_labels:
            found["measured_auc_drop"] = measure_drop(subject, shrunk.model, hold_out, workers=options.workers)
        if model is not None:
            known = found["measured_auc_drop"]
            model = model.calibrate(shrunk.chosen.planned, found["predicted_auc_drop"] if known is None else known)
        found["explained"] = tuple(explain_tables(shrunk.fitted, subject, shrunk.chosen.price, model))
        found["neighbours"] = tuple(compare_neighbours(shrunk.fitted, shrunk.budget_bytes, count, model))
        if curve:
            fixed = subject.dense_bytes("fp32") + SHARE_ALLOWANCE_BYTES
            found["curve"] = tuple(draw_curve(subject, shrunk.fitted, count, model, fixed_bytes=fixed))
    return found
