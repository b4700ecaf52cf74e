"""What commands share on the terminal: JSON on stdout, its width, and progress on stderr."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from memrec_convert.units import format_bytes

LEAST_BYTES = 10_000_000
"""A total of this much or more counts bytes: nothing else comes in such numbers."""

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def importing() -> Iterator[None]:
    """For imports of all that a long command needs: no garbage is looked for among what they make, then or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def show(
    values: Mapping[str, Any], render: Callable[[Mapping[str, Any], int], str], *, as_json: bool, quiet: bool
) -> None:
    """A result on stdout: as one JSON object, or as `render` writes it within so many columns, or not at all."""
    if as_json:
        click.echo(json.dumps(values, indent=1))
    elif not quiet:
        click.echo(render(values, text_width()))


def show_charted(
    measure: Callable[[Callable[[str, int, int], None]], Any],
    draw: Callable[..., None],
    render: Callable[[Mapping[str, Any], int], str],
    *,
    chart: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Shows what `measure` finds, told of its progress, and draws it into `chart`; that file is checked beforehand."""
    if chart is not None:
        from memrec_convert.lab.drawing import check_chart

        check_chart(chart, force=force)
    with Progress(quiet=quiet) as progress:
        values = measure(progress).to_json()
    if chart is not None:
        draw(values, chart, force=force)
    show(values, render, as_json=as_json, quiet=quiet)


def text_width() -> int:
    """Columns for text: the terminal's, at most 100; 80 where stdout is none."""
    return (
        min(100, shutil.get_terminal_size((80, 24)).columns) if sys.stdout is not None and sys.stdout.isatty() else 80
    )


class Progress:
    """Progress on stderr: a bar per stage on a terminal, a line per stage elsewhere, nothing when quiet.

    Stages that count bytes of rows (LEAST_BYTES in all, or more) show them, bytes per second, and what time is left;
    off a terminal every half minute.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.stage = ""
        self.bar: Any = None
        self.started = self.told = 0.0

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
        elif self.bar is None and total >= LEAST_BYTES:
            self._tell_bytes(done, total)

    def _tell_bytes(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.told < SECONDS_BETWEEN_LINES or not 0 < done < total:
            return
        self.told = now
        rate = done / (now - self.started)
        left = (total - done) / rate
        click.echo(
            f"{self.stage}: {format_bytes(done)} of {format_bytes(total)}, {rate / 1e6:.0f} MB/s, "
            f"about {left / 60:.0f} min left",
            err=True,
        )

    def _begin(self, stage: str, total: int) -> None:
        self.stage, self.started, self.told = stage, time.monotonic(), time.monotonic()
        if sys.stderr is None or not sys.stderr.isatty():
            click.echo(f"{stage} ...", err=True)
            return
        from tqdm import tqdm

        if self.bar is not None:
            self.bar.close()
        many = total >= LEAST_BYTES
        self.bar = tqdm(
            total=total, desc=stage, file=sys.stderr, leave=False, ncols=80, unit="B" if many else "it", unit_scale=many
        )
