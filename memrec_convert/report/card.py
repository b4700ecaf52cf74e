"""The report as a model card in Markdown, to lie beside the artifact."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath

from jinja2 import Template
from markupsafe import Markup

from memrec_convert.report import figures, tables
from memrec_convert.report.report import Report
from memrec_convert.report.templating import make_environment
from memrec_convert.report.text import make_plain

_SPECIAL = re.compile(r"[\\`*_{}\[\]<#|~&$]|:(?=//)")
_LEADING = re.compile(r"^((?=[-+=>])|[0-9]{1,9}(?=[.)](?:\s|$)))")


def render_card(report: Report) -> str:
    """A model card: what the file is, what the conversion cost, what it was made from, how to load it."""
    values, name = report.to_json(), PurePath(report.artifact.path).name
    return _read_template().render(
        name=name,
        # A Python string whatever the name holds, so that nothing in it ends the string or the block.
        literal=ascii(name),
        headline=figures.describe_conversion(values),
        values=values,
        words=figures,
        tables=tables,
    )


def escape_markdown(text: object) -> str:
    """`text` on one line, so that Markdown shows it as it is: names come out of files that anybody may have written."""
    return _LEADING.sub(r"\1\\", _escape_within(text))


def _escape_within(text: object) -> Markup:
    """As `escape_markdown`, for the middle of a line, where '-' starts no list and a figure stays a figure."""
    return Markup(_SPECIAL.sub(r"\\\g<0>", " ".join(make_plain(text).split())))


@cache
def _read_template() -> Template:
    environment = make_environment(_escape_within, line=lambda text: Markup(escape_markdown(text)), markdown=Markup)
    return environment.get_template("card.md")
