"""`convert`: a checkpoint's file in, an artifact with its report out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from typing_extensions import Unpack

from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.gating import Gate, check_bound, find_smallest, require_quality
from memrec_convert.conversion.inputs.from_class import read_own_class
from memrec_convert.conversion.inputs.preparing import Job, prepare, profile_facts, source_facts
from memrec_convert.conversion.inputs.workspace import open_workspace
from memrec_convert.conversion.measuring.judging import Judgement
from memrec_convert.conversion.measuring.outcome import judge_outcome
from memrec_convert.conversion.measuring.precision import describe_dense, settle_dense
from memrec_convert.conversion.measuring.rate_curve import foresee
from memrec_convert.conversion.measuring.reporting import evaluation_facts, make_report, warn_of_outcome, with_measured
from memrec_convert.conversion.options import Extras, InputChoices, OutputChoices, names_of, refuse_unknown
from memrec_convert.conversion.report import Companions, check_targets, plan_page
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.outcome import GateResult, Shrunk
from memrec_convert.conversion.steps.yesterday import Yesterday, read_yesterday
from memrec_convert.errors import ArtifactError, LogError, OptionError
from memrec_convert.report import Report
from memrec_convert.units import parse_budget


def convert(
    path: str | Path,
    budget: str | int | None = None,
    *,
    max_auc_drop: float | None = None,
    fail_if_worse_than: float | None = None,
    ablation: bool = False,
    control: bool = False,
    **choices: Unpack[OutputChoices],
) -> Report:
    """Converts a checkpoint into an artifact of at most `budget` bytes; returns the report, which is written beside it.

    max_auc_drop         the smallest file whose AUC drop on `val` is within this bound; `budget` is then a cap
    fail_if_worse_than   QualityError, and nothing written, where the AUC drops more than this on `val` (else on `eval`)
    ablation   what each replaced table's compression alone costs on `eval`
    control    fine-tunes the original too, to tell on `eval` what training gives from what compression costs
    choices    inputs and outputs as `OutputChoices` and `InputChoices` say, fields of `Options`, `ReadingChoices`

    Raises a MemrecError; whatever it is, the target is then as it was before.
    """
    like, budget, choices = take_like(budget, choices, max_auc_drop)
    target, companions = plan_files(Path(path), choices)
    for bound in (max_auc_drop, fail_if_worse_than):
        if bound is not None:
            check_bound(bound)
    extras = Extras(choices.get("group"), ablation, control)
    job = prepare_files(path, budget, choices, target, extras, needs_budget=max_auc_drop is None)
    job = replace(job, options=settle_dense(job.subject, job.options))
    shrunk, gate = _shrink_within(job, max_auc_drop, fail_if_worse_than, like)
    judgement = judge_outcome(
        job.subject, shrunk, job.judged, job.options, extras, progress=job.progress, watch=job.watch
    )
    nbytes = _write(target, job, shrunk, judgement)
    extra: dict[str, Any] = {}
    if companions.page is not None:
        with job.watch.stage("curve"):
            extra["curve"] = foresee(job.subject, shrunk, job.options)
    with job.watch.stage("evaluate"):
        extra |= describe_dense(job.subject, shrunk.metadata, job.judged, job.options)
    report = make_report(
        job.subject,
        shrunk,
        path=target,
        nbytes=nbytes,
        source=source_facts(job.source, job.watch),
        options=job.options.differing(),
        judgement=judgement,
        evaluation=evaluation_facts(job, judgement),
        seconds=job.watch.rounded(),
        warnings=(*job.warnings, *shrunk.warnings, *warn_of_outcome(job, judgement)),
        gate=gate,
    )
    report = replace(report, plan={**report.plan, **extra})
    companions.write(report)
    return report


def take_like(
    budget: str | int | None, choices: OutputChoices, max_auc_drop: float | None
) -> tuple[Yesterday | None, str | int | None, OutputChoices]:
    """The earlier artifact to start from, with the budget and choices as that has them where no others are given.

    OptionError where a size is searched besides, for which other codes are needed.
    """
    path = choices.get("like")
    if path is None:
        return None, budget, choices
    if max_auc_drop is not None:
        raise OptionError(
            "--max-auc-drop searches for a size, and --like takes over that of an earlier artifact; leave one out, or "
            "hold the result to a bound with --fail-if-worse-than."
        )
    like = read_yesterday(path)
    silent = choices.get("recipe") is None
    taken = {name: one for name, one in like.choices.items() if silent and choices.get(name) is None}
    if budget is None and silent:
        budget = like.budget or None
    return like, budget, cast("OutputChoices", {**choices, **taken})


def plan_files(path: Path, choices: OutputChoices) -> tuple[Path, Companions]:
    """The artifact's file and what goes beside it; OutputError for files that cannot be written."""
    target = Path(choices.get("out") or default_target(path))
    page = plan_page(choices.get("report_html"), compare_json=choices.get("compare_json"))
    companions = Companions.beside(target, page)
    check_targets((target, *companions.paths), path, force=choices.get("force") or False)
    return target, companions


