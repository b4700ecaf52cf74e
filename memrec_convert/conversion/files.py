"""Conversion of checkpoint files: `convert` writes an artifact and its report, `plan` says what it would be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from memrec_convert.artifact.files import check_target, write_file
from memrec_convert.artifact.metadata import Metadata, format_measured
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.artifact.verification import check_digests
from memrec_convert.artifact.writer import write_model
from memrec_convert.checkpoint import FACTS, SourceModel, digest_files, state_facts
from memrec_convert.clicklog import Profile, load_profile, refuse_leak, save_profile, take_profile
from memrec_convert.conversion.explaining import (
    compare_neighbours,
    draw_curve,
    explain_tables,
    measure_drop,
    model_auc,
)
from memrec_convert.conversion.from_checkpoint import (
    LogBatches,
    LogChoices,
    LogPaths,
    make_schema,
    make_subject,
    open_batches,
    read_checked,
)
from memrec_convert.conversion.gating import Gate, GateResult, check_bound, find_smallest, require_quality
from memrec_convert.conversion.judging import Judgement, judge, require_labels
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.reporting import describe_alternative, describe_plan, make_report, report_tables
from memrec_convert.conversion.shrink import Shrunk, shrink
from memrec_convert.conversion.sizing import make_counter
from memrec_convert.conversion.stopwatch import Stopwatch
from memrec_convert.conversion.subject import Progress, Subject
from memrec_convert.errors import ArtifactError, LogError, OutputError, ProfileLeakError, RecipeError
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.recipe import Recipe, read_recipe
from memrec_convert.report import Report, render_card
from memrec_convert.units import SHARE_ALLOWANCE_BYTES, parse_budget

MOST_FILE_DIGESTS = 64
"""Digests of single log files that an artifact carries; beyond that it carries the joint one alone."""


def stay_silent(_stage: str, _done: int, _total: int) -> None:
    """The progress of callers who want none."""


@dataclass(frozen=True)
class _Job:
    """A conversion, its inputs opened and checked against each other."""

    source: SourceModel
    subject: Subject
    profile: Profile | None
    judged: LogBatches | None
    options: Options
    budget: str | int | None
    warnings: tuple[str, ...]
    watch: Stopwatch


def convert(
    path: str | Path, budget: str | int | None = None, *, data: LogPaths | None = None, val: LogPaths | None = None,
    eval: LogPaths | None = None,
    profile: str | Path | None = None, out: str | Path | None = None, recipe: str | Path | None = None,
    force: bool = False, max_auc_drop: float | None = None, fail_if_worse_than: float | None = None,
    progress: Progress = stay_silent, **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> Report:  # fmt: skip
    """Converts a checkpoint into an artifact of at most `budget` bytes; returns the report, which is written beside it.

    data      training log: gives the lookup profile, the sensitivities and the lessons of fine-tuning
    val       hold-out: decides between plans and when training is best; eval: measures, and nothing else
    profile   a lookup profile (.npz) to use in place of counting `data`; written there where it does not exist yet
    out       defaults to the checkpoint's name with .safetensors
    choices   any field of Options, and columns, id_map, modulus, pairs, dense_transform, and any field of Facts

    max_auc_drop         the smallest file whose AUC drop on `val` is within this bound; `budget` is then a cap
    fail_if_worse_than   QualityError, and nothing written, where the AUC drops more than this on `val` (else on `eval`)

    Raises a MemrecError; whatever it is, the target is then as it was before.
    """
    path = Path(path)
    target = Path(out) if out is not None else default_target(path)
    companions = report_paths(target)
    for one in (target, *companions):
        check_target(one, force=force)
        if one.exists() and path.exists() and one.samefile(path):
            raise OutputError(f"cannot write {one}: it is the checkpoint itself; choose another name for the artifact.")
    for bound in (max_auc_drop, fail_if_worse_than):
        if bound is not None:
            check_bound(bound)
    job = _prepare(
        path, budget, recipe, data, val, eval, profile, choices, progress, needs_budget=max_auc_drop is None
    )  # fmt: skip
    shrunk, gate = _shrink_within(job, max_auc_drop, fail_if_worse_than, progress)
    judgement = _judge(job, shrunk, progress)
    metadata = _with_measured(shrunk.metadata, judgement)
    with job.watch.stage("write"):
        nbytes = write_model(target, shrunk.model, metadata)
        if nbytes != shrunk.chosen.nbytes or nbytes > shrunk.budget_bytes:
            target.unlink()
            raise ArtifactError(
                f"{target} came out at {nbytes} bytes where {shrunk.chosen.nbytes} were planned: a fault of this tool; "
                "the file was removed, please report it."
            )
        check_digests(read_artifact(target))
    report = make_report(
        job.subject, shrunk, path=target, nbytes=nbytes, source=_source_facts(job.source, job.watch),
        options=_plain_options(job.options), judgement=judgement, evaluation=_evaluation_facts(job, judgement),
        seconds=job.watch.rounded(),
        warnings=(*job.warnings, *shrunk.warnings, *(judgement.warnings if judgement else ())), gate=gate,
    )  # fmt: skip
    write_file(companions[0], [json.dumps(report.to_json(), indent=1).encode()])
    write_file(companions[1], [render_card(report).encode()])
    return report


def plan(
    path: str | Path, budget: str | int | None = None, *, data: LogPaths | None = None, val: LogPaths | None = None,
    profile: str | Path | None = None, recipe: str | Path | None = None, curve: bool = False,
    progress: Progress = stay_silent, **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> dict[str, Any]:  # fmt: skip
    """What `convert` would do, without fine-tuning and without writing: forms and bytes per table, and what lost.

    {"budget_bytes", "predicted_bytes", "weights", "tables", "plan", "alternatives", "explained", "neighbours", "curve",
    "predicted_auc_drop", "measured_auc_drop", "seconds", "warnings"}. Predicted drops need data; with labels in `val`
    they are calibrated to the drop measured there. `curve` adds the rate curve over many budgets.
    """
    job = _prepare(Path(path), budget, recipe, data, val, None, profile, choices, progress)
    assert job.budget is not None
    shrunk = shrink(
        job.subject, parse_budget(job.budget), job.options, profile=_profile_facts(job.profile), progress=progress,
        watch=job.watch, train=False,
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


def report_paths(target: Path) -> tuple[Path, Path]:
    """The report (JSON) and the model card (Markdown) that go with an artifact."""
    return target.with_name(target.stem + ".report.json"), target.with_name(target.stem + ".card.md")


def _prepare(
    path: Path, budget: str | int | None, recipe: str | Path | None, data: LogPaths | None, val: LogPaths | None,
    eval: LogPaths | None, profile: str | Path | None, choices: Mapping[str, Any], progress: Progress,
    needs_budget: bool = True,
) -> _Job:  # fmt: skip
    watch = Stopwatch()
    read = read_recipe(recipe) if recipe is not None else Recipe()
    budget = budget if budget is not None else read.budget
    if budget is None and needs_budget:
        raise RecipeError("no budget was given; add --budget, such as 48MB, 100x or llc.")
    if budget is not None:
        parse_budget(budget)
    options, log_choices, pairs = _resolve(read, choices)
    with watch.stage("read"):
        source = read_checked(
            path, pairs=pairs, dense_transform=log_choices.dense_transform, facts=log_choices.facts
        )
        schema = make_schema(source.architecture, [table.name for table in source.tables], log_choices)
        logs = [open_batches(one, schema, options.batch_size) if one is not None else None for one in (data, val, eval)]
        train, hold_out, judged = logs
        if judged is not None:
            require_labels(judged)
    with watch.stage("profile"):
        counted = _find_profile(train, schema, profile, options, progress)
        _refuse_leaks(counted, train, hold_out, judged)
    with watch.stage("read"):
        subject, warnings = make_subject(
            source, train=train, hold_out=hold_out, profile=counted, allow_nonfinite=options.allow_nonfinite
        )
    return _Job(source, subject, counted, judged, options, budget, (*source.warnings, *warnings), watch)


def _refuse_leaks(
    counted: Profile | None, train: LogBatches | None, hold_out: LogBatches | None, judged: LogBatches | None
) -> None:
    """ProfileLeakError where what must be held out was trained on, or what measures has chosen."""
    for seen in {digest for digest in (counted and counted.digest, train and train.log.digest()) if digest}:
        for one in (hold_out, judged):
            if one is not None:
                refuse_leak(seen, one.log.digest())
    if hold_out is not None and judged is not None:
        shared = set(hold_out.log.digest().files) & set(judged.log.digest().files)
        if shared:
            raise ProfileLeakError(
                f"the evaluation and the hold-out share {len(shared)} of their files: what chose the plan cannot "
                "measure it; give --val and --eval different files."
            )


def _resolve(recipe: Recipe, choices: Mapping[str, Any]) -> tuple[Options, LogChoices, str | None]:
    """Options and log choices: what the caller gave, else what the recipe says, else the defaults."""
    known = {f.name for f in fields(Options)} | {"columns", "id_map", "modulus", "pairs", "dense_transform", *FACTS}
    for name in choices:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise RecipeError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
    given = {name: value for name, value in choices.items() if value is not None}
    from_recipe = {name: value for name in known if (value := getattr(recipe, name, None)) not in (None, {})}
    from_recipe |= {name: value for name in ("modulus", "id_map") if (value := getattr(recipe.data, name)) is not None}
    merged = from_recipe | given
    merged["threshold"] = str(merged.get("threshold", Options.threshold))
    options = Options(**{f.name: merged[f.name] for f in fields(Options) if f.name in merged})
    log_choices = LogChoices(
        columns=merged.get("columns", {}), oov=options.oov, dense_transform=merged.get("dense_transform"),
        id_map=Path(merged["id_map"]) if "id_map" in merged else None, modulus=merged.get("modulus"),
        facts=state_facts(**{name: merged[name] for name in FACTS if name in merged}),
    )  # fmt: skip
    return options, log_choices, merged.get("pairs")


def _find_profile(
    train: LogBatches | None, schema: Any, path: str | Path | None, options: Options, progress: Progress  # noqa: ANN401
) -> Profile | None:  # fmt: skip
    if path is not None and Path(path).exists():
        return load_profile(path, schema)
    if train is None:
        if path is not None:
            raise LogError(f"there is no profile {path}, and no training data to take it from; add --data.")
        return None
    progress("profile", 0, 1)
    profile = take_profile(train.log, workers=options.workers)
    progress("profile", 1, 1)
    if path is not None:
        save_profile(profile, path)
    return profile


def _profile_facts(profile: Profile | None) -> dict[str, object]:
    if profile is None:
        return {"digest": None, "files": [], "samples": 0}
    files = list(profile.digest.files) if len(profile.digest.files) <= MOST_FILE_DIGESTS else []
    return {"digest": profile.digest.combined, "files": files, "samples": profile.samples}


def _shrink_within(
    job: _Job, max_auc_drop: float | None, fail_if_worse_than: float | None, progress: Progress
) -> tuple[Shrunk, GateResult | None]:
    """The outcome at the job's budget, or the smallest within `max_auc_drop`; held to `fail_if_worse_than`."""
    facts, subject, options = _profile_facts(job.profile), job.subject, job.options
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


