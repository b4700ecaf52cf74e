"""The command `report`: a report of before, on the terminal or as a page."""

from __future__ import annotations

from typing import Any

import click

from memrec_convert.cli.console import show
from memrec_convert.cli.options import force_option, output_options


@click.command()
@click.argument("file")
@click.option("--html", metavar="FILE", help="Write it as one HTML page with charts, which loads nothing.")
@click.option("--compare-json", metavar="FILE", help="Into the page: what compare --json printed.")
@click.option("--bench-json", metavar="FILE", help="Into the page: what bench --json printed.")
@force_option
@output_options
def report(file: str, *, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Show the report FILE (.report.json) that a conversion wrote, and make a page of it."""
    from memrec_convert.conversion.report import show_report
    from memrec_convert.report import render_terminal

    found = show_report(file, **options)
    show(found.to_json(), lambda _, width: render_terminal(found, width), as_json=as_json, quiet=quiet)
