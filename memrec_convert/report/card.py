"""The report as a model card in Markdown, to lie beside the artifact."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from memrec_convert.report.figures import (
    ablation_rows,
    control_rows,
    decile_rows,
    describe_control,
    describe_conversion,
    describe_groups,
    describe_mapping,
    describe_provenance,
    describe_shares,
    format_size,
    quality_rows,
    size_rows,
    slice_rows,
)
from memrec_convert.report.report import Report
from memrec_convert.report.text import make_plain

_SPECIAL = re.compile(r"[\\`*_{}\[\]<#|~&$]|:(?=//)")
_LEADING = re.compile(r"^((?=[-+=>])|[0-9]{1,9}(?=[.)](?:\s|$)))")


def render_card(report: Report) -> str:
    """A model card: what the file is, what the conversion cost, what it was made from, how to load it."""
    values = report.to_json()
    name = PurePath(report.artifact.path).name
    sections = [
        f"# {escape_markdown(name)}",
        escape_markdown(describe_conversion(values)) + ".",
        "A recommender model whose embedding tables memrec-convert has brought into a compact form. The file holds the "
        "whole model, dense part included, and loads without pickle.",
        _loading(name),
        _titled("Quality", [*_evaluated_on(values), _table(["", "before", "after", "change"], quality_rows(values))]),
        *_measured(values),
        _titled("Size", [_budget(values), _table(["", "before", "after"], size_rows(values["sizes"]))]),
        _titled("Tables", [_tables(values["tables"])]),
        _titled("AUC by form of the lookup", [_slices(values["slices"])]),
        _titled("Plan", [_plan(values)]),
        _titled("Fine-tuning", [_list(describe_mapping(values["fine_tune"])) if values["fine_tune"] else "None."]),
        _titled("Assumed", [_list(values["assumed"])]) if values["assumed"] else "",
        _titled("Warnings", [_list(values["warnings"]) if values["warnings"] else "None."]),
        _titled("Architecture", [_list(describe_mapping(values["architecture"]))]) if values["architecture"] else "",
        _titled("Provenance", [_list(describe_provenance(values))]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def escape_markdown(text: object) -> str:
    """`text` on one line, so that Markdown shows it as it is: names come out of files that anybody may have written."""
    return _LEADING.sub(r"\1\\", _escape_within(text))


def _escape_within(text: object) -> str:
    """As `escape_markdown`, for the middle of a line, where '-' starts no list and a figure stays a figure."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(make_plain(text).split()))


def _loading(name: str) -> str:
    # !a: a Python string whatever the name holds, so that nothing in it ends the string or the block.
    return _titled(
        "How to load it",
        [
            f"```python\nfrom memrec_convert import load\n\nmodel = load({name!a})\n```",
            "The model gives logits; a sigmoid of them is the click probability. Dense inputs and ids are those of the "
            "original model.",
        ],
    )


def _evaluated_on(values: Mapping[str, Any]) -> list[str]:
    about = values["evaluation"]
    return [_list(describe_mapping(about))] if about else []


def _measured(values: Mapping[str, Any]) -> list[str]:
    """Groups, the control, single tables and calibration: a section for each that was measured."""
    sections = []
    if values["groups"]:
        sections.append(_titled("Groups", [_list(describe_groups(values["groups"]))]))
    if values["control"]:
        table = _table(["", "before", "after", "change", "95 % interval"], control_rows(values["control"]))
        sections.append(_titled("Control", [escape_markdown(describe_control(values["control"])) + ".", table]))
    if values["ablation"]:
        table = _table(["table", "AUC", "change", "95 % interval"], ablation_rows(values["ablation"]))
        sections.append(_titled("What each table alone costs", [table]))
    if values["deciles"]:
        titles = ["decile", "predicted before", "observed before", "predicted after", "observed after"]
        sections.append(
            _titled("Calibration by decile of the prediction", [_table(titles, decile_rows(values["deciles"]))])
        )
    return sections


def _budget(values: Mapping[str, Any]) -> str:
    return (
        f"The budget was {format_size(values['budget_bytes'])} ({values['budget_bytes']:,} bytes) and counts the whole "
        f"file; the file has {values['artifact']['bytes']:,} bytes. Serving memory: "
        f"{format_size(values['serving_bytes'])}."
    )


def _tables(tables: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["name"],
            f"{entry['rows']:,}",
            f"{entry['dim']:,}",
            format_size(entry["bytes_before"]),
            format_size(entry["bytes_after"]),
            entry["method"],
            entry["form"],
            describe_shares(entry["lookup_share"]),
        ]
        for entry in tables
    ]
    headers = ["table", "rows", "dim", "before", "after", "method", "form", "lookups by form"]
    return _table(headers, rows, left=(0, 5, 6, 7)) if rows else "None."


def _slices(slices: Sequence[Mapping[str, Any]] | None) -> str:
    if slices is None:
        return "Not measured."
    headers = ["table", "form", "samples", "share", "before", "after", "change"]
    return _table(headers, slice_rows(slices), left=(0, 1)) if slices else "None."


def _plan(values: Mapping[str, Any]) -> str:
    parts = [f"Ids were weighted by: {escape_markdown(values['weights'])}."]
    if values["plan"]:
        parts.append(_list(describe_mapping(values["plan"])))
    if values["alternatives"]:
        rows = [
            [
                entry["name"],
                format_size(entry["bytes"]),
                "-" if entry["score"] is None else f"{entry['score']:.6g}",
                entry["note"],
            ]
            for entry in values["alternatives"]
        ]
        parts.append("What lost against it (score: lower is better):")
        parts.append(_table(["alternative", "bytes", "score", "note"], rows, left=(0, 3)))
    return "\n\n".join(parts)


def _titled(title: str, paragraphs: Sequence[str]) -> str:
    return "\n\n".join([f"## {title}", *paragraphs])


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(item)}" for item in items)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    lines = [headers, ["---" if i in left else "---:" for i in range(len(headers))]]
    escaped = [[_escape_within(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, *escaped])
