"""A report as one HTML page that needs nothing else: no network, no files, no libraries."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from memrec_convert.report.figures import describe_conversion
from memrec_convert.report.html.about import show_headline, show_origin, show_plan, show_training, show_warnings
from memrec_convert.report.html.beside import show_curve, show_latency, show_rivals
from memrec_convert.report.html.given import Latency, RivalTable
from memrec_convert.report.html.markup import Html, join, make_harmless, name_of, tag
from memrec_convert.report.html.missing import show_missing
from memrec_convert.report.html.parts import Section
from memrec_convert.report.html.quality import show_ablation, show_calibration, show_control, show_quality, show_slices
from memrec_convert.report.html.script import SCRIPT
from memrec_convert.report.html.sizes import show_bytes, show_lookups, show_tables
from memrec_convert.report.html.style import STYLE
from memrec_convert.report.report import Report


def render_html(report: Report, *, comparison: Sequence[RivalTable] = (), latency: Latency | None = None) -> str:
    """The page. `comparison` and `latency` are what `compare` and `bench` found, for sections that a report lacks."""
    values = report.to_json()
    name = PurePath(report.artifact.path).name
    sections = list_sections(values, comparison, latency)
    made = report.provenance
    header = tag(
        "header",
        tag("h1", name_of(name)),
        tag("p", "Converted from ", name_of(made.layout), " (", name_of(made.container), ")."),
        show_headline(values, latency),
        _contents(sections),
    )
    footer = tag(
        "footer",
        tag(
            "p",
            "Made by memrec-convert ",
            name_of(made.version),
            ". Sizes are in powers of ten. This page loads nothing from anywhere.",
        ),
    )
    main = tag("main", *(section.render() for section in sections), id="content")
    body = tag("body", header, main, footer, tag("script", Html(SCRIPT)))
    page = tag("html", _head(name, describe_conversion(values)), body, lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def list_sections(
    values: Mapping[str, Any], comparison: Sequence[RivalTable], latency: Latency | None
) -> list[Section]:
    """The sections in their order; those that nothing is known about are left out, or say so."""
    found = [
        show_warnings(values),
        show_quality(values),
        show_control(values),
        show_bytes(values),
        show_rivals(values, comparison),
        show_curve(values),
        show_lookups(values),
        show_tables(values),
        show_ablation(values),
        show_calibration(values),
        show_slices(values),
        show_latency(values, latency),
        show_plan(values),
        show_training(values),
        show_origin(values),
        show_missing(values, comparison, latency),
    ]
    return [section for section in found if section is not None]


def _head(name: str, description: str) -> Html:
    """Nothing may be loaded, and no script may run but the page's own, whatever a name holds."""
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("meta", name="description", content=make_harmless(description)),
        tag("link", rel="icon", href="data:,"),
        tag("title", join(name, " - conversion report")),
        tag("style", Html(STYLE)),
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _contents(sections: Sequence[Section]) -> Html:
    links = [tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in sections]
    return tag("nav", tag("ul", *links), aria_label="Sections")
