"""The command line: thin calls of the library's verbs. The only module that prints, draws progress or exits."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from memrec_convert import __version__
from memrec_convert.cli_bench import bench, doctor
from memrec_convert.cli_experiments import experiment, plan_from_shape
from memrec_convert.cli_options import Command, dense_transform_option, log_options
from memrec_convert.cli_report import report as show_report
from memrec_convert.console import Progress, print_json, text_width
from memrec_convert.errors import MemrecError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class DefaultToConvert(click.Group):
    """A group whose first argument may be a file: then the command is `convert`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `convert` in front of anything that names no command."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            args = ["convert", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultToConvert, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="memrec-convert")
def cli() -> None:
    """Convert a trained recommender checkpoint into one file within a byte budget.

    \b
    memrec-convert dlrm.pt --budget 48MB --data train.parquet \\
        --val val.parquet --eval test.parquet

    FILE without a command is `convert FILE`.
    """  # noqa: D301 - the escape is click's mark for a paragraph that keeps its lines


cli.add_command(experiment)
cli.add_command(bench)
cli.add_command(doctor)
cli.add_command(show_report)


def main() -> None:
    """Entry point: errors that a user can cause are one sentence on stderr and exit code 2; Ctrl-C is 130."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted; nothing was left behind.", err=True)
        code = EXIT_INTERRUPTED
    except click.UsageError as error:
        code = _refuse_usage(error)
    except MemrecError as error:
        click.echo(f"{type(error).__name__.removesuffix('Error')}: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_usage(error: click.UsageError) -> int:
    """Says in one line what is wrong with the command; without any argument it is the help."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 and later
        error.show()
        return error.exit_code
    command = error.ctx.info_name if error.ctx is not None and error.ctx.parent is not None else None
    message = " ".join(error.format_message().split()).rstrip(".")
    click.echo(f"Usage: {message}; see memrec-convert {f'{command} ' if command else ''}--help.", err=True)
    return EXIT_BAD_INPUT


_PLAN_OPTIONS = [
    click.option(
        "--budget",
        metavar="SIZE",
        help="Bytes of the whole file: 48MB, 46MiB, 600kB; 5% or 100x (of the tables, plus dense part and 20 kB); llc.",
    ),
    click.option("--data", multiple=True, metavar="LOG", help="Training log: file, directory or glob; repeatable."),
    click.option("--val", multiple=True, metavar="LOG", help="Hold-out log: chooses between plans, stops training."),
    click.option("--profile", metavar="FILE", help="Lookup profile (.npz): reused, or written if not there yet."),
    click.option("--recipe", metavar="FILE", help="Recipe: a YAML file or the name of a packaged one."),
    click.option("--threshold", metavar="SIZE", help="Smaller tables are never replaced: bytes, or 10000rows (4kB)."),
    click.option(
        "--method",
        type=click.Choice(["auto", "memrec", "codes", "int8", "sample-pooled"]),
        help="auto (default): what costs least; memrec: all hashed; codes: no stored rows; int8: rows only; "
        "sample-pooled: as released, trained anew (convert).",
    ),
    click.option(
        "--weights",
        type=click.Choice(["auto", "log", "optimizer", "displacement", "uniform"]),
        help="How rows are weighted (default auto: log, else optimizer state, else displacement).",
    ),
    click.option("--dense", type=click.Choice(["fp32", "bf16"]), help="Precision of the stored dense part (fp32)."),
    dense_transform_option,
    click.option(
        "--allow-nonfinite", is_flag=True, default=None, help="Read rows with NaN or infinite values as zeros."
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of everything random (default 0)."),
]


def _plan_options(command: Command) -> Command:
    for option in reversed(_PLAN_OPTIONS):
        command = option(command)
    return command


def _group_option(command: Command) -> Command:
    return click.option(
        "--group", metavar="COLUMN", help="Column of --eval that says which rows belong together, such as the user's."
    )(command)


def _output_options(command: Command) -> Command:
    command = click.option("--quiet", "-q", is_flag=True, help="No progress and no report.")(command)
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")(
        command
    )


