"""`plan`: what a conversion would do, without fine-tuning and without writing anything."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from memrec_convert.conversion.inputs.from_checkpoint import LogPaths
from memrec_convert.conversion.inputs.preparing import Job, prepare, profile_facts, stay_silent
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.inputs.workspace import open_workspace
from memrec_convert.conversion.measuring.prediction import (
    compare_neighbours,
    draw_curve,
    explain_tables,
    measure_drop,
    model_auc,
)
from memrec_convert.conversion.measuring.reporting import describe_alternative, describe_plan, report_tables
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.outcome import Shrunk
from memrec_convert.conversion.steps.sizing import make_counter
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.units import SHARE_ALLOWANCE_BYTES, parse_budget


def plan(
    path: str | Path,
    budget: str | int | None = None,
    *,
    data: LogPaths | None = None,
    val: LogPaths | None = None,
    profile: str | Path | None = None,
    recipe: str | Path | None = None,
    curve: bool = False,
    work: str | Path | None = None,
    progress: Progress = stay_silent,
    **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> dict[str, Any]:
    """What `convert` would do, without fine-tuning and without writing: forms and bytes per table, and what lost.

    {"budget_bytes", "predicted_bytes", "weights", "tables", "plan", "alternatives", "explained", "neighbours", "curve",
    "predicted_auc_drop", "measured_auc_drop", "seconds", "warnings"}. Predicted drops need data; with labels in `val`
    they are calibrated to the drop measured there. `curve` adds the rate curve over many budgets.
    """
    space = open_workspace(work, None)
    job = prepare(Path(path), budget, recipe, data, val, None, profile, choices, progress, space=space)
    assert job.budget is not None
    shrunk = shrink(
        job.subject,
        parse_budget(job.budget),
        job.options,
        profile=profile_facts(job.profile),
        progress=progress,
        watch=job.watch,
        train=False,
        refine=False,
    )
    tables = [
        {name: getattr(table, name) for name in table.__dataclass_fields__}
        for table in report_tables(job.subject, shrunk.chosen)
    ]
    alternatives = [describe_alternative(one, shrunk.chosen) for one in shrunk.lost]
    explained = _explain(job, shrunk, curve=curve)
    return {
        "budget_bytes": shrunk.budget_bytes,
        "predicted_bytes": shrunk.chosen.nbytes,
        "weights": shrunk.weights,
        "tables": tables,
        "plan": describe_plan(shrunk),
        "alternatives": [{f.name: getattr(one, f.name) for f in fields(one)} for one in alternatives],
        "assumed": list(job.source.assumed),
        **explained,
        "seconds": job.watch.rounded(),
        "warnings": [*job.warnings, *shrunk.warnings],
    }


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
        found["explained"] = explain_tables(shrunk.fitted, subject, shrunk.chosen.price, model)
        found["neighbours"] = compare_neighbours(shrunk.fitted, shrunk.budget_bytes, count, model)
        if curve:
            fixed = subject.dense_bytes(options.dense) + SHARE_ALLOWANCE_BYTES
            found["curve"] = draw_curve(subject, shrunk.fitted, count, model, fixed_bytes=fixed)
    return found
