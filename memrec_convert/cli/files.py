"""The commands on files as they are: `inspect` a checkpoint, `evaluate` and `verify` an artifact."""

from __future__ import annotations

from typing import Any

import click

from memrec_convert.cli.console import Progress, print_json, text_width
from memrec_convert.cli.options import dense_transform_option, group_option, log_options, output_options


@click.command()
@click.argument("file")
@click.option("--scan", is_flag=True, help="Read the rows too: zero, constant, duplicate, non-finite rows, norms.")
@output_options
def inspect(file: str, *, scan: bool, as_json: bool, quiet: bool) -> None:
    """Show what checkpoint FILE holds: tables, dense part, layout, optimizer state. Reads headers only."""
    from memrec_convert.checkpoint.inspect import inspect as run
    from memrec_convert.report.terminal import render_inspection, render_scan

    with Progress(quiet=quiet) as progress:
        found = run(file, scan=scan, progress=progress)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_inspection(found, text_width()))
        if scan:
            click.echo("\n" + render_scan(found, text_width()))


@click.command()
@click.argument("file")
@click.option(
    "--eval", "evaluation", multiple=True, required=True, metavar="LOG", help="The log to measure on; repeatable."
)
@click.option(
    "--against", metavar="CHECKPOINT", help="Measure the original on the same rows, with the paired difference."
)
@dense_transform_option
@group_option
@click.option("--ablation", is_flag=True, help="With --against: measure each table's compression alone.")
@click.option("--scores", metavar="FILE.npy", help="Write the logits.")
@click.option("--force", is_flag=True, help="Replace an existing file of scores.")
@log_options
@output_options
def evaluate(file: str, *, evaluation: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Measure artifact FILE (or a checkpoint) on a log."""
    from memrec_convert.conversion.evaluate import evaluate as run
    from memrec_convert.report import render_evaluation

    given = {name: value for name, value in options.items() if value is not None}
    found = run(file, evaluation, **given)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_evaluation(found, text_width()))


@click.command()
@click.argument("file")
@click.option("--against", metavar="CHECKPOINT", help="Decode every row and compare it with the source's.")
@output_options
def verify(file: str, *, against: str | None, as_json: bool, quiet: bool) -> None:
    """Check artifact FILE: size, digests, shapes, indices."""
    from memrec_convert.conversion.verify import verify as run

    found = run(file, against=against)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(
            f"{found['path']}: sound. {found['bytes']} bytes, {found['tensors']} tensors, {found['tables']} tables."
        )
        for table in found["against"]["tables"] if found["against"] else ():
            click.echo(f"  {table['name']}: relative error of its rows {table['relative_error']:.4f}")