@cli.command()
@click.argument("file")
@_plan_options
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
@_group_option
@click.option("--ablation", is_flag=True, help="Measure what each table's compression alone costs.")
@click.option("--control", is_flag=True, help="Fine-tune the original too, to tell training from compression.")
@click.option("--report-html", metavar="FILE", help="Write the report as one HTML page too, with the rate curve.")
@click.option("--compare-json", metavar="FILE", help="Into that page: what compare --json printed.")
@click.option("--force", is_flag=True, help="Replace an existing artifact.")
@_output_options
def convert(file: str, *, evaluation: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Convert checkpoint FILE and write artifact, report (JSON) and model card."""
    from memrec_convert.conversion.files import convert as run
    from memrec_convert.report import render_terminal

    with Progress(quiet=quiet) as progress:
        report = run(file, eval=evaluation or None, progress=progress, **_unpack_logs(options))
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        click.echo(render_terminal(report, text_width()))


@cli.command()
@click.argument("file", required=False)
@_plan_options
@log_options
@click.option(
    "--tables-only", is_flag=True, default=None, help="Convert the tables alone; their network need not be known."
)
@click.option("--work", metavar="DIR", help="Keep fits and codes here, for another budget or after an interruption.")
@click.option("--curve", is_flag=True, help="Show the predicted AUC drop over many budgets too.")
@click.option("--shape", metavar="NAME", help="Plan without a checkpoint: criteo-tb, criteo-kaggle, avazu, or a file.")
@click.option("--zipf", type=float, metavar="S", help="With --shape: the id of rank r is read as r**-S (default 1.05).")
@_output_options
def plan(
    file: str | None, *, shape: str | None, zipf: float | None, as_json: bool, quiet: bool, **options: Any  # noqa: ANN401
) -> None:  # fmt: skip
    """Show the plan for checkpoint FILE per table: forms, bytes, what lost and why. Writes nothing."""
    if (file is None) == (shape is None):
        raise click.UsageError("give either a checkpoint FILE or --shape" + (", not both" if file else ""))
    if file is None:
        assert shape is not None
        plan_from_shape(shape, zipf, options, as_json=as_json, quiet=quiet)
        return
    if zipf is not None:
        raise click.UsageError("--zipf goes with --shape alone: a checkpoint has a log or weights of its own")
    from memrec_convert.conversion.files import plan as run
    from memrec_convert.report import render_plan

    with Progress(quiet=quiet) as progress:
        found = run(file, progress=progress, **_unpack_logs(options))
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_plan(found, text_width()))


@cli.command()
@click.argument("file")
@click.option("--scan", is_flag=True, help="Read the rows too: zero, constant, duplicate, non-finite rows, norms.")
@_output_options
def inspect(file: str, *, scan: bool, as_json: bool, quiet: bool) -> None:
    """Show what checkpoint FILE holds: tables, dense part, layout, optimizer state. Reads headers only."""
    from memrec_convert.checkpoint.inspection import inspect as run
    from memrec_convert.report.scan import render_scan
    from memrec_convert.report.terminal import render_inspection

    with Progress(quiet=quiet) as progress:
        found = run(file, scan=scan, progress=progress)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_inspection(found, text_width()))
        if scan:
            click.echo("\n" + render_scan(found, text_width()))


@cli.command()
@click.argument("file")
@click.option(
    "--eval", "evaluation", multiple=True, required=True, metavar="LOG", help="The log to measure on; repeatable."
)
@click.option(
    "--against", metavar="CHECKPOINT", help="Measure the original on the same rows, with the paired difference."
)
@dense_transform_option
@_group_option
@click.option("--ablation", is_flag=True, help="With --against: measure each table's compression alone.")
@click.option("--scores", metavar="FILE.npy", help="Write the logits.")
@click.option("--force", is_flag=True, help="Replace an existing file of scores.")
@log_options
@_output_options
def evaluate(file: str, *, evaluation: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Measure artifact FILE (or a checkpoint) on a log."""
    from memrec_convert.conversion.judging import evaluate as run
    from memrec_convert.report import render_evaluation

    given = {name: value for name, value in options.items() if value is not None}
    found = run(file, evaluation, **given)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_evaluation(found, text_width()))


@cli.command()
@click.argument("file")
@_plan_options
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
@_output_options
def compare(
    file: str, *, evaluation: tuple[str, ...], budget: str | None, budgets: str | None, methods: tuple[str, ...],
    chart: str | None, force: bool, as_json: bool, quiet: bool, **options: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Compare what else checkpoint FILE could be at the same bytes: every method, one table."""
    from memrec_convert.benchmarking.chart import check_chart, draw_chart
    from memrec_convert.benchmarking.compare import compare as run
    from memrec_convert.benchmarking.rendering import render_comparison

    if budget is not None and budgets is not None:
        raise click.UsageError("--budget and --budgets exclude each other: give one of them")
    if chart is not None:
        check_chart(chart, force=force)
    with Progress(quiet=quiet) as progress:
        found = run(
            file, budgets.split(",") if budgets is not None else budget, eval=evaluation, methods=methods or None,
            progress=progress, **_unpack_logs(options),
        )  # fmt: skip
    if chart is not None:
        draw_chart(found, chart, force=force)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(render_comparison(found, text_width()))


@cli.command()
@click.argument("file")
@click.option("--against", metavar="CHECKPOINT", help="Decode every row and compare it with the source's.")
@_output_options
def verify(file: str, *, against: str | None, as_json: bool, quiet: bool) -> None:
    """Check artifact FILE: size, digests, shapes, indices."""
    from memrec_convert.artifact.verification import verify as run

    found = run(file, against=against)
    if as_json:
        print_json(found)
    elif not quiet:
        click.echo(
            f"{found['path']}: sound. {found['bytes']} bytes, {found['tensors']} tensors, {found['tables']} tables."
        )
        for table in found["against"]["tables"] if found["against"] else ():
            click.echo(f"  {table['name']}: relative error of its rows {table['relative_error']:.4f}")


def _unpack_logs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Repeatable log options as lists, those that were not given as None."""
    return {name: (list(value) or None) if name in ("data", "val") else value for name, value in options.items()}
