"""Reports as plain text for a terminal, never wider than asked (80 columns)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.figures import (
    ablation_rows,
    control_rows,
    decile_rows,
    describe_auc,
    describe_control,
    describe_conversion,
    describe_groups,
    describe_mapping,
    describe_provenance,
    describe_shares,
    format_ratio,
    format_share,
    format_size,
    format_value,
    quality_rows,
    size_rows,
    slice_rows,
)
from memrec_convert.report.report import Report
from memrec_convert.report.text import NARROWEST, list_lines, table_lines, wrap

MOST_SLICES = 40
"""The JSON holds every slice; a terminal shows those of the largest change."""


def render_terminal(report: Report, width: int = 80) -> str:
    """A conversion's report: headline, quality, sizes, tables, slices, rivals, warnings, provenance."""
    values, width = report.to_json(), max(width, NARROWEST)
    return _join(
        [
            wrap(describe_conversion(values), width),
            _artifact_lines(values, width),
            _quality_lines(values, width),
            *_measured_blocks(values, width),
            table_lines(["size of", "before", "after"], size_rows(values["sizes"]), width),
            _tables_lines(values["tables"], width),
            _lookup_lines(values["tables"], width),
            _slice_lines(values["slices"], width),
            _alternative_lines(values["alternatives"], width),
            list_lines("Fine-tuning:", describe_mapping(values["fine_tune"] or {}), width),
            _closing_lines(values, width),
            list_lines("Provenance:", describe_provenance(values), width),
        ]
    )


def render_plan(plan: Mapping[str, Any], width: int = 80) -> str:
    """A plan before anything is written.

    `plan`: budget_bytes, predicted_bytes, weights, tables (as in a report's JSON; `bytes_after` or
    `predicted_bytes` is the prediction), alternatives, warnings; all but the first two may be missing.
    """
    width = max(width, NARROWEST)
    budget, predicted = plan["budget_bytes"], plan["predicted_bytes"]
    tables = [
        {**entry, "bytes_after": entry.get("predicted_bytes", entry.get("bytes_after"))}
        for entry in plan.get("tables", [])
    ]
    before = sum(entry["bytes_before"] for entry in tables)
    headline = f"Plan: {format_size(predicted)} of {format_size(budget)} ({_percent(predicted, budget)})"
    if before and predicted:
        headline += f", from tables of {format_size(before)} ({format_ratio(before / predicted)})"
    weights = plan.get("weights")
    return _join(
        [
            wrap(f"{headline}; nothing was written.", width),
            wrap(f"Ids weighted by: {weights}", width) if weights else [],
            _tables_lines(tables, width),
            _lookup_lines(tables, width),
            wrap(_predicted(plan), width) if "predicted_auc_drop" in plan else [],
            _explanation_lines(plan.get("explained") or [], width),
            _budget_lines("other budgets", plan.get("neighbours") or [], width),
            _budget_lines("rate curve", plan.get("curve") or [], width),
            _alternative_lines(plan.get("alternatives", []), width),
            _closing_lines(plan, width),
        ]
    )


def render_inspection(inspection: Mapping[str, Any], width: int = 80) -> str:
    """What a checkpoint holds: the mapping that `inspect` returns, every key but `tables` optional."""
    width = max(width, NARROWEST)
    tables: Sequence[Mapping[str, Any]] = inspection["tables"]
    table_bytes = sum(entry["bytes"] for entry in tables)
    rows = sum(entry["rows"] for entry in tables)
    file_bytes = inspection.get("file_bytes")
    headline = (
        f"{inspection.get('layout') or 'unknown layout'} ({inspection.get('container') or 'unknown container'}): "
        f"{len(tables)} {'table' if len(tables) == 1 else 'tables'}, {rows:,} rows, {format_size(table_bytes)}; "
        f"dense part {format_size(inspection.get('dense_bytes'))}"
    )
    if file_bytes is not None:
        headline += f"; file {format_size(file_bytes)}"
    body = [
        [entry["name"], f"{entry['rows']:,}", f"{entry['dim']:,}", entry["dtype"], format_size(entry["bytes"])]
        for entry in tables
    ]
    facts = {
        "optimizer state": inspection.get("optimizer") or "none",
        **({"network": inspection["network"]} if inspection.get("network") else {}),
        **({"stored figures": inspection["stored_metrics"]} if inspection.get("stored_metrics") else {}),
        **({"classes not run": inspection["unrun_classes"]} if inspection.get("unrun_classes") else {}),
    }
    return _join(
        [
            wrap(headline, width),
            table_lines(["table", "rows", "dim", "dtype", "bytes"], body, width, left=(0, 3)) if body else [],
            [line for fact in describe_mapping(facts) for line in wrap(fact, width, indent="  ")],
            _closing_lines(inspection, width),
        ]
    )


