"""`convert`: a checkpoint's file in, an artifact with its report out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from typing_extensions import Unpack

from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.gating import NO_BOUNDS, Bounds, shrink_within
from memrec_convert.conversion.inputs.from_class import choose_log_goal, read_own_class
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.conversion.inputs.preparing import Job, prepare, profile_facts, source_at_hand, source_facts
from memrec_convert.conversion.inputs.workspace import open_workspace
from memrec_convert.conversion.measuring.judging import Judgement
from memrec_convert.conversion.measuring.live import judge_live
from memrec_convert.conversion.measuring.outcome import judge_outcome
from memrec_convert.conversion.measuring.precision import describe_dense, settle_dense
from memrec_convert.conversion.measuring.rate_curve import foresee
from memrec_convert.conversion.measuring.reporting import (
    evaluation_facts,
    make_report,
    report_figures,
    warn_of_outcome,
    with_measured,
)
from memrec_convert.conversion.options import Extras, InputChoices, OutputChoices, names_of, refuse_unknown
from memrec_convert.conversion.report import Companions, check_targets, plan_page
from memrec_convert.conversion.steps.outcome import Shrunk
from memrec_convert.conversion.steps.yesterday import Yesterday, read_yesterday
from memrec_convert.errors import ArtifactError, OptionError
from memrec_convert.parallel import ALONE, Crew, single_threaded_torch
from memrec_convert.remote import RemotePath, as_source
from memrec_convert.report import Report


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
               Of another metric, both bound its change for the worse, in its own unit
    ablation   what each replaced table's compression alone costs on `eval`
    control    fine-tunes the original too, to tell on `eval` what training gives from what compression costs
    choices    inputs and outputs as `OutputChoices` and `InputChoices` say, fields of `Options`, `ReadingChoices`

    Raises a MemrecError; whatever it is, the target is then as it was before.
    """
    found = convert_shared(
        path,
        budget,
        ALONE,
        max_auc_drop=max_auc_drop,
        fail_if_worse_than=fail_if_worse_than,
        ablation=ablation,
        control=control,
        **choices,
    )
    assert found is not None
    return found


@plain_torch()
def convert_shared(
    path: str | Path,
    budget: str | int | None,
    crew: Crew,
    *,
    max_auc_drop: float | None = None,
    fail_if_worse_than: float | None = None,
    ablation: bool = False,
    control: bool = False,
    **choices: Unpack[OutputChoices],
) -> Report | None:
    """`convert` by a crew, of which only the member that leads evaluates, writes and has the report."""
    like, budget, choices = take_like(budget, choices, max_auc_drop)
    target, companions = plan_files(as_source(path), choices)
    bounds = Bounds(max_auc_drop, fail_if_worse_than)
    extras = Extras(choices.get("group"), ablation, control)
    with source_at_hand(path, budget, choices, target.parent) as source:
        shared: dict[str, Any] = {"needs_budget": max_auc_drop is None, "crew": crew}
        shared["centres"] = None if like is None else like.centres
        job = prepare_files(source, budget, choices, target, extras, bounds, **shared)
        return _convert(job, target, companions, extras, bounds, like)


def _convert(
    job: Job, target: Path, companions: Companions, extras: Extras, bounds: Bounds, like: Yesterday | None
) -> Report | None:
    """The job's artifact and what lies beside it, of which only the member that leads writes something."""
    dense = job.subject.crew.decide("dense", lambda: settle_dense(job.subject, job.options).dense)
    job = replace(job, options=job.options.change(dense=dense))
    facts = profile_facts(job.profile)
    running: dict[str, Any] = {"progress": job.progress, "watch": job.watch}
    shrunk, gate = shrink_within(
        job.subject, job.budget, job.options, bounds, judged=job.judged, profile=facts, like=like, **running
    )
    if not job.subject.crew.leads:
        return None
    judgement, measured, warnings = _measure(job, shrunk, extras)
    source = source_facts(job.source, job.watch)  # of files that have not changed since, or nothing is written
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
        source=source,
        options=job.options.differing(),
        **measured,
        watch=job.watch,
        warnings=(*job.warnings, *shrunk.warnings, *warnings),
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
        if choices.get("row_map") is not None:
            raise OptionError("--row-map tells rows of an earlier artifact from today's; add --like ARTIFACT.")
        return None, budget, choices
    if max_auc_drop is not None:
        raise OptionError(
            "--max-auc-drop searches for a size, and --like takes over that of an earlier artifact; leave one out, or "
            "hold the result to a bound with --fail-if-worse-than."
        )
    like = read_yesterday(path, choices.get("row_map"))
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


def _measure(job: Job, shrunk: Shrunk, extras: Extras) -> tuple[Judgement | None, dict[str, Any], tuple[str, ...]]:
    """What the evaluation data says: of clicks a judgement; the report's figures and evaluation; and warnings."""
    if job.subject.goal.is_plain or job.judged is None:
        found = judge_outcome(
            job.subject, shrunk, job.judged, job.options, extras, progress=job.progress, watch=job.watch
        )
        rows = None if found is None else found.after.samples
        told = {"figures": report_figures(found), "evaluation": evaluation_facts(job, rows)}
        return found, told, warn_of_outcome(job, found)
    options = job.options
    with job.watch.stage("evaluate"), single_threaded_torch():
        figures, warnings = judge_live(
            job.subject, shrunk.model, job.judged, workers=options.workers, seed=options.seed
        )
        samples = sum(batch.rows for batch in job.judged.stream())
    return None, {"figures": figures, "evaluation": evaluation_facts(job, samples)}, warnings


def prepare_files(
    path: str | Path,
    budget: str | int | None,
    choices: OutputChoices,
    target: Path,
    extras: Extras,
    bounds: Bounds = NO_BOUNDS,
    *,
    needs_budget: bool = True,
    crew: Crew = ALONE,
    centres: Mapping[str, Tensor] | None = None,
) -> Job:
    """The job of a conversion to `target`, with or without a budget; `centres` as `prepare` has them.

    OptionError for unknown choices.
    """
    refuse_unknown(choices, OutputChoices)
    own = read_own_class(choices.get("model"), choices.get("model_args"))
    goal = choose_log_goal(choices.get("objective"), choices.get("metric"), choices.get("higher_is_better"), own)
    bounds.check(goal.metric)
    inputs = cast("InputChoices", {name: one for name, one in choices.items() if name in names_of(InputChoices)})
    space = open_workspace(choices.get("work"), target.parent, crew)
    given: dict[str, Any] = {"eval": choices.get("eval"), "extras": extras, "space": space, "centres": centres}
    return prepare(path, budget, inputs, own=own, goal=goal, needs_budget=needs_budget, **given)


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
    """The artifact's name where none was given: the checkpoint's (its first file's) with another suffix.

    That of a URL is in the working directory.
    """
    if isinstance(path, RemotePath):
        path = Path(path.local_name)
    elif not path.exists():
        path = Path(str(path).split(",")[0])
    suffix = ".memrec.safetensors" if path.suffix == ".safetensors" else ".safetensors"
    return path.with_name(path.stem + suffix)
