"""The sample-pooled method from a checkpoint's file to an artifact's, with its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memrec_convert import __version__
from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.extras import Extras
from memrec_convert.conversion.files import _evaluation_facts, _with_measured
from memrec_convert.conversion.judging import Judgement, judge
from memrec_convert.conversion.pages import Companions
from memrec_convert.conversion.pooled import METHOD, Pooled, make_pooled, parse_pooled
from memrec_convert.conversion.preparing import Job, plain_options, profile_facts, source_facts, warn_of_outcome
from memrec_convert.conversion.reporting import _figures, count_serving_bytes, describe_training
from memrec_convert.conversion.shrink import pad_budget
from memrec_convert.conversion.subject import Progress
from memrec_convert.errors import RecipeError
from memrec_convert.finetune.pooled import epochs_to_gain
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.report import ArtifactFile, ArtifactSizes, Provenance, Report, Sizes, SourceSizes, TableReport
from memrec_convert.units import parse_budget


def convert_pooled(
    job: Job, target: Path, companions: Companions, extras: Extras, *, bounds: Sequence[float | None],
    progress: Progress,
) -> Report:  # fmt: skip
    """Trains the sample-pooled model, measures and writes it; RecipeError for what does not go with it."""
    for given, name in (
        (extras.ablation, "--ablation"), (extras.control, "--control"),
        (any(bound is not None for bound in bounds), "a bound on the AUC drop"),
    ):  # fmt: skip
        if given:
            raise RecipeError(f"{name} does not go with the method {METHOD}: it replaces all tables at once.")
    assert job.budget is not None
    budget, subject, options = parse_budget(job.budget), job.subject, job.options
    budget_bytes = budget.resolve(table_bytes=subject.table_bytes, dense_bytes=subject.dense_bytes("fp32"))
    blank = Metadata(
        modules={}, architecture=None, dense=options.dense, seed=options.seed,
        profile={"weights": "log", **profile_facts(job.profile)},
        plan={"budget": pad_budget(budget.text, budget_bytes), "budget_bytes": budget_bytes, "method": METHOD},
    )  # fmt: skip
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
        nbytes = write_model(target, made.model, _with_measured(made.metadata, judgement))
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
            artifact=ArtifactFile(str(target), nbytes), budget_bytes=budget_bytes, weights="log",
            tables=tuple(
                TableReport(s.name, METHOD, s.rows, s.dim, s.nbytes, tables * s.rows // total_rows, form)
                for s in subject.sites
            ),
            sizes=Sizes(
                SourceSizes(subject.table_bytes, subject.dense_bytes("fp32"), int(source["file_bytes"])),
                ArtifactSizes(tables, dense, nbytes - tables - dense),
            ),
            provenance=Provenance(
                __version__, str(source["layout"]), str(source["container"]), source["digest"],
                None if job.profile is None else job.profile.digest.combined, job.options.seed,
                plain_options(job.options),
            ),
            evaluation=_evaluation_facts(job, judgement), serving_bytes=count_serving_bytes(made.model),
            plan={"chosen": METHOD, "predicted_bytes": made.nbytes, "method": METHOD, "budget_bytes": budget_bytes},
            fine_tune=training, architecture=made.metadata.architecture or {}, assumed=tuple(source["assumed"]),
            seconds=job.watch.rounded(),
            warnings=(*job.warnings, *warn_of_outcome(job, judgement)),
        ),
        **_figures(judgement),
    )  # fmt: skip