def render_evaluation(evaluation: Mapping[str, Any], width: int = 80) -> str:
    """Figures of quality: a report's `auc`, `log_loss`, ... and `slices`, with `samples` and `log` where known.

    A figure may be a bare number (one model alone), a comparison, or None.
    """
    width = max(width, NARROWEST)
    auc = evaluation.get("auc")
    compared = isinstance(auc, Mapping) and auc.get("before") is not None and auc.get("after") is not None
    alone = auc.get("after") if isinstance(auc, Mapping) else auc
    return _join(
        [
            wrap(describe_auc(auc) if compared else f"AUC {format_value(alone)}", width),
            _quality_lines({**evaluation, "evaluation": evaluation}, width),
            *_measured_blocks(evaluation, width),
            _slice_lines(evaluation.get("slices"), width),
            _closing_lines(evaluation, width),
        ]
    )


def _predicted(plan: Mapping[str, Any]) -> str:
    """What the plan is expected to cost, and what it cost on the hold-out where that was measured."""
    predicted, measured = plan["predicted_auc_drop"], plan.get("measured_auc_drop")
    if predicted is None:
        return "AUC drop: not predicted, for want of data."
    said = f"AUC drop, predicted before any training: {predicted:.4f}"
    return said + (f"; measured on the hold-out: {measured:.4f}." if measured is not None else ".")


