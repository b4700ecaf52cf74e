"""The command line: thin calls of the library's verbs. The only module that prints, draws progress or exits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from memrec_convert import __version__
from memrec_convert.errors import MemrecError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., None])


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


def _read_columns(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str] | None:
    columns = {}
    for pair in pairs:
        name, separator, column = pair.partition("=")
        if not separator or not name or not column:
            raise click.BadParameter(f"{pair!r} is no NAME=COLUMN, such as emb_l.0=C1")
        columns[name] = column
    return columns or None


def _read_sizes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is no list of whole numbers, such as 50,30,1000")
    return [int(part) for part in parts]


_LOG_OPTIONS = [
    click.option(
        "--columns",
        multiple=True,
        metavar="NAME=COLUMN",
        callback=_read_columns,
        help="Log column of a table, dense input (I1, ...) or label; repeatable.",
    ),
    click.option(
        "--oov",
        type=click.Choice(["error", "clip", "hash", "zero"]),
        help="Ids beyond their table: refuse (default), nearest, modulo, zero vector.",
    ),
    click.option("--id-map", metavar="FILE", help="Tokens of a raw Criteo log to rows."),
    click.option("--modulus", type=int, metavar="N", help="Rows of a raw Criteo log are int(token, 16) mod N."),
    click.option(
        "--pairs",
        type=click.Choice(["lower", "upper"]),
        help="Order of the interaction's pairs, where the layout's default is wrong.",
    ),
    click.option(
        "--qr-operation",
        type=click.Choice(["mult", "add", "concat"]),
        help="What joins the rows of quotient-remainder tables (default mult).",
    ),
    click.option(
        "--field-sizes",
        metavar="N,N,...",
        callback=_read_sizes,
        help="Ids of each field of a joint table (pytorch-fm), in order.",
    ),
    click.option("--batch-size", type=int, metavar="N", help="Samples per batch (default 4096)."),
    click.option("--threads", type=int, metavar="N", help="Threads (default: all cores)."),
]

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
        type=click.Choice(["auto", "memrec", "codes", "int8"]),
        help="auto (default): what costs least; memrec: the published form; codes: no stored rows; int8: rows only.",
    ),
    click.option(
        "--weights",
        type=click.Choice(["auto", "log", "optimizer", "displacement", "uniform"]),
        help="How rows are weighted (default auto: log, else optimizer state, else displacement).",
    ),
    click.option("--dense", type=click.Choice(["fp32", "bf16"]), help="Precision of the stored dense part (fp32)."),
    click.option(
        "--dense-transform",
        type=click.Choice(["log1p", "log(x+3)", "identity"]),
        help="What training did to dense values (default log1p).",
    ),
    click.option(
        "--allow-nonfinite", is_flag=True, default=None, help="Read rows with NaN or infinite values as zeros."
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of everything random (default 0)."),
]


def _log_options(command: Command) -> Command:
    for option in reversed(_LOG_OPTIONS):
        command = option(command)
    return command


def _plan_options(command: Command) -> Command:
    for option in reversed(_PLAN_OPTIONS):
        command = option(command)
    return command


def _output_options(command: Command) -> Command:
    command = click.option("--quiet", "-q", is_flag=True, help="No progress and no report.")(command)
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")(
        command
    )


@cli.command()
@click.argument("file")
@_plan_options
@_log_options
@click.option(
    "--eval", "evaluation", multiple=True, metavar="LOG", help="Test log: measures the result, and nothing else."
)
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
    type=click.Choice(["soft", "labels"]),
    help="Fine-tune towards the original's logits (default) or the labels.",
)
@click.option("--train-dense", is_flag=True, default=None, help="Fine-tune the dense part too.")
@click.option("--force", is_flag=True, help="Replace an existing artifact.")
@_output_options
def convert(file: str, *, evaluation: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Convert checkpoint FILE and write artifact, report (JSON) and model card."""
    from memrec_convert.conversion.files import convert as run
    from memrec_convert.report import render_terminal

    with _progress(quiet=quiet) as progress:
        report = run(file, eval=evaluation or None, progress=progress, **_unpack_logs(options))
    if as_json:
        _print_json(report.to_json())
    elif not quiet:
        click.echo(render_terminal(report, _width()))