def _explain(job: _Job, shrunk: Shrunk, *, curve: bool) -> dict[str, Any]:
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


def _judge(job: _Job, shrunk: Shrunk, progress: Progress) -> Judgement | None:
    if job.judged is None:
        return None
    progress("evaluate", 0, 1)
    with job.watch.stage("evaluate"), single_threaded_torch():
        found = judge(job.subject.model, shrunk.model, job.judged, job.subject.counts, workers=job.options.workers)
    progress("evaluate", 1, 1)
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


def _evaluation_facts(job: _Job, judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None or job.judged is None:
        return None
    names = [path.name for path in job.judged.log.paths]
    return {
        "log": names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
        "samples": judgement.after.samples,
    }


def _source_facts(source: SourceModel, watch: Stopwatch) -> dict[str, Any]:
    with watch.stage("digest"):
        digest = digest_files(source.files)
    return {
        "layout": source.layout, "container": source.container, "file_bytes": source.file_bytes, "digest": digest,
        "assumed": source.assumed,
    }  # fmt: skip


def _plain_options(options: Options) -> dict[str, Any]:
    """Options that differ from their defaults, threads left out: they change nothing."""
    return {
        f.name: getattr(options, f.name)
        for f in fields(Options)
        if f.name != "threads" and getattr(options, f.name) != f.default
    }
