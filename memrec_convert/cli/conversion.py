"""The commands that convert: `convert`, and `plan`, which says what it would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from memrec_convert.cli.console import Progress, print_json, text_width
from memrec_convert.cli.options import group_option, log_options, output_options, plan_options, unpack_logs
from memrec_convert.cli.study import plan_from_shape

if TYPE_CHECKING:
    from memrec_convert.report import Report


@click.command()
@click.argument("file")
@plan_options
@log_options
@click.option(
    "--eval", "evaluation", multiple=True, metavar="LOG", help="Test log: measures the result, and nothing else."
)
@click.option(
    "--pooled", metavar="NAME=N,...", help="Of sample-pooled: D, K, dw, kw, l; start=warm|balanced|released; optimizer."
)
@click.option(
    "--tables-only", is_flag=True, default=None, help="Convert the tables alone; their network need not be known."
)
@click.option("--model", metavar="MODULE:CLASS", help="The network's class, imported from your own code.")
@click.option("--model-args", metavar="FILE", help="YAML: the class's arguments, and how it reads a log.")
@click.option("--work", metavar="DIR", help="Keep fits and codes here, for another budget or after an interruption.")
@click.option("--out", metavar="FILE", help="The artifact (default: FILE with .safetensors).")
@click.option(
    "--max-auc-drop",
    type=float,
    metavar="DROP",
    help="The smallest file whose AUC drop on --val is within DROP, such as 0.001; a budget is then a cap.",
)
@click.option(
    "--fail-if-worse-than",
    type=float,
    metavar="DROP",
    help="Exit 3 and write nothing where the AUC drops more than DROP on --val (else on --eval).",
)
@click.option("--epochs", type=int, metavar="N", help="Epochs of fine-tuning, given --data and --val (default 1).")
@click.option(
    "--targets",
    type=click.Choice(["mixed", "soft", "labels"]),
    help="Fine-tune towards the original's logits (soft), the labels, or 80 % and 20 % of them (mixed, default).",
)
@click.option("--train-dense", is_flag=True, default=None, help="Fine-tune the dense part too.")
@click.option("--lr-search", is_flag=True, default=None, help="Choose learning rates on --val, after short trials.")
@group_option
@click.option("--ablation", is_flag=True, help="Measure what each table's compression alone costs.")
@click.option("--control", is_flag=True, help="Fine-tune the original too, to tell training from compression.")
@click.option("--report-html", metavar="FILE", help="Write the report as one HTML page too, with the rate curve.")
@click.option("--compare-json", metavar="FILE", help="Into that page: what compare --json printed.")
@click.option("--force", is_flag=True, help="Replace an existing artifact.")
@output_options
def convert(file: str, *, evaluation: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Convert checkpoint FILE and write artifact, report (JSON) and model card."""
    from memrec_convert.report import render_terminal

    run = find_converter(options)
    own = ("model", "model_args")  # the converter that trains anew has no such choice
    options = {name: value for name, value in options.items() if name not in own or value is not None}

    with Progress(quiet=quiet) as progress:
        report = run(file, eval=evaluation or None, progress=progress, **unpack_logs(options))
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        click.echo(render_terminal(report, text_width()))


@click.command()
@click.argument("file", required=False)
@plan_options
@log_options
@click.option(
    "--tables-only", is_flag=True, default=None, help="Convert the tables alone; their network need not be known."
)
@click.option("--work", metavar="DIR", help="Keep fits and codes here, for another budget or after an interruption.")
@click.option("--curve", is_flag=True, help="Show the predicted AUC drop over many budgets too.")
@click.option("--shape", metavar="NAME", help="Plan without a checkpoint: criteo-tb, criteo-kaggle, avazu, or a file.")
@click.option("--zipf", type=float, metavar="S", help="With --shape: the id of rank r is read as r**-S (default 1.05).")
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
    """Show the plan for checkpoint FILE per table: forms, bytes, what lost and why. Writes nothing."""
    if (file is None) == (shape is None):
        raise click.UsageError("give either a checkpoint FILE or --shape" + (", not both" if file else ""))
    if file is None:
        assert shape is not None
        plan_from_shape(shape, zipf, options, as_json=as_json, quiet=quiet)
        return
    if zipf is not None:
        raise click.UsageError("--zipf goes with --shape alone: a checkpoint has a log or weights of its own")
    from memrec_convert.conversion.plan import plan as run
    from memrec_convert.report import render_plan

    with Progress(quiet=quiet) as progress:
        found = run(file, progress=progress, **unpack_logs(options))
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_plan(found, text_width()))


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
