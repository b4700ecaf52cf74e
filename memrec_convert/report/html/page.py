"""A report as one HTML page that needs nothing else: no network, no files, no libraries."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from memrec_convert.report import figures, tables
from memrec_convert.report.html import beside, charts
from memrec_convert.report.html.given import Latency, RivalTable
from memrec_convert.report.html.markup import escape, format_number, format_percent, name_of, shorten_names
from memrec_convert.report.report import Report
from memrec_convert.report.templating import make_environment, read_text

MOST_ROWS = 400
"""Rows of one table of the page; all of them are in the JSON."""
LONGEST_NAME = 80
"""Columns of a name that heads a row; longer ones lose what they have in common."""


def render_html(report: Report, *, comparison: Sequence[RivalTable] = (), latency: Latency | None = None) -> str:
    """The page. `comparison` and `latency` are what `compare` and `bench` found, for sections that a report lacks."""
    page = _read_template().render(
        report=report,
        values=report.to_json(),
        name=PurePath(report.artifact.path).name,
        comparison=comparison,
        latency=latency,
        style=Markup(read_text("style.css")),
        script=Markup(read_text("script.js")),
    )
    return page.strip() + "\n"


@cache
def _read_template() -> Template:
    environment = make_environment(
        escape,
        name=name_of,
        pairs=_split_facts,
        trimmed=_trim,
        without=_leave_out,
        largest_first=_sort_slices,
        pixels=format_number,
        percent=format_percent,
        pairwise=pairwise,
        digest=_digest,
    )
    environment.globals.update(words=figures, tables=tables, charts=charts, beside=beside)
    return environment.get_template("page.html")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _trim(table: tables.Table) -> tables.Table:
    """The rows that a page has room for, with names in their first column that it has room for."""
    shown = table.rows[:MOST_ROWS]
    names = shorten_names([row[0] for row in shown], LONGEST_NAME)
    return replace(table, rows=[[name, *row[1:]] for name, row in zip(names, shown, strict=True)])


def _leave_out(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _sort_slices(slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(slices, key=lambda entry: -abs(entry["delta"] or 0.0))


def _split_facts(lines: Sequence[str]) -> list[tuple[str, str]]:
    """'name: what it is' as pairs, without the brackets that set a mapping within a mapping apart."""
    pairs = (line.partition(": ") for line in lines)
    return [(name, re.sub(r"\A\(([^(]*)\)\Z", r"\1", said)) for name, _, said in pairs]
