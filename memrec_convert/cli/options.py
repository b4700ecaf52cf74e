"""The options that several commands share, and how their texts become values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeVar

import click

from memrec_convert.choices import DensePrecision, Method, Oov, Targets, Weights, values_of

Command = TypeVar("Command", bound=Callable[..., Any])


def read_named(example: str) -> Callable[..., dict[str, str] | None]:
    """Reads NAME=VALUE texts as a mapping; BadParameter for anything else, and for one name with two values."""

    def read(_ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
        found: dict[str, str] = {}
        for text in given:
            name, separator, value = text.partition("=")
            if not (separator and name and value):
                raise click.BadParameter(f"{text!r} is no {param.metavar}, such as {example}")
            if found.setdefault(name, value) != value:
                raise click.BadParameter(f"{name} is given both as {found[name]!r} and as {value!r}")
        return found or None

    return read


def read_sizes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    """Whole numbers with commas between them; BadParameter for anything else."""
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is no list of whole numbers, such as 50,30,1000")
    return [int(part) for part in parts]


def take_one(_ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str | None:
    """The one path that was given; BadParameter for several, of which one alone would be read."""
    if len(given) > 1:
        raise click.BadParameter(f"{param.opts[0]} was given {len(given)} times; put the parts into one directory")
    return given[0] if given else None


def add(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator of several, in the order of the help."""
    return lambda command: reduce(lambda done, option: option(done), reversed(options), command)


def log_option(name: str, says: str, *, required: bool = False) -> Callable[[Command], Command]:
    """An option that takes logs; --eval is the argument `eval` of the verbs."""
    return click.option(name, multiple=True, required=required, metavar="LOG", help=says)


def choose(name: str, choice: object, says: str, *, required: bool = False) -> Callable[[Command], Command]:
    """An option that takes one of the values of a choice."""
    return click.option(name, type=click.Choice(values_of(choice)), required=required, help=says)


output_options = add(
    click.option("--json", "as_json", is_flag=True, help="Print only one JSON object on stdout."),
    click.option("--quiet", "-q", is_flag=True, help="No progress and no report."),
)
"""What is shown."""

reading_options = add(
    click.option(
        "--columns",
        multiple=True,
        metavar="NAME=COLUMN",
        callback=read_named("emb_l.0=C1"),
        help="Log column of a table, dense input (I1, ...) or label; repeatable.",
    ),
    choose("--oov", Oov, "Out-of-range ids: error (default), nearest row, id modulo rows, zero vector."),
    click.option(
        "--id-map", metavar="FILE", help="Map from tokens of a raw Criteo log to rows (.parquet, .npz, .json)."
    ),
    click.option("--modulus", type=int, metavar="N", help="Rows of a raw Criteo log are int(token, 16) mod N."),
    click.option(
        "--assume",
        multiple=True,
        metavar="NAME=VALUE",
        callback=read_named("pairs=upper"),
        help="State a fact that the checkpoint does not record, such as pairs=upper; repeatable.",
    ),
)
"""Which columns and rows a log means, and what a checkpoint does not say itself."""

running_options = add(
    click.option("--batch-size", type=int, metavar="N", help="Samples per batch (default 4096)."),
    click.option("--threads", type=int, metavar="N", help="Threads (default: all cores)."),
)

input_options = add(
    log_option("--data", "Training log: file, directory, glob or URL; repeatable."),
    log_option("--val", "Hold-out log: chooses between plans and stops fine-tuning."),
    click.option("--profile", metavar="FILE", help="Lookup profile (.npz): reused if it exists, else written."),
    click.option(
        "--counts",
        metavar="PATH",
        multiple=True,
        callback=take_one,
        help="Lookups counted elsewhere (parquet: table, id, count; file or directory), in place of counting --data.",
    ),
    click.option("--samples", type=int, metavar="N", help="With --counts: the rows of the log that was counted."),
    click.option("--recipe", metavar="FILE", help="Recipe: a YAML file or the name of a packaged one."),
    click.option("--allow-nonfinite", is_flag=True, default=None, help="Read NaN and infinite values as zeros."),
    reading_options,
    running_options,
)
"""What a conversion starts from."""

budget_option = click.option(
    "--budget",
    metavar="SIZE",
    help="Size of the whole file: 48MB, 46MiB, 600kB; 5% or 100x (share of tables, plus dense part and 20 kB); llc.",
)
seed_option = click.option("--seed", type=int, metavar="N", help="Random seed (default 0).")
work_option = click.option(
    "--work", metavar="DIR", help="Keep fits and codes in DIR to reuse them for other budgets or after an interruption."
)
tables_only_option = click.option(
    "--tables-only", is_flag=True, default=None, help="Convert only the tables; works for unknown networks."
)
group_option = click.option(
    "--group", metavar="COLUMN", help="Column that groups rows, such as the user id; adds GAUC."
)
force_option = click.option("--force", is_flag=True, help="Replace existing files.")

plan_options = add(
    click.option(
        "--threshold", metavar="SIZE", help="Never replace smaller tables: bytes, or 10000rows (default 4kB)."
    ),
    choose(
        "--method",
        Method,
        "auto (default): lowest loss; memrec: hashed tokens only; codes: residual codes, no stored rows; int8: hot "
        "rows only; sample-pooled: MEM-REC as released, retrained (convert only).",
    ),
    choose("--weights", Weights, "How rows are weighted (default auto: log, else optimizer state, else displacement)."),
    choose("--dense", DensePrecision, "Precision of the dense part, stored and computed (fp32)."),
    seed_option,
    work_option,
)
"""What plans depend on."""

training_options = add(
    click.option("--epochs", type=int, metavar="N", help="Epochs of fine-tuning, given --data and --val (default 1)."),
    choose(
        "--targets",
        Targets,
        "Targets of fine-tuning: the original's predictions (soft), the labels, or 65 % soft and 35 % labels (mixed).",
    ),
    click.option("--train-dense", is_flag=True, default=None, help="Fine-tune the dense part too."),
)
"""How a conversion is fine-tuned."""


def list_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, repeatable ones as lists."""
    given = {name: list(one) if isinstance(one, tuple) else one for name, one in options.items()}
    return {name: one for name, one in given.items() if one is not None and one != []}