@cli.command()
@click.argument("file")
@_plan_options
@_log_options
@click.option("--curve", is_flag=True, help="Show the predicted AUC drop over many budgets too.")
@_output_options
def plan(file: str, *, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Show the plan for checkpoint FILE per table: forms, bytes, what lost and why. Writes nothing."""
    from memrec_convert.conversion.files import plan as run
    from memrec_convert.report import render_plan

    with _progress(quiet=quiet) as progress:
        found = run(file, progress=progress, **_unpack_logs(options))
    if as_json:
        _print_json(found)
    elif not quiet:
        click.echo(render_plan(found, _width()))


@cli.command()
@click.argument("file")
@_output_options
def inspect(file: str, *, as_json: bool, quiet: bool) -> None:
    """Show what checkpoint FILE holds: tables, dense part, layout, optimizer state. Reads headers only."""
    from memrec_convert.checkpoint.inspection import inspect as run
    from memrec_convert.report.terminal import render_inspection

    found = run(file)
    if as_json:
        _print_json(found)
    elif not quiet:
        click.echo(render_inspection(found, _width()))


@cli.command()
@click.argument("file")
@click.option(
    "--eval", "evaluation", multiple=True, required=True, metavar="LOG", help="The log to measure on; repeatable."
)
@click.option(
    "--against", metavar="CHECKPOINT", help="Measure the original on the same rows, with the paired difference."
)
@click.option("--scores", metavar="FILE.npy", help="Write the logits.")
@click.option("--force", is_flag=True, help="Replace an existing file of scores.")
@_log_options
@_output_options
def evaluate(file: str, *, evaluation: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Measure artifact FILE (or a checkpoint) on a log."""
    from memrec_convert.conversion.judging import evaluate as run
    from memrec_convert.report import render_evaluation

    given = {name: value for name, value in options.items() if value is not None}
    found = run(file, evaluation, **given)
    if as_json:
        _print_json(found)
    elif not quiet:
        click.echo(render_evaluation(found, _width()))


@cli.command()
@click.argument("file")
@_plan_options
@_log_options
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
    type=click.Choice(["soft", "labels"]),
    help="Fine-tune towards the original's logits (default) or the labels.",
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
    with _progress(quiet=quiet) as progress:
        found = run(
            file, budgets.split(",") if budgets is not None else budget, eval=evaluation, methods=methods or None,
            progress=progress, **_unpack_logs(options),
        )  # fmt: skip
    if chart is not None:
        draw_chart(found, chart, force=force)
    if as_json:
        _print_json(found)
    elif not quiet:
        click.echo(render_comparison(found, _width()))


@cli.command()
@click.argument("file")
@click.option("--against", metavar="CHECKPOINT", help="Decode every row and compare it with the source's.")
@_output_options
def verify(file: str, *, against: str | None, as_json: bool, quiet: bool) -> None:
    """Check artifact FILE: size, digests, shapes, indices."""
    from memrec_convert.artifact.verification import verify as run

    found = run(file, against=against)
    if as_json:
        _print_json(found)
    elif not quiet:
        click.echo(
            f"{found['path']}: sound. {found['bytes']} bytes, {found['tensors']} tensors, {found['tables']} tables."
        )
        for table in found["against"]["tables"] if found["against"] else ():
            click.echo(f"  {table['name']}: relative error of its rows {table['relative_error']:.4f}")


def _unpack_logs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Repeatable log options as lists, those that were not given as None."""
    return {name: (list(value) or None) if name in ("data", "val") else value for name, value in options.items()}


def _print_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, indent=1))


def _width() -> int:
    import shutil

    return min(100, shutil.get_terminal_size((80, 24)).columns) if sys.stdout.isatty() else 80


class _progress:
    """Progress on stderr: a bar per stage on a terminal, a line per stage elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.stage = ""
        self.bar: Any = None

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.quiet:
            return
        if stage != self.stage:
            self._begin(stage, total)
        if self.bar is not None and done > self.bar.n:
            self.bar.update(done - self.bar.n)

    def _begin(self, stage: str, total: int) -> None:
        self.stage = stage
        if not sys.stderr.isatty():
            click.echo(f"{stage} ...", err=True)
            return
        from tqdm import tqdm

        if self.bar is not None:
            self.bar.close()
        self.bar = tqdm(total=total, desc=stage, file=sys.stderr, leave=False, ncols=80)
