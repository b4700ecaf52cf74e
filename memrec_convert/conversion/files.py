"""Conversion of checkpoint files: `convert` writes an artifact and its report, `plan` says what it would be."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from memrec_convert.artifact.metadata import Metadata, format_measured
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.explaining import (
    compare_neighbours,
    draw_curve,
    explain_tables,
    measure_drop,
    model_auc,
)
from memrec_convert.conversion.extras import Extras, judge_outcome
from memrec_convert.conversion.foreseeing import foresee
from memrec_convert.conversion.from_checkpoint import LogPaths
from memrec_convert.conversion.gating import Gate, GateResult, check_bound, find_smallest, require_quality
from memrec_convert.conversion.judging import Judgement
from memrec_convert.conversion.pages import Companions, check_targets, plan_page
from memrec_convert.conversion.preparing import (
    Job,
    plain_options,
    prepare,
    profile_facts,
    source_facts,
    stay_silent,
    warn_of_outcome,
)
from memrec_convert.conversion.reporting import describe_alternative, describe_plan, make_report, report_tables
from memrec_convert.conversion.shrink import Shrunk, shrink
from memrec_convert.conversion.sizing import make_counter
from memrec_convert.conversion.subject import Progress
from memrec_convert.conversion.workspace import open_workspace
from memrec_convert.errors import ArtifactError, LogError
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.report import Report
from memrec_convert.units import SHARE_ALLOWANCE_BYTES, parse_budget


def convert(
    path: str | Path, budget: str | int | None = None, *, data: LogPaths | None = None, val: LogPaths | None = None,
    eval: LogPaths | None = None,
    profile: str | Path | None = None, out: str | Path | None = None, recipe: str | Path | None = None,
    force: bool = False, max_auc_drop: float | None = None, fail_if_worse_than: float | None = None,
    group: str | None = None, ablation: bool = False, control: bool = False, work: str | Path | None = None,
    report_html: str | Path | None = None, compare_json: str | Path | None = None,
    progress: Progress = stay_silent, **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> Report:  # fmt: skip
    """Converts a checkpoint into an artifact of at most `budget` bytes; returns the report, which is written beside it.

    data      training log: gives the lookup profile, the sensitivities and the lessons of fine-tuning
    val       hold-out: decides between plans and when training is best; eval: measures, and nothing else
    profile   a lookup profile (.npz) to use in place of counting `data`; written there where it does not exist yet
    out       defaults to the checkpoint's name with .safetensors
    choices   any field of Options, and columns, id_map, modulus, pairs, dense_transform, any field of Facts, and
              assume={NAME: VALUE} of the last three

    max_auc_drop         the smallest file whose AUC drop on `val` is within this bound; `budget` is then a cap
    fail_if_worse_than   QualityError, and nothing written, where the AUC drops more than this on `val` (else on `eval`)
    group      a column of `eval`, or the input that it serves: GAUC, and a bootstrap over groups beside DeLong
    ablation   what each replaced table's compression alone costs on `eval`
    work       a folder in which fits and codes are kept, for another budget or after an interruption
    control    fine-tunes the original too, to tell on `eval` what training gives from what compression costs
    report_html    a page to write too, with the rate curve, and what `compare` printed to `compare_json` beside it

    Raises a MemrecError; whatever it is, the target is then as it was before.
    """
    path = Path(path)
    target = Path(out) if out is not None else default_target(path)
    companions = Companions.beside(target, plan_page(report_html, compare_json=compare_json))
    check_targets((target, *companions.paths), path, force=force)
    for bound in (max_auc_drop, fail_if_worse_than):
        if bound is not None:
            check_bound(bound)
    extras = Extras(group, ablation, control)
    job = prepare(
        path, budget, recipe, data, val, eval, profile, choices, progress, needs_budget=max_auc_drop is None,
        extras=extras, space=open_workspace(work, target.parent),
    )  # fmt: skip
    if job.options.method == "sample-pooled":
        from memrec_convert.conversion.pooled_files import convert_pooled

        bounds = (max_auc_drop, fail_if_worse_than)
        return convert_pooled(job, target, companions, extras, bounds=bounds, progress=progress)
    shrunk, gate = _shrink_within(job, max_auc_drop, fail_if_worse_than, progress)
    judgement = judge_outcome(
        job.subject, shrunk, job.judged, job.options, extras, progress=progress, watch=job.watch
    )  # fmt: skip
    metadata = _with_measured(shrunk.metadata, judgement)
    with job.watch.stage("write"):
        nbytes = write_model(target, shrunk.model, metadata)
        if nbytes != shrunk.chosen.nbytes or nbytes > shrunk.budget_bytes:
            target.unlink()
            raise ArtifactError(
                f"{target} came out at {nbytes} bytes where {shrunk.chosen.nbytes} were planned: a fault of this tool; "
                "the file was removed, please report it."
            )
        read_artifact(target)  # which checks the digest of every tensor
    if companions.page is not None:
        with job.watch.stage("curve"):
            curve = foresee(job.subject, shrunk, job.options)
    report = make_report(
        job.subject, shrunk, path=target, nbytes=nbytes, source=source_facts(job.source, job.watch),
        options=plain_options(job.options), judgement=judgement, evaluation=_evaluation_facts(job, judgement),
        seconds=job.watch.rounded(),
        warnings=(*job.warnings, *shrunk.warnings, *warn_of_outcome(job, judgement)), gate=gate,
    )  # fmt: skip
    if companions.page is not None:
        report = replace(report, plan={**report.plan, "curve": curve})
    companions.write(report)
    return report


def plan(
    path: str | Path, budget: str | int | None = None, *, data: LogPaths | None = None, val: LogPaths | None = None,
    profile: str | Path | None = None, recipe: str | Path | None = None, curve: bool = False,
    work: str | Path | None = None,
    progress: Progress = stay_silent, **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> dict[str, Any]:  # fmt: skip
    """What `convert` would do, without fine-tuning and without writing: forms and bytes per table, and what lost.

    {"budget_bytes", "predicted_bytes", "weights", "tables", "plan", "alternatives", "explained", "neighbours", "curve",
    "predicted_auc_drop", "measured_auc_drop", "seconds", "warnings"}. Predicted drops need data; with labels in `val`
    they are calibrated to the drop measured there. `curve` adds the rate curve over many budgets.
    """
    space = open_workspace(work, None)
    job = prepare(Path(path), budget, recipe, data, val, None, profile, choices, progress, space=space)
    assert job.budget is not None
    shrunk = shrink(
        job.subject, parse_budget(job.budget), job.options, profile=profile_facts(job.profile), progress=progress,
        watch=job.watch, train=False, refine=False,
    )  # fmt: skip
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


def default_target(path: Path) -> Path:
    """The artifact's name where none was given: the checkpoint's (its first file's) with another suffix."""
    if not path.exists():
        path = Path(str(path).split(",")[0])
    suffix = ".memrec.safetensors" if path.suffix == ".safetensors" else ".safetensors"
    return path.with_name(path.stem + suffix)


def _shrink_within(
    job: Job, max_auc_drop: float | None, fail_if_worse_than: float | None, progress: Progress
) -> tuple[Shrunk, GateResult | None]:
    """The outcome at the job's budget, or the smallest within `max_auc_drop`; held to `fail_if_worse_than`."""
    facts, subject, options = profile_facts(job.profile), job.subject, job.options
    bound = max_auc_drop if max_auc_drop is not None else fail_if_worse_than
    if bound is None:
        assert job.budget is not None
        budget = parse_budget(job.budget)
        return shrink(subject, budget, options, profile=facts, progress=progress, watch=job.watch), None
    judging = subject.hold_out or (job.judged if max_auc_drop is None else None)
    if judging is None:
        needed = "a hold-out (--val)" if max_auc_drop is not None else "a hold-out (--val) or evaluation data (--eval)"
        raise LogError(f"the bound of {bound} on the AUC drop needs {needed} to be judged on; add it.")
    gate = Gate(
        subject, judging, bound, judged_on="val" if judging is subject.hold_out else "eval", workers=options.workers
    )
    budget_bytes = None
    if job.budget is not None:
        budget_bytes = parse_budget(job.budget).resolve(
            table_bytes=subject.table_bytes, dense_bytes=subject.dense_bytes(options.dense)
        )
    if max_auc_drop is not None:
        shrunk, found = find_smallest(
            gate, options, cap_bytes=budget_bytes, profile=facts, progress=progress, watch=job.watch
        )
        if fail_if_worse_than is None or found.drop <= fail_if_worse_than:
            return shrunk, found
        gate.bound = fail_if_worse_than
    else:
        assert job.budget is not None
        budget = parse_budget(job.budget)
        shrunk = shrink(subject, budget, options, profile=facts, progress=progress, watch=job.watch)
    found = require_quality(gate, shrunk, shrunk.chosen.nbytes)
    gate.require_resolution(found)
    return shrunk, found


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


def _with_measured(metadata: Metadata, judgement: Judgement | None) -> Metadata:
    if judgement is None:
        return metadata
    before, after = judgement.before, judgement.after
    figures = {
        "auc_before": before.auc, "auc_after": after.auc,
        "log_loss_before": before.log_loss, "log_loss_after": after.log_loss,
    }  # fmt: skip
    return replace(metadata, measured={name: format_measured(value) for name, value in figures.items()})


def _evaluation_facts(job: Job, judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None or job.judged is None:
        return None
    names = [path.name for path in job.judged.log.paths]
    return {
        "log": names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
        "samples": judgement.after.samples,
    }


