"""The sample-pooled method from a checkpoint's file to an artifact's, with its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.convert import plan_files, prepare_files
from memrec_convert.conversion.inputs.preparing import Job, profile_facts, source_facts
from memrec_convert.conversion.measuring.judging import Judgement, judge
from memrec_convert.conversion.measuring.reporting import (
    count_serving_bytes,
    describe_training,
    evaluation_facts,
    report_figures,
    warn_of_outcome,
    with_measured,
)
from memrec_convert.conversion.options import Extras, OutputChoices
from memrec_convert.conversion.steps.outcome import describe_wish
from memrec_convert.errors import OptionError
from memrec_convert.lab.pooled.finetune import epochs_to_gain
from memrec_convert.lab.pooled.training import METHOD, Pooled, make_pooled, parse_pooled
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.remote import as_source
from memrec_convert.report import ArtifactFile, ArtifactSizes, Provenance, Report, Sizes, SourceSizes, TableReport
from memrec_convert.units import parse_budget
from memrec_convert.version import __version__


def convert_pooled(
    path: str | Path,
    budget: str | int | None = None,
    *,
    max_auc_drop: float | None = None,
    fail_if_worse_than: float | None = None,
    ablation: bool = False,
    control: bool = False,
    **choices: Unpack[OutputChoices],
) -> Report:
    """As `convert`, by the method sample-pooled: trains the model, measures and writes it.

    OptionError for what does not go with that method: bounds on the AUC drop, an ablation, a control run.
    """
    bounds = any(bound is not None for bound in (max_auc_drop, fail_if_worse_than))
    for given, name in (
        (ablation, "--ablation"),
        (control, "--control"),
        (bounds, "a bound on the AUC drop"),
        (choices.get("model"), "--model"),
        (choices.get("like"), "--like"),
        (choices.get("row_map"), "--row-map"),
    ):
        if given:
            raise OptionError(f"{name} does not go with the method {METHOD}: it replaces all tables at once.")
    target, companions = plan_files(as_source(path), choices)
    choices["method"] = METHOD
    job = prepare_files(path, budget, choices, target, Extras(choices.get("group")))
    made = _make(job)
    judgement = None
    if job.judged is not None:
        job.progress("evaluate", 0, 1)
        subject, options = job.subject, job.options
        with job.watch.stage("evaluate"), single_threaded_torch():
            judgement = judge(
                subject.model, made.model, job.judged, subject.counts, workers=options.workers, seed=options.seed
            )
        job.progress("evaluate", 1, 1)
    source = source_facts(job.source, job.watch)  # of files that have not changed since, or nothing is written
    with job.watch.stage("write"):
        nbytes = write_model(target, made.model, with_measured(made.metadata, judgement))
    report = _report(job, made, target, nbytes, judgement, source)
    companions.write(report)
    return report


def _make(job: Job) -> Pooled:
    """The trained model within the job's budget."""
    assert job.budget is not None
    wanted, subject, options = parse_budget(job.budget), job.subject, job.options
    budget_bytes = wanted.resolve(table_bytes=subject.table_bytes, dense_bytes=subject.dense_bytes("fp32"))
    blank = Metadata(
        modules={},
        architecture=None,
        dense=options.dense,
        seed=options.seed,
        profile={"weights": "log", **profile_facts(job.profile)},
        plan=describe_wish(wanted.text, budget_bytes, METHOD),
    )
    return make_pooled(
        subject, budget_bytes, options, parse_pooled(options.pooled), blank, progress=job.progress, watch=job.watch
    )


def _report(
    job: Job, made: Pooled, target: Path, nbytes: int, judgement: Judgement | None, source: dict[str, Any]
) -> Report:
    subject, sizes, budget_bytes = job.subject, made.model.sizes, int(made.metadata.plan["budget_bytes"])
    tables = 4 * (sizes.D * sizes.l + sizes.dw)
    dense = sum(parameter.numel() * 4 for parameter in made.model.parameters()) - tables
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
                job.options.differing(),
            ),
            evaluation=evaluation_facts(job, None if judgement is None else judgement.after.samples),
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