def prepare_files(
    path: str | Path, budget: str | int | None, choices: OutputChoices, target: Path, extras: Extras, **wishes: bool
) -> Job:
    """The job of a conversion to `target`; `wishes` are those of `prepare`. OptionError for unknown choices."""
    refuse_unknown(choices, OutputChoices)
    inputs = cast("InputChoices", {name: one for name, one in choices.items() if name in names_of(InputChoices)})
    space = open_workspace(choices.get("work"), target.parent)
    own = read_own_class(choices.get("model"), choices.get("model_args"))
    return prepare(path, budget, inputs, eval=choices.get("eval"), extras=extras, space=space, own=own, **wishes)


def _write(target: Path, job: Job, shrunk: Shrunk, judgement: Judgement | None) -> int:
    """The artifact's bytes, once it lies there and was read again."""
    with job.watch.stage("write"):
        nbytes = write_model(target, shrunk.model, with_measured(shrunk.metadata, judgement))
        if nbytes != shrunk.chosen.nbytes or nbytes > shrunk.budget_bytes:
            target.unlink()
            raise ArtifactError(
                f"{target} came out at {nbytes} bytes where {shrunk.chosen.nbytes} were planned: a fault of this tool; "
                "the file was removed, please report it."
            )
        read_artifact(target)  # which checks the digest of every tensor
    return nbytes


def default_target(path: Path) -> Path:
    """The artifact's name where none was given: the checkpoint's (its first file's) with another suffix."""
    if not path.exists():
        path = Path(str(path).split(",")[0])
    suffix = ".memrec.safetensors" if path.suffix == ".safetensors" else ".safetensors"
    return path.with_name(path.stem + suffix)


def _shrink_within(
    job: Job, max_auc_drop: float | None, fail_if_worse_than: float | None, like: Yesterday | None
) -> tuple[Shrunk, GateResult | None]:
    """The outcome at the job's budget, or the smallest within `max_auc_drop`; held to `fail_if_worse_than`."""
    facts, subject, options = profile_facts(job.profile), job.subject, job.options
    budget = None if job.budget is None else parse_budget(job.budget)
    run = partial(shrink, subject, options=options, profile=facts, progress=job.progress, watch=job.watch)
    bound = max_auc_drop if max_auc_drop is not None else fail_if_worse_than
    if bound is None:
        assert budget is not None
        return run(budget, like=like), None
    judging = subject.hold_out or (job.judged if max_auc_drop is None else None)
    if judging is None:
        needed = "a hold-out (--val)" if max_auc_drop is not None else "a hold-out (--val) or evaluation data (--eval)"
        raise LogError(f"the bound of {bound} on the AUC drop needs {needed} to be judged on; add it.")
    judged_on = "val" if judging is subject.hold_out else "eval"
    gate = Gate(subject, judging, bound, judged_on=judged_on, workers=options.workers)
    if max_auc_drop is None:
        assert budget is not None
        shrunk = run(budget, like=like)
    else:
        dense_bytes = subject.dense_bytes("fp32")
        cap = None if budget is None else budget.resolve(table_bytes=subject.table_bytes, dense_bytes=dense_bytes)
        shrunk, found = find_smallest(
            gate, options, cap_bytes=cap, profile=facts, progress=job.progress, watch=job.watch
        )
        if fail_if_worse_than is None or found.drop <= fail_if_worse_than:
            return shrunk, found
        gate.bound = fail_if_worse_than
    found = require_quality(gate, shrunk, shrunk.chosen.nbytes)
    gate.require_resolution(found)
    return shrunk, found
