"""`convert`: a checkpoint's file in, an artifact with its report out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.gating import Gate, check_bound, find_smallest, require_quality
from memrec_convert.conversion.inputs.from_checkpoint import LogPaths
from memrec_convert.conversion.inputs.from_class import read_own_class
from memrec_convert.conversion.inputs.preparing import (
    Job,
    plain_options,
    prepare,
    profile_facts,
    source_facts,
    stay_silent,
)
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.inputs.workspace import open_workspace
from memrec_convert.conversion.measuring.outcome import judge_outcome
from memrec_convert.conversion.measuring.rate_curve import foresee
from memrec_convert.conversion.measuring.reporting import evaluation_facts, make_report, warn_of_outcome, with_measured
from memrec_convert.conversion.options import Extras
from memrec_convert.conversion.report import Companions, check_targets, plan_page
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.outcome import GateResult, Shrunk
from memrec_convert.errors import ArtifactError, LogError, RecipeError
from memrec_convert.report import Report
from memrec_convert.units import parse_budget


def convert(
    path: str | Path,
    budget: str | int | None = None,
    *,
    data: LogPaths | None = None,
    val: LogPaths | None = None,
    eval: LogPaths | None = None,
    profile: str | Path | None = None,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    force: bool = False,
    max_auc_drop: float | None = None,
    fail_if_worse_than: float | None = None,
    group: str | None = None,
    ablation: bool = False,
    control: bool = False,
    work: str | Path | None = None,
    report_html: str | Path | None = None,
    compare_json: str | Path | None = None,
    model: str | None = None,
    model_args: str | Path | None = None,
    progress: Progress = stay_silent,
    **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> Report:
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
    model      the class of the network, "package.module:Class", where its layout is none that is known; `model_args` is
               a YAML file of its arguments, and says how the class is called on a log
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
    if model is None and model_args is not None:
        raise RecipeError("--model-args are the arguments of a class, and there is none; add --model.")
    own = read_own_class(model, model_args) if model is not None else None
    extras = Extras(group, ablation, control)
    job = prepare(
        path,
        budget,
        recipe,
        data,
        val,
        eval,
        profile,
        choices,
        progress,
        needs_budget=max_auc_drop is None,
        extras=extras,
        space=open_workspace(work, target.parent),
        own=own,
    )
    shrunk, gate = _shrink_within(job, max_auc_drop, fail_if_worse_than, progress)
    judgement = judge_outcome(job.subject, shrunk, job.judged, job.options, extras, progress=progress, watch=job.watch)
    metadata = with_measured(shrunk.metadata, judgement)
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
        job.subject,
        shrunk,
        path=target,
        nbytes=nbytes,
        source=source_facts(job.source, job.watch),
        options=plain_options(job.options),
        judgement=judgement,
        evaluation=evaluation_facts(job, judgement),
        seconds=job.watch.rounded(),
        warnings=(*job.warnings, *shrunk.warnings, *warn_of_outcome(job, judgement)),
        gate=gate,
    )
    if companions.page is not None:
        report = replace(report, plan={**report.plan, "curve": curve})
    companions.write(report)
    return report


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
