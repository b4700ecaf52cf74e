"""Reports as plain text for a terminal, never wider than asked (80 columns)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.figures import (
    describe_auc,
    describe_control,
    describe_conversion,
    describe_dense,
    describe_groups,
    describe_mapping,
    describe_provenance,
    format_percent,
    format_ratio,
    format_share,
    format_size,
    format_value,
)
from memrec_convert.report.report import Report
from memrec_convert.report.tables import (
    Table,
    ablation_table,
    alternative_table,
    control_table,
    decile_table,
    model_table,
    quality_table,
    size_table,
    slice_table,
    take_largest,
)
from memrec_convert.report.text import NARROWEST, list_lines, table_lines, wrap

MOST_SLICES = 40
"""The JSON holds every slice; a terminal shows those of the largest change."""


def render_terminal(report: Report, width: int = 80) -> str:
    """A conversion's report: headline, quality, sizes, tables, slices, rivals, warnings, provenance."""
    values, width = report.to_json(), max(width, NARROWEST)
    return join_blocks(
        [
            wrap(describe_conversion(values), width),
            _artifact_lines(values, width),
            quality_lines(values, width),
            *_measured_blocks(values, width),
            draw_table(size_table(values["sizes"]), width),
            *_table_blocks(values["tables"], width),
            _slice_lines(values["slices"], width),
            draw_table(alternative_table(values["alternatives"]), width, "note"),
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
    headline = f"Plan: {format_size(predicted)} of {format_size(budget)} ({format_percent(predicted, budget)})"
    if before and predicted:
        headline += f", from tables of {format_size(before)} ({format_ratio(before / predicted)})"
    weights = plan.get("weights")
    return join_blocks(
        [
            wrap(f"{headline}; nothing was written.", width),
            wrap(f"Rows weighted by: {weights}", width) if weights else [],
            *_table_blocks(tables, width),
            wrap(_predicted(plan), width) if "predicted_auc_drop" in plan else [],
            _explanation_lines(plan.get("explained") or [], width),
            _budget_lines("other budgets", plan.get("neighbours") or [], width),
            _budget_lines("rate curve", plan.get("curve") or [], width),
            draw_table(alternative_table(plan.get("alternatives", [])), width, "note"),
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
    names = {"network": "network", "stored_metrics": "stored figures", "unrun_classes": "classes not run"}
    known = {name: inspection[key] for key, name in names.items() if inspection.get(key)}
    facts = {"optimizer state": inspection.get("optimizer") or "none", **known}
    return join_blocks(
        [
            wrap(headline, width),
            table_lines(["table", "rows", "dim", "dtype", "bytes"], body, width, left=(0, 3)) if body else [],
            [line for fact in describe_mapping(facts) for line in wrap(fact, width, indent="  ")],
            _closing_lines(inspection, width),
        ]
    )


def render_scan(inspection: Mapping[str, Any], width: int = 80) -> str:
    """One line per table: rows that are zero, constant, repeated or not finite, and the norms of the finite ones."""
    counts = ("zero_rows", "constant_rows", "duplicate_rows", "nonfinite_rows")
    norms = ("norm_min", "norm_median", "norm_max")
    body = [
        [
            table["name"],
            *(f"{table['scan'][name]:,}" for name in counts),
            *("-" if table["scan"][name] is None else f"{table['scan'][name]:.4g}" for name in norms),
        ]
        for table in inspection["tables"]
    ]
    headers = ["table", "zero", "constant", "duplicate", "not finite", "least norm", "median", "largest"]
    return "\n".join(table_lines(headers, body, max(width, NARROWEST)))


def render_evaluation(evaluation: Mapping[str, Any], width: int = 80) -> str:
    """Figures of quality: a report's `auc`, `log_loss`, ... and `slices`, with `samples` and `log` where known.

    A figure may be a bare number (one model alone), a comparison, or None.
    """
    width = max(width, NARROWEST)
    auc = evaluation.get("auc")
    compared = isinstance(auc, Mapping) and auc.get("before") is not None and auc.get("after") is not None
    alone = auc.get("after") if isinstance(auc, Mapping) else auc
    return join_blocks(
        [
            wrap(describe_auc(auc) if compared else f"AUC {format_value(alone)}", width),
            quality_lines({**evaluation, "evaluation": evaluation}, width),
            *_measured_blocks(evaluation, width),
            _slice_lines(evaluation.get("slices"), width),
            _closing_lines(evaluation, width),
        ]
    )


def _predicted(plan: Mapping[str, Any]) -> str:
    """What the plan is expected to cost, and what it cost on the hold-out where that was measured."""
    predicted, measured = plan["predicted_auc_drop"], plan.get("measured_auc_drop")
    if predicted is None:
        return "AUC drop: not predicted, because there is no data."
    said = f"Predicted AUC drop before fine-tuning: {predicted:.4f}"
    return said + (f"; measured on the hold-out: {measured:.4f}." if measured is not None else ".")


def _explanation_lines(explained: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Per table how much it matters and what more bytes would buy."""
    rows = [
        [e["name"], f"{e['sensitivity']:.3g}", format_share(e["distortion_share"]), _small(e["next_kilobyte_auc"])]
        for e in explained
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
    budget = values["budget_bytes"]
    facts = [
        f"Artifact: {values['artifact']['path']}",
        f"Budget: {format_size(budget)}, of which {format_percent(values['artifact']['bytes'], budget)} is used",
        f"Serving memory: {format_size(values['serving_bytes'])}",
        f"Rows weighted by: {values['weights']}",
        *([values["plan"]["like"]["says"]] if "like" in values["plan"] else []),
        *([f"Quality gate: {values['plan']['gate']['says']}"] if "gate" in values["plan"] else []),
        *([describe_dense(values["plan"]["dense"])] if "dense" in values["plan"] else []),
    ]
    return [line for fact in facts for line in wrap(fact, width, indent="  ")]


def quality_lines(values: Mapping[str, Any], width: int) -> list[str]:
    """The figures of quality, with the rows that they were taken on."""
    about = values.get("evaluation") or {}
    samples, log = about.get("samples"), about.get("log")
    said = "Measured" + (f" on {samples:,} rows" if samples is not None else "") + (f" of {log}" if log else "")
    told = wrap(said, width, indent="  ") if said != "Measured" else []
    return [*told, *draw_table(quality_table(values), width)]


def _measured_blocks(values: Mapping[str, Any], width: int) -> list[list[str]]:
    """Groups, the control, single tables and calibration: a block for each that was measured."""
    groups, control, deciles = values.get("groups"), values.get("control"), values.get("deciles")
    ablation = values.get("ablation") or []
    blocks = [[line for said in describe_groups(groups) for line in wrap(said, width, indent="  ")]] if groups else []
    if control:
        told = wrap(describe_control(control), width, indent="  ")
        blocks.append([*told, *draw_table(control_table(control), width, "training and compression", "95 % interval")])
    blocks.append(draw_table(ablation_table(ablation), width))
    if isinstance(deciles, Mapping):
        blocks.append(draw_table(decile_table(deciles), width))
    return blocks


def _table_blocks(tables: Sequence[Mapping[str, Any]], width: int) -> list[list[str]]:
    """What each table became, and which form serves which share of its lookups; a sentence where nobody measured."""
    table = model_table(tables)
    plan = draw_table(table.pick("table", "rows", "dim", "before", "after", "form"), width, "form")
    if tables and all(entry.get("lookup_share") is None for entry in tables):
        return [plan, ["Lookups by form: not measured"]]
    return [plan, draw_table(table.pick("table", "lookups by form"), width, "lookups by form")]


def _slice_lines(slices: Sequence[Mapping[str, Any]] | None, width: int) -> list[str]:
    if slices is None:
        return ["AUC by form of the lookup: not measured"]
    kept, left_out = take_largest(slices, MOST_SLICES, lambda entry: abs(entry["delta"] or 0.0))
    more = wrap(f"({left_out} more slices with smaller changes are in the JSON)", width) if left_out else []
    return [*draw_table(slice_table(kept), width), *more]


def _closing_lines(values: Mapping[str, Any], width: int) -> list[str]:
    assumed = list_lines("Assumed:", values.get("assumed") or [], width)
    warnings = list_lines("Warnings:", values.get("warnings") or [], width)
    return [*assumed, *([""] if assumed and warnings else []), *warnings]


def join_blocks(blocks: Sequence[Sequence[str]]) -> str:
    """Blocks of lines with an empty line between them; ends in a newline."""
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def draw_table(table: Table, width: int, *wrapped: str) -> list[str]:
    """The lines of a table; columns in `wrapped` go on below where it is too wide. Nothing without rows."""
    left = table.places(table.words)
    lines = table_lines(table.columns, table.rows, width, left=left, wrapped=table.places(wrapped))
    return lines if table.rows else []
