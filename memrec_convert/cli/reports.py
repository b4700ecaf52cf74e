"""The command `report`: a report of before, on the terminal or as a page."""

from __future__ import annotations

from typing import Any

import click

from memrec_convert.cli.console import show
from memrec_convert.cli.options import force_option, output_options


@click.command()
@click.argument("file")
@click.option("--html", metavar="FILE", help="Write it as one HTML page with charts, which loads nothing.")
@click.option("--compare-json", metavar="FILE", help="Add the output of compare --json to the page.")
@click.option("--bench-json", metavar="FILE", help="Add the output of bench --json to the page.")
@click.option("--full", is_flag=True, help="Print the whole report, not one screen of it.")
@force_option
@output_options
def report(file: str, *, full: bool, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Show a conversion's report FILE (.report.json), and write it as an HTML page with --html."""
    from memrec_convert.conversion.report import show_report
    from memrec_convert.report import render_summary, render_terminal, suggest_step

    found = show_report(file, **options)

    def render(_: object, width: int) -> str:
        step = suggest_step(found, file=file, paged=options["html"] is not None)
        return render_terminal(found, width) if full else render_summary(found, step, width)

    show(found.to_json(), render, as_json=as_json, quiet=quiet)
