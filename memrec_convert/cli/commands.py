"""The command line: thin calls of the library's verbs. This package alone prints, draws progress and exits."""

from __future__ import annotations

import errno
import gc
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import click

from memrec_convert.cli.conversion import convert, plan
from memrec_convert.cli.files import apply, diff, evaluate, export, inspect, verify
from memrec_convert.cli.reports import report
from memrec_convert.cli.speed import bench, doctor
from memrec_convert.cli.study import compare, experiment
from memrec_convert.errors import MemrecError
from memrec_convert.version import __version__

EXIT_BROKEN_PIPE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_OBJECTS = 50_000
"""Objects made between two looks for garbage: importing torch makes some hundred thousand that all stay."""


class DefaultToConvert(click.Group):
    """A group whose first argument may be a file: then the command is `convert`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `convert` in front of anything that names no command; UsageError for a command that is mistyped."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            near = get_close_matches(args[0], self.commands, n=1)
            if near and not set(args[0]) & set("./\\") and not Path(args[0]).exists():
                raise click.UsageError(f"there is no command or file {args[0]!r} (did you mean {near[0]}?)", ctx)
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


for command in (
    convert,
    plan,
    inspect,
    evaluate,
    verify,
    export,
    diff,
    apply,
    compare,
    experiment,
    bench,
    doctor,
    report,
):
    cli.add_command(command)


def main() -> None:
    """The command line: errors that a user can cause are one sentence on stderr and exit code 2; Ctrl-C is 130."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Interrupted; no files were left behind.", err=True)
        code = EXIT_INTERRUPTED
    except click.UsageError as error:
        code = _refuse_usage(error)
    except MemrecError as error:
        click.echo(f"{type(error).__name__.removesuffix('Error')}: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    sys.exit(code if isinstance(code, int) else 0)


def run() -> NoReturn:
    """`main` in a process of its own, which then ends at once, all being tidied up.

    Python's own end would take apart all that was imported, for a fifth of a second, and wait for threads; torch's
    would wait for ranks that are lost.
    """
    code: object = 0
    gc.set_threshold(_OBJECTS)
    try:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = code or EXIT_BROKEN_PIPE
    except OSError as error:
        if not _is_unwritten(error):
            raise
        code = f"Output: it could not be written ({error.strerror}); send it elsewhere, or make room."
    if not isinstance(code, int):  # a caller's own module may end with words too
        click.echo(code, err=True)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # none where it was closed before
            stream.flush()
    os._exit(code)


def _is_unwritten(error: OSError) -> bool:
    """Whether what failed is a write to an open stream, as that of a full device: errors of files name them."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and error.filename is None


def _refuse_usage(error: click.UsageError) -> int:
    """Says in one line what is wrong with the command; without any argument it is the help."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 and later
        error.show()
        return error.exit_code
    command = error.ctx.info_name if error.ctx is not None and error.ctx.parent is not None else None
    message = " ".join(error.format_message().split()).rstrip(".")
    click.echo(f"Usage: {message}; see memrec-convert {f'{command} ' if command else ''}--help.", err=True)
    return EXIT_BAD_INPUT
