"""The commands of the lab: `compare` methods, run an `experiment`, plan from a published shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from memrec_convert.cli.console import Progress, show, show_charted
from memrec_convert.cli.options import (
    force_option,
    input_options,
    list_given,
    log_option,
    output_options,
    plan_options,
    training_options,
)
from memrec_convert.errors import OptionError
from memrec_convert.remote import as_source
from memrec_convert.report.text import wrap

if TYPE_CHECKING:
    from memrec_convert.conversion.options import InputChoices


def plan_from_shape(shape: str, zipf: float | None, options: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """`plan --shape`: prints what a budget would buy; UsageError for options that need a checkpoint or a log."""
    from memrec_convert.conversion.options import NO_BUDGET
    from memrec_convert.lab.shapes.planning import ZIPF, plan_shape
    from memrec_convert.lab.shapes.rendering import render_shape_plan

    budget = options.get("budget")
    given = [name for name, value in options.items() if value and name != "budget"]
    if given:
        raise click.UsageError(
            f"--{given[0].replace('_', '-')} cannot be combined with --shape, which reads no checkpoint"
        )
    if budget is None:
        raise OptionError(NO_BUDGET)
    found = plan_shape(shape, budget, zipf=ZIPF if zipf is None else zipf)
    show(found, render_shape_plan, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("name")
@click.argument("file", required=False)
@input_options
@log_option("--eval", "Test log: measures; repeatable.")
@click.option("--out", default="experiments", metavar="DIR", help="Folder of results and finished cells (experiments).")
@click.option("--domain", default="", metavar="LABEL", help="Goes into the names of the result files.")
@click.option("--set", "settings", multiple=True, metavar="NAME=N,...", help="Values of the experiment; repeatable.")
@click.option("--quick", is_flag=True, help="Run a small version, to check that everything works.")
@click.option("--seed", type=int, default=0, metavar="N", help="First seed (default 0).")
@click.option("--seeds", type=int, default=1, metavar="N", help="How many seeds (default 1).")
@output_options
def experiment(
    name: str,
    file: str | None,
    *,
    eval: tuple[str, ...],
    out: str,
    domain: str,
    settings: tuple[str, ...],
    quick: bool,
    seed: int,
    seeds: int,
    as_json: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Run experiment NAME (on checkpoint FILE): sizes, iso-auc, collisions, weight-table, domains, epochs, cache,
    latency or equal-bytes. Goes on where it was interrupted.
    """
    from memrec_convert.lab.experiments import find_experiment

    found = find_experiment(name)
    from memrec_convert.lab.experiments.laboratory import Lab
    from memrec_convert.lab.experiments.runner import run_experiment

    if not all(part.isalnum() or part in "-_" for part in domain):
        raise OptionError(f"the domain {domain!r} names files: give letters, digits, - and _.")
    choices = cast("InputChoices", list_given(options))
    lab = Lab(
        as_source(file) if file else None, choices, list(eval) or None, quick=quick, domain=domain, folder=Path(out)
    )
    with Progress(quiet=quiet) as progress:
        result = run_experiment(found, lab, out, settings=settings, seed=seed, seeds=seeds, progress=progress)

    def render(_: object, width: int) -> str:
        return "\n".join([*wrap(f"{name}: {result['finding']}.", width), *result["files"]])

    show(result, render, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("file")
@click.option("--budget", multiple=True, metavar="SIZE", help="Bytes of the whole file, as for convert; repeatable.")
@input_options
@plan_options
@training_options
@log_option("--eval", "The log to measure on; repeatable.", required=True)
@click.option("--only", multiple=True, metavar="WORD", help="Only methods with this in their name; repeatable.")
@click.option("--chart", metavar="FILE.svg", help="Draw AUC against bytes (needs the extra 'plots').")
@force_option
@output_options
def compare(file: str, *, chart: str | None, force: bool, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Compare all compression methods on checkpoint FILE at the same size."""
    from memrec_convert.lab.chart import draw_comparison
    from memrec_convert.lab.compare import compare as run
    from memrec_convert.lab.rendering import render_comparison

    show_charted(
        lambda progress: run(file, progress=progress, **list_given(options)),
        draw_comparison,
        render_comparison,
        chart=chart,
        force=force,
        as_json=as_json,
        quiet=quiet,
    )
