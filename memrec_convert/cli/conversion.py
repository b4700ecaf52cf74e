"""The commands that convert: `convert`, and `plan`, which says what it would do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memrec_convert.cli.console import Progress, importing, show
from memrec_convert.cli.options import (
    add,
    budget_option,
    force_option,
    group_option,
    input_options,
    list_given,
    log_option,
    output_options,
    plan_options,
    tables_only_option,
    training_options,
)
from memrec_convert.cli.study import plan_from_shape
from memrec_convert.file_digest import begin_digest

if TYPE_CHECKING:
    from memrec_convert.report import Report

common_options = add(budget_option, input_options, plan_options, tables_only_option)


@click.command()
@click.argument("file")
@common_options
@log_option("--eval", "Test log: measures the result, and nothing else; repeatable.")
@click.option(
    "--pooled", metavar="NAME=N,...", help="Of sample-pooled: D, K, dw, kw, l; start=warm|balanced|released; optimizer."
)
@click.option(
    "--like", metavar="ARTIFACT", help="Start from an earlier artifact: rows that did not move keep their codes."
)
@click.option("--row-map", metavar="FILE", help="With --like: parquet or CSV (table, old, new) of renumbered rows.")
@click.option("--model", metavar="MODULE:CLASS", help="The network's class, imported from your own code.")
@click.option("--model-args", metavar="FILE", help="YAML: the class's arguments, and how it reads a log.")
@click.option("--objective", metavar="NAME", help="With --model: binary (default), regression, ranking, MODULE:LOSS.")
@click.option(
    "--metric",
    metavar="NAME",
    help="With --model: auc, gauc, rmse, mae, ndcg@K, recall@K, hit@K, mrr, MODULE:FUNCTION.",
)
@click.option("--higher-is-better", is_flag=True, help="How to read a metric that is a function of your own.")
@click.option("--lower-is-better", is_flag=True, help="The opposite: lower values of your own metric are better.")
@click.option("--out", metavar="FILE", help="The artifact (default: FILE with .safetensors).")
@click.option(
    "--max-auc-drop",
    "--max-drop",
    type=float,
    metavar="DROP",
    help="Find the smallest file whose AUC (or --metric) is worse by at most DROP on --val; --budget becomes a cap.",
)
@click.option(
    "--fail-if-worse-than",
    type=float,
    metavar="DROP",
    help="Exit with 3 and write nothing if AUC or --metric is worse by more than DROP on --val (else on --eval).",
)
@training_options
@group_option
@click.option("--ablation", is_flag=True, help="Measure the cost of compressing each table alone.")
@click.option(
    "--control", is_flag=True, help="Also fine-tune the original, to separate the effects of training and compression."
)
@click.option("--report-html", metavar="FILE", help="Also write the report as one HTML page, with the rate curve.")
@click.option("--compare-json", metavar="FILE", help="Add the output of compare --json to the page.")
@click.option("--full", is_flag=True, help="Print the whole report, not one screen of it.")
@force_option
@output_options
def convert(
    file: str,
    *,
    full: bool,
    higher_is_better: bool,
    lower_is_better: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Convert checkpoint FILE and write artifact, report (JSON) and model card."""
    if higher_is_better and lower_is_better:
        raise click.UsageError("give either --higher-is-better or --lower-is-better, not both")
    if higher_is_better or lower_is_better:
        options["higher_is_better"] = higher_is_better
    if os.environ.get("RANK", "0") == "0" and Path(file).is_file():
        begin_digest(Path(file))  # which takes as long as importing torch does
    report = _convert(file, list_given(options), quiet=quiet)
    from memrec_convert.report import render_summary, render_terminal, suggest_step

    if report is None:  # another rank has it
        return

    def render(_: object, width: int) -> str:
        step = suggest_step(report, source=file, paged=options["report_html"] is not None)
        return render_terminal(report, width) if full else render_summary(report, step, width)

    show(report.to_json(), render, as_json=as_json, quiet=quiet)


def _convert(file: str, options: dict[str, Any], *, quiet: bool) -> Report | None:
    """The report; None at the ranks that do not have it, where torchrun has started several."""
    with importing():
        from memrec_convert.conversion.convert import convert_shared
        from memrec_convert.conversion.ranks.joining import RankedRun, is_ranked

    if not is_ranked():
        run = find_converter(options)
        with Progress(quiet=quiet) as progress:
            return run(file, progress=progress, **options)
    with RankedRun.begin(options) as crew, Progress(quiet=quiet or not crew.leads) as progress:
        budget = options.pop("budget", None)
        return convert_shared(file, budget, crew, progress=progress, **options)


@click.command()
@click.argument("file", required=False)
@common_options
@click.option("--curve", is_flag=True, help="Also show the predicted AUC drop for many budgets.")
@click.option("--shape", metavar="NAME", help="Plan without a checkpoint: criteo-tb, criteo-kaggle, avazu, or a file.")
@click.option("--zipf", type=float, metavar="S", help="With --shape: Zipf exponent of id frequencies (default 1.05).")
@output_options
def plan(
    file: str | None,
    *,
    shape: str | None,
    zipf: float | None,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Show the plan for checkpoint FILE: form and bytes per table, rejected alternatives. Writes nothing."""
    if (file is None) == (shape is None):
        raise click.UsageError("give either a checkpoint FILE or --shape" + (", not both" if file else ""))
    if file is None:
        assert shape is not None
        plan_from_shape(shape, zipf, options, as_json=as_json, quiet=quiet)
        return
    if zipf is not None:
        raise click.UsageError("--zipf needs --shape; for a checkpoint, give --data or --weights instead")
    from memrec_convert.conversion.plan import plan as run
    from memrec_convert.report import render_plan

    with Progress(quiet=quiet) as progress:
        found = run(file, progress=progress, **list_given(options))
    show(found.to_json(), render_plan, as_json=as_json, quiet=quiet)


def find_converter(options: Mapping[str, Any]) -> Callable[..., Report]:
    """`convert`, or the lab's converter for the method that is trained anew, where options or recipe name it."""
    from memrec_convert.recipe import read_recipe

    method, recipe = options.get("method"), options.get("recipe")
    if method is None and recipe is not None:
        method = read_recipe(recipe).method
    if method == "sample-pooled":
        from memrec_convert.lab.pooled.convert import convert_pooled

        return convert_pooled
    from memrec_convert.conversion.convert import convert

    return convert