def _explanation_lines(explained: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Per table how much it matters and what more bytes would buy."""
    rows = [
        [
            entry["name"],
            f"{entry['sensitivity']:.3g}",
            format_share(entry["distortion_share"]),
            _small(entry["next_kilobyte_auc"]),
        ]
        for entry in explained
    ]
    titles = ["table", "sensitivity", "share of the loss", "AUC for 1 kB more"]
    return table_lines(titles, rows, width) if rows else []


def _budget_lines(title: str, points: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Bytes against predicted AUC drop."""
    rows = [
        [
            f"{point['ratio']}x" if "ratio" in point else format_size(point["budget_bytes"]),
            format_size(point["predicted_bytes"]),
            _small(point["predicted_auc_drop"]),
        ]
        for point in points
    ]
    return table_lines([title, "file", "predicted AUC drop"], rows, width) if rows else []


def _small(value: float | None) -> str:
    return "not predicted" if value is None else f"{value:.5f}" if value >= 1e-4 or not value else f"{value:.1e}"


def _artifact_lines(values: Mapping[str, Any], width: int) -> list[str]:
    artifact, budget = values["artifact"], values["budget_bytes"]
    facts = [
        f"Artifact: {artifact['path']}",
        f"Budget: {format_size(budget)}, of which {_percent(artifact['bytes'], budget)} is used",
        f"Serving memory: {format_size(values['serving_bytes'])}",
        f"Ids weighted by: {values['weights']}",
        *([f"Quality gate: {values['plan']['gate']['says']}"] if "gate" in values["plan"] else []),
    ]
    return [line for fact in facts for line in wrap(fact, width, indent="  ")]


def _quality_lines(values: Mapping[str, Any], width: int) -> list[str]:
    """The figures of quality, with the rows that they were taken on."""
    about = values.get("evaluation") or {}
    samples, log = about.get("samples"), about.get("log")
    said = "Measured" + (f" on {samples:,} rows" if samples is not None else "") + (f" of {log}" if log else "")
    lines = table_lines(["quality", "before", "after", "change"], quality_rows(values), width)
    return [*(wrap(said, width, indent="  ") if said != "Measured" else []), *lines]


def _measured_blocks(values: Mapping[str, Any], width: int) -> list[list[str]]:
    """Groups, the control, single tables and calibration: a block for each that was measured."""
    groups, control, deciles = values.get("groups"), values.get("control"), values.get("deciles")
    ablation = values.get("ablation") or []
    blocks = [[line for said in describe_groups(groups) for line in wrap(said, width, indent="  ")]] if groups else []
    if control:
        titles = ["training and compression", "before", "after", "change", "95 % interval"]
        told = wrap(describe_control(control), width, indent="  ")
        blocks.append([*told, *table_lines(titles, control_rows(control), width, wrapped=(0, 4))])
    if ablation:
        titles = ["this table alone", "AUC", "change", "95 % interval"]
        blocks.append(table_lines(titles, ablation_rows(ablation), width))
    if isinstance(deciles, Mapping):
        titles = ["decile", "predicted before", "observed", "predicted after", "observed"]
        blocks.append(table_lines(titles, decile_rows(deciles), width))
    return blocks


def _tables_lines(tables: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    rows = [
        [
            entry["name"],
            f"{entry['rows']:,}",
            f"{entry['dim']:,}",
            format_size(entry["bytes_before"]),
            format_size(entry["bytes_after"]),
            entry.get("form") or entry.get("method") or "",
        ]
        for entry in tables
    ]
    headers = ["table", "rows", "dim", "before", "after", "form"]
    return table_lines(headers, rows, width, left=(0, 5), wrapped=(5,)) if rows else []


def _lookup_lines(tables: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Which form serves which share of the lookups; one sentence where no table was measured."""
    if not tables:
        return []
    if all(entry.get("lookup_share") is None for entry in tables):
        return ["Lookups by form: not measured"]
    rows = [[entry["name"], describe_shares(entry.get("lookup_share"))] for entry in tables]
    return table_lines(["table", "lookups by form"], rows, width, left=(0, 1), wrapped=(1,))


def _slice_lines(slices: Sequence[Mapping[str, Any]] | None, width: int) -> list[str]:
    if slices is None:
        return ["AUC by form of the lookup: not measured"]
    if not slices:
        return []
    kept = sorted(range(len(slices)), key=lambda i: -abs(slices[i]["delta"] or 0.0))[:MOST_SLICES]
    headers = ["AUC where", "form", "samples", "share", "before", "after", "change"]
    lines = table_lines(headers, slice_rows([slices[i] for i in sorted(kept)]), width, left=(0, 1))
    left_out = len(slices) - len(kept)
    return [*lines, *(wrap(f"({left_out} slices of smaller change are in the JSON)", width) if left_out else [])]


def _alternative_lines(alternatives: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    rows = [
        [
            entry["name"],
            format_size(entry["bytes"]),
            "-" if entry.get("score") is None else f"{entry['score']:.6g}",
            entry.get("note") or "",
        ]
        for entry in alternatives
    ]
    headers = ["alternative", "bytes", "score", "note"]
    return table_lines(headers, rows, width, left=(0, 3), wrapped=(3,)) if rows else []


def _closing_lines(values: Mapping[str, Any], width: int) -> list[str]:
    assumed = list_lines("Assumed:", values.get("assumed") or [], width)
    warnings = list_lines("Warnings:", values.get("warnings") or [], width)
    return [*assumed, *([""] if assumed and warnings else []), *warnings]


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "not measured"


def _join(blocks: Sequence[Sequence[str]]) -> str:
    """Blocks of lines with an empty line between them; ends in a newline."""
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"
