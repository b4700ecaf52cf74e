"""The commands of the lab: `compare` methods, run an `experiment`, plan from a published shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from memrec_convert.cli.console import Progress, print_json, text_width
from memrec_convert.cli.options import log_options, output_options, plan_options, unpack_logs
from memrec_convert.errors import RecipeError
from memrec_convert.report.text import wrap


def plan_from_shape(shape: str, zipf: float | None, options: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """`plan --shape`: prints what a budget would buy; UsageError for options that need a checkpoint or a log."""
    from memrec_convert.lab.shapes.planning import ZIPF, plan_shape
    from memrec_convert.lab.shapes.rendering import render_shape_plan

    budget = options.get("budget")
    given = [name for name, value in options.items() if value and name != "budget"]
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} does not go with --shape: there is nothing to read")
    if budget is None:
        raise RecipeError("no budget was given; add --budget, such as 48MB, 100x or llc.")
    found = plan_shape(shape, budget, zipf=ZIPF if zipf is None else zipf)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_shape_plan(found, text_width()))


@click.command()
@click.argument("name")
@click.argument("file", required=False)
@click.option("--data", multiple=True, metavar="LOG", help="The log that the checkpoint was trained on; repeatable.")
@click.option("--val", multiple=True, metavar="LOG", help="Hold-out log: ends training; repeatable.")
@click.option("--eval", "evaluation", multiple=True, metavar="LOG", help="Test log: measures; repeatable.")
@click.option("--profile", metavar="FILE", help="Lookup profile (.npz): reused, or written if not there yet.")
@click.option("--out", default="experiments", metavar="DIR", help="Folder of results and finished cells (experiments).")
@click.option("--domain", default="", metavar="LABEL", help="Goes into the names of the result files.")
@click.option("--set", "settings", multiple=True, metavar="NAME=N,...", help="Values of the experiment; repeatable.")
@click.option("--quick", is_flag=True, help="The small size, for a check that all works.")
@click.option("--seed", type=int, default=0, metavar="N", help="First seed (default 0).")
@click.option("--seeds", type=int, default=1, metavar="N", help="How many seeds (default 1).")
@click.option("--threads", type=int, metavar="N", help="Threads (default: all cores).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no report.")
def experiment(
    name: str,
    file: str | None,
    *,
    evaluation: tuple[str, ...],
    out: str,
    domain: str,
    settings: tuple[str, ...],
    quick: bool,
    seed: int,
    seeds: int,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **logs: Any,  # noqa: ANN401
) -> None:
    """Run experiment NAME (on checkpoint FILE): sizes, iso-auc, collisions, weight-table, domains, epochs, cache,
    latency or equal-bytes. Goes on where it was interrupted.
    """
    from memrec_convert.lab.experiments import find_experiment

    found = find_experiment(name)
    from memrec_convert.lab.experiments.laboratory import Lab
    from memrec_convert.lab.experiments.runner import run_experiment

    if not all(part.isalnum() or part in "-_" for part in domain):
        raise RecipeError(f"the domain {domain!r} names files: give letters, digits, - and _.")
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in logs.items() if value}
    lab = Lab(
        Path(file) if file is not None else None,
        {**given, "eval": list(evaluation)},
        {"threads": threads},
        quick=quick,
        domain=domain,
        folder=Path(out),
    )
    with Progress(quiet=quiet) as progress:
        result = run_experiment(found, lab, out, settings=settings, seed=seed, seeds=seeds, progress=progress)
    if as_json:
        print_json(result)
    elif not quiet:
        click.echo("\n".join(wrap(f"{name}: {result['finding']}.", text_width())))
        click.echo("\n".join(result["files"]))


@click.command()
@click.argument("file")
@plan_options
@log_options
@click.option(
    "--eval", "evaluation", multiple=True, required=True, metavar="LOG", help="The log to measure on; repeatable."
)
@click.option("--budgets", metavar="SIZES", help="Several budgets, such as 33x,100x,300x, instead of --budget.")
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Epochs of fine-tuning for every method (default 1 given --data and --val, else 0).",
)
@click.option(
    "--targets",
    type=click.Choice(["mixed", "soft", "labels"]),
    help="Fine-tune towards the original's logits (soft), the labels, or 80 % and 20 % of them (mixed, default).",
)
@click.option("--train-dense", is_flag=True, default=None, help="Fine-tune the dense part too.")
@click.option("--only", "methods", multiple=True, metavar="WORD", help="Only methods with this in their name.")
@click.option("--work", metavar="DIR", help="Keep fits and finished rows here, and go on from them.")
@click.option("--chart", metavar="FILE.svg", help="Draw AUC against bytes (needs the extra 'plots').")
@click.option("--force", is_flag=True, help="Replace an existing chart.")
@output_options
def compare(
    file: str,
    *,
    evaluation: tuple[str, ...],
    budget: str | None,
    budgets: str | None,
    methods: tuple[str, ...],
    chart: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Compare what else checkpoint FILE could be at the same bytes: every method, one table."""
    from memrec_convert.lab.chart import draw_comparison
    from memrec_convert.lab.compare import compare as run
    from memrec_convert.lab.drawing import check_chart
    from memrec_convert.lab.rendering import render_comparison

    if budget is not None and budgets is not None:
        raise click.UsageError("--budget and --budgets exclude each other: give one of them")
    if chart is not None:
        check_chart(chart, force=force)
    with Progress(quiet=quiet) as progress:
        found = run(
            file,
            budgets.split(",") if budgets is not None else budget,
            eval=evaluation,
            methods=methods or None,
            progress=progress,
            **unpack_logs(options),
        )
    if chart is not None:
        draw_comparison(found, chart, force=force)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_comparison(found, text_width()))
