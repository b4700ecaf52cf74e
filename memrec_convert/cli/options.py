"""What several commands read a log with: the options, and how their texts become values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., None])


def read_columns(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str] | None:
    """NAME=COLUMN pairs as a mapping; BadParameter for anything else."""
    columns = {}
    for pair in pairs:
        name, separator, column = pair.partition("=")
        if not separator or not name or not column:
            raise click.BadParameter(f"{pair!r} is no NAME=COLUMN, such as emb_l.0=C1")
        columns[name] = column
    return columns or None


def read_assumed(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    """NAME=VALUE texts as a mapping; BadParameter for anything else, and for one name with two values."""
    assumed: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise click.BadParameter(f"{text!r} is no NAME=VALUE, such as pairs=upper")
        if assumed.setdefault(name, value) != value:
            raise click.BadParameter(f"{name} is given both as {assumed[name]!r} and as {value!r}")
    return assumed or None


def read_sizes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    """Whole numbers with commas between them; BadParameter for anything else."""
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is no list of whole numbers, such as 50,30,1000")
    return [int(part) for part in parts]


dense_transform_option = click.option(
    "--dense-transform",
    type=click.Choice(["log1p", "log(x+3)", "identity"]),
    help="What training did to dense values (default log1p).",
)

READING_OPTIONS = [
    click.option(
        "--columns",
        multiple=True,
        metavar="NAME=COLUMN",
        callback=read_columns,
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
        "--assume",
        multiple=True,
        metavar="NAME=VALUE",
        callback=read_assumed,
        help="State a fact that the file leaves open, such as pairs=upper; repeatable.",
    ),
    click.option(
        "--field-sizes",
        metavar="N,N,...",
        callback=read_sizes,
        help="Ids of each field of a joint table (pytorch-fm), in order.",
    ),
]
"""Which columns and rows a log means, and what a checkpoint does not say itself."""

RUNNING_OPTIONS = [
    click.option("--batch-size", type=int, metavar="N", help="Samples per batch (default 4096)."),
    click.option("--threads", type=int, metavar="N", help="Threads (default: all cores)."),
]


def log_options(command: Command) -> Command:
    """Adds the options of a log and of the run over it."""
    return reading_options(_add(command, RUNNING_OPTIONS))


def reading_options(command: Command) -> Command:
    """Adds the options of a log alone."""
    return _add(command, READING_OPTIONS)


def _add(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


PLAN_OPTIONS = [
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


def plan_options(command: Command) -> Command:
    """Adds the options that plans depend on."""
    for option in reversed(PLAN_OPTIONS):
        command = option(command)
    return command


def group_option(command: Command) -> Command:
    """Adds the option that names the evaluation log's groups."""
    return click.option(
        "--group", metavar="COLUMN", help="Column of --eval that says which rows belong together, such as the user's."
    )(command)


def output_options(command: Command) -> Command:
    """Adds the options of what is shown."""
    command = click.option("--quiet", "-q", is_flag=True, help="No progress and no report.")(command)
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")(
        command
    )


def unpack_logs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Repeatable log options as lists, those that were not given as None."""
    return {name: (list(value) or None) if name in ("data", "val") else value for name, value in options.items()}
