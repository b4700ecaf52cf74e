"""The sample-pooled method from a checkpoint's file to an artifact's, with its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.convert import default_target
from memrec_convert.conversion.inputs.from_checkpoint import LogPaths
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
from memrec_convert.conversion.measuring.judging import Judgement, judge
from memrec_convert.conversion.measuring.reporting import (
    count_serving_bytes,
    describe_training,
    evaluation_facts,
    report_figures,
    warn_of_outcome,
    with_measured,
)
from memrec_convert.conversion.options import Extras
from memrec_convert.conversion.report import Companions, check_targets, plan_page
from memrec_convert.conversion.steps.outcome import pad_budget
from memrec_convert.errors import RecipeError
from memrec_convert.lab.pooled.finetune import epochs_to_gain
from memrec_convert.lab.pooled.training import METHOD, Pooled, make_pooled, parse_pooled
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.report import ArtifactFile, ArtifactSizes, Provenance, Report, Sizes, SourceSizes, TableReport
from memrec_convert.units import parse_budget
from memrec_convert.version import __version__


def convert_pooled(
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
    progress: Progress = stay_silent,
    **choices: Any,  # noqa: ANN401 - as `convert`'s
) -> Report:
    """As `convert`, by the method sample-pooled: trains the model, measures and writes it.

    RecipeError for what does not go with that method: bounds on the AUC drop, an ablation, a control run.
    """
    bounds = any(bound is not None for bound in (max_auc_drop, fail_if_worse_than))
    for given, name in ((ablation, "--ablation"), (control, "--control"), (bounds, "a bound on the AUC drop")):
        if given:
            raise RecipeError(f"{name} does not go with the method {METHOD}: it replaces all tables at once.")
    path = Path(path)
    target = Path(out) if out is not None else default_target(path)
    companions = Companions.beside(target, plan_page(report_html, compare_json=compare_json))
    check_targets((target, *companions.paths), path, force=force)
    job = prepare(
        path,
        budget,
        recipe,
        data,
        val,
        eval,
        profile,
        {**choices, "method": METHOD},
        progress,
        extras=Extras(group),
        space=open_workspace(work, target.parent),
    )
    assert job.budget is not None
    wanted, subject, options = parse_budget(job.budget), job.subject, job.options
    budget_bytes = wanted.resolve(table_bytes=subject.table_bytes, dense_bytes=subject.dense_bytes("fp32"))
    blank = Metadata(
        modules={},
        architecture=None,
        dense=options.dense,
        seed=options.seed,
        profile={"weights": "log", **profile_facts(job.profile)},
        plan={"budget": pad_budget(wanted.text, budget_bytes), "budget_bytes": budget_bytes, "method": METHOD},
    )
    made = make_pooled(
        subject, budget_bytes, options, parse_pooled(options.pooled), blank, progress=progress, watch=job.watch
    )
    judgement = None
    if job.judged is not None:
        progress("evaluate", 0, 1)
        with job.watch.stage("evaluate"), single_threaded_torch():
            judgement = judge(
                subject.model, made.model, job.judged, subject.counts, workers=options.workers, seed=options.seed
            )
        progress("evaluate", 1, 1)
    with job.watch.stage("write"):
        nbytes = write_model(target, made.model, with_measured(made.metadata, judgement))
    report = _report(job, made, target, nbytes, budget_bytes, judgement)
    companions.write(report)
    return report


def _report(
    job: Job, made: Pooled, target: Path, nbytes: int, budget_bytes: int, judgement: Judgement | None
) -> Report:
    subject, sizes = job.subject, made.model.sizes
    tables = 4 * (sizes.D * sizes.l + sizes.dw)
    dense = sum(parameter.numel() * 4 for parameter in made.model.parameters()) - tables
    source = source_facts(job.source, job.watch)
    training = describe_training(made.training) or {}
    if made.training.metric == "auc":
        training["epochs_to_99_percent"] = epochs_to_gain(made.training, made.steps_per_epoch)
    total_rows = sum(site.rows for site in subject.sites)
    form = f"pooled: {sizes.K} of {sizes.D} tokens shared by all"
    return replace(
        Report(
            artifact=ArtifactFile(str(target), nbytes),
            budget_bytes=budget_bytes,
            weights="log",
            tables=tuple(
                TableReport(s.name, METHOD, s.rows, s.dim, s.nbytes, tables * s.rows // total_rows, form)
                for s in subject.sites
            ),
            sizes=Sizes(
                SourceSizes(subject.table_bytes, subject.dense_bytes("fp32"), int(source["file_bytes"])),
                ArtifactSizes(tables, dense, nbytes - tables - dense),
            ),
            provenance=Provenance(
                __version__,
                str(source["layout"]),
                str(source["container"]),
                source["digest"],
                None if job.profile is None else job.profile.digest.combined,
                job.options.seed,
                plain_options(job.options),
            ),
            evaluation=evaluation_facts(job, judgement),
            serving_bytes=count_serving_bytes(made.model),
            plan={"chosen": METHOD, "predicted_bytes": made.nbytes, "method": METHOD, "budget_bytes": budget_bytes},
            fine_tune=training,
            architecture=made.metadata.architecture or {},
            assumed=tuple(source["assumed"]),
            seconds=job.watch.rounded(),
            warnings=(*job.warnings, *warn_of_outcome(job, judgement)),
        ),
        **report_figures(judgement),
    )
