"""Sections on what the artifact is set beside: rivals at equal bytes, other budgets, other speeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.figures import format_change, format_ratio, format_size, format_value
from memrec_convert.report.html.given import Latency, LatencyRow, RivalTable
from memrec_convert.report.html.markup import Html, join, name_of, shorten_names, tag
from memrec_convert.report.html.parts import Cell, Section, fold, make_figure, make_list, make_table, say, side_by_side
from memrec_convert.report.html.scale import change_scale, list_scale, log_scale
from memrec_convert.report.html.sizes import label_size
from memrec_convert.report.html.svg import OWN, Line, Row, draw_legend, plot_intervals, plot_lines
from memrec_convert.report.latency import STAGES

OURS, CONVERTED = "memrec-convert", "converted"
THIS = "this artifact"
MOST_LINES = 40
RANKED = 34
"""Columns of a method's name in the ranking."""
NEAR = 1.1
"""Sizes that differ by less than this factor are set beside each other."""
SAME_AUC = 1e-6

Values = Mapping[str, Any]


def show_rivals(values: Values, comparison: Sequence[RivalTable]) -> Section | None:
    """AUC against bytes of every method that was compared, and of this artifact."""
    lines = _rival_lines(values, comparison)
    if not comparison:
        return None
    content: list[Html | None] = [_warn_of_other_rows(values, comparison)]
    drawn: list[Html | None] = [_draw_ranking(values, comparison)]
    if len(comparison) > 1 and lines:
        across = log_scale((x for line in lines for x, _ in line.points), label_size)
        up = change_scale(y for line in lines for _, y in line.points)
        chart = plot_lines(
            lines,
            across,
            up,
            title="Change of the AUC against bytes",
            level=0.0,
            axes=("bytes of the whole file", "change of the AUC"),
            description=f"{len(lines)} methods at {len(comparison)} budgets; all figures are in the table.",
        )
        caption = (
            f"Every method at {len(comparison)} sizes. Small changes are to scale, large ones by their logarithm; "
            "up is better."
        )
        legend = draw_legend([(line.name, line.number, line.ours) for line in lines])
        drawn.append(make_figure(caption, chart, legend))
    content.append(side_by_side(*drawn))
    content.append(fold("All figures", _list_rivals(comparison)))
    return Section("rivals", "AUC against bytes", join(*content))


def _draw_ranking(values: Values, comparison: Sequence[RivalTable]) -> Html | None:
    """The methods at the budget nearest to this artifact's size, best first, and this artifact among them."""
    size, auc = values["artifact"]["bytes"], values["auc"]
    table = min(comparison, key=lambda one: abs(math.log(one.budget_bytes / max(size, 1))))
    places = [(row.method, row.auc_delta, row.ci95, row.method.startswith(OURS)) for row in table.rows]
    near = NEAR > table.budget_bytes / max(size, 1) > 1 / NEAR
    if auc is not None and near:
        places.append((THIS, auc["delta"], auc["ci95"], True))
    found = [(name, delta, interval, ours) for name, delta, interval, ours in places if delta is not None]
    if not found:
        return None
    found = sorted(found, key=lambda one: -one[1])[:MOST_LINES]
    labels = shorten_names([name for name, *_ in found], RANKED)
    rows = [
        Row(label, format_change(delta, 5), value=delta, span=interval and (interval[0], interval[1]), muted=not ours)
        for label, (_, delta, interval, ours) in zip(labels, found, strict=True)
    ]
    scale = change_scale(end for row in rows for end in (row.value, *(row.span or ())))
    title = f"Change of the AUC at {format_size(table.budget_bytes)}"
    chart = plot_intervals(
        rows, scale, title=title, description=f"{len(rows)} methods, best first; all figures are in the table."
    )
    beside = "" if near else f", the nearest to this artifact's {format_size(size)}"
    out_of_reach = [row.method for row in table.rows if row.auc_delta is None]
    caption: list[Html | str] = [
        f"{title}{beside}, with 95 % intervals; {_describe_epochs(values, comparison)}. Right is better."
    ]
    if out_of_reach:
        names = join(*(join(", " if i else None, name_of(name)) for i, name in enumerate(out_of_reach[:MOST_LINES])))
        caption.append(join(" Not that small: ", names, "."))
    return make_figure(join(*caption), chart)


def _list_rivals(comparison: Sequence[RivalTable]) -> Html:
    rows: list[list[Cell | str]] = [
        [
            row.method,
            Cell(format_size(table.budget_bytes), table.budget_bytes),
            Cell("-" if row.bytes is None else f"{row.bytes:,}", row.bytes or 0),
            Cell("-" if row.auc is None else format_value(row.auc, 5), row.auc or 0.0),
            Cell(
                "-" if row.auc_delta is None else format_change(row.auc_delta, 5),
                -1.0 if row.auc_delta is None else row.auc_delta,
            ),
            row.note,
        ]
        for table in comparison
        for row in sorted(table.rows, key=lambda row: -(-2.0 if row.auc_delta is None else row.auc_delta))
    ]
    headers = ["method", "budget", "bytes", "AUC", "change", "note"]
    return make_table("Methods at equal bytes", headers, rows, words=(0, 5), sortable=True)


def show_curve(values: Values) -> Section | None:
    """What other budgets would lead to, predicted or tried; None where the report says neither."""
    predicted, tried = read_tried(values)
    points = [
        ("predicted, before fine-tuning", predicted, 1, True),
        ("measured on the hold-out", tried, 2, True),
        (THIS, _own_point(values), OWN, False),
    ]
    lines = [
        Line(name, tuple((x, -y) for x, y in sorted(found)), number, name == THIS, joined)
        for name, found, number, joined in points
        if found
    ]
    if not predicted and not tried:
        return None
    across = log_scale((x for line in lines for x, _ in line.points), label_size)
    up = change_scale(y for line in lines for _, y in line.points)
    chart = plot_lines(
        lines,
        across,
        up,
        title="Rate curve",
        axes=("bytes of the whole file", "change of the AUC"),
        level=0.0,
        description=f"{len(predicted) + len(tried)} other sizes and this artifact.",
    )
    caption = (
        "What other sizes cost in AUC, and where this artifact lies, as measured on the evaluation data. Up is better."
    )
    legend = draw_legend([(line.name, line.number, line.ours) for line in lines])
    rows: list[list[Cell | str]] = [
        [name.partition(",")[0], Cell(format_size(x), x), Cell(format_change(-y, 5), -y)]
        for name, found, *_ in points
        for x, y in found
    ]
    table = make_table("Change of the AUC at other sizes", ["what", "bytes", "change of the AUC"], rows, sortable=True)
    return Section("curve", "Rate curve", side_by_side(make_figure(caption, chart, legend), table))


def show_latency(values: Values, latency: Latency | None) -> Section | None:
    """Time against batch size, by stage; None where it was not measured."""
    if latency is None:
        return None
    timed = latency.artifact
    threads = f"{latency.threads} thread" + "s" * (latency.threads != 1)
    content: list[Html | None] = [
        say("Timed on ", name_of(timed.path), f" with {threads}, medians of interleaved calls.")
    ]
    if timed.bytes != values["artifact"]["bytes"]:
        content.append(
            say(
                f"Another file was timed than this report's: it has {timed.bytes:,} bytes, this one "
                f"{values['artifact']['bytes']:,}."
            )
        )
    if latency.warnings:
        content.append(tag("div", make_list(latency.warnings), class_="warnings"))
    stages = [*STAGES, *sorted({row.stage for row in latency.rows} - set(STAGES))]
    names = list(dict.fromkeys(row.contender for row in latency.rows))
    numbers = {name: number for number, name in enumerate(sorted(names, key=lambda name: name != CONVERTED))}
    charts = [_draw_stage(stage, latency.rows, numbers) for stage in stages]
    content.append(draw_legend([(name, number, name == CONVERTED) for name, number in numbers.items()]))
    content.append(side_by_side(*charts))
    rows = [_latency_row(row) for row in latency.rows]
    headers = ["stage", "who", "batch", "ns per lookup", "items per second", "p50 ms", "p99 ms", "speed"]
    table = make_table("Latency by batch size", headers, rows, words=(0, 1), sortable=True)
    content.append(fold("All figures", table))
    return Section("latency", "Latency against batch size", join(*content))


def read_tried(values: Values) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(bytes, drop of the AUC) of other sizes: as the planner predicts them, and as tried on the hold-out."""
    gate = values["plan"].get("gate")
    tried = read_points(gate.get("tried"), "budget_bytes", "drop") if isinstance(gate, Mapping) else []
    return read_points(values["plan"].get("curve"), "predicted_bytes", "predicted_auc_drop"), tried


def read_points(entries: object, across: str, up: str) -> list[tuple[float, float]]:
    """(across, up) of those entries of a list that hold both as finite numbers, the first above zero."""
    points = []
    for entry in entries if isinstance(entries, Sequence) and not isinstance(entries, str) else ():
        found = (entry.get(across), entry.get(up)) if isinstance(entry, Mapping) else (None, None)
        x, y = (_read_number(value) for value in found)
        if x is not None and y is not None and x > 0:
            points.append((x, y))
    return points


def _read_number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None  # type: ignore[arg-type]


def _own_point(values: Values) -> list[tuple[float, float]]:
    size, auc = values["artifact"]["bytes"], values["auc"]
    return [] if auc is None or size <= 0 else [(float(size), -float(auc["delta"]))]


def _rival_lines(values: Values, comparison: Sequence[RivalTable]) -> list[Line]:
    found: dict[str, list[tuple[float, float]]] = {}
    for table in comparison:
        for row in table.rows:
            if row.bytes is not None and row.auc_delta is not None:
                found.setdefault(row.method, []).append((float(row.bytes), row.auc_delta))
    ordered = sorted(found, key=lambda name: not name.startswith(OURS))[:MOST_LINES]
    own = [(x, -y) for x, y in _own_point(values)]
    lines = [
        Line(name, tuple(sorted(found[name])), number, name.startswith(OURS)) for number, name in enumerate(ordered)
    ]
    return [*lines, *([Line(THIS, tuple(own), OWN, ours=True, joined=False)] if own and found else [])]


def _describe_epochs(values: Values, comparison: Sequence[RivalTable]) -> str:
    """Who was trained: the methods by their epochs, this artifact by its report."""
    epochs = {row.epochs for table in comparison for row in table.rows}
    theirs = "none fine-tuned" if epochs <= {0} else f"fine-tuned, epochs: {max(epochs)}"
    return f"{theirs}; this artifact {'is fine-tuned' if values['fine_tune'] else 'is not'}"


def _warn_of_other_rows(values: Values, comparison: Sequence[RivalTable]) -> Html | None:
    """A sentence where the comparison's original is not this report's."""
    own = values["auc"]
    originals = [
        row.auc - row.auc_delta
        for table in comparison
        for row in table.rows
        if row.auc is not None and row.auc_delta is not None
    ]
    if own is None or not originals or abs(originals[0] - own["before"]) < SAME_AUC:
        return None
    return say(
        f"The comparison was made on other rows or another checkpoint: its original has an AUC of "
        f"{format_value(originals[0], 6)}, this report's {format_value(own['before'], 6)}."
    )


def _draw_stage(stage: str, rows: Sequence[LatencyRow], numbers: Mapping[str, int]) -> Html | None:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.stage == stage:
            found.setdefault(row.contender, []).append((float(row.batch), 1e6 / row.items_per_second))
    if not found:
        return None
    lines = [Line(name, tuple(sorted(points)), numbers[name], name == CONVERTED) for name, points in found.items()]
    across = list_scale([x for line in lines for x, _ in line.points], lambda value: f"{value:,.0f}")
    up = log_scale((y for line in lines for _, y in line.points), lambda value: f"{value:g}")
    title = STAGES.get(stage, stage)
    chart = plot_lines(
        lines,
        across,
        up,
        title=f"Latency, {title.lower()}",
        axes=("samples per call", "microseconds per sample"),
        description=f"{len(lines)} contenders at {len(lines[0].points)} batch sizes, both axes logarithmic.",
    )
    return make_figure(join(title, "; both axes are logarithmic, down is better."), chart)


def _latency_row(row: LatencyRow) -> list[Cell | str]:
    ratio = row.ratio_to_original
    return [
        STAGES.get(row.stage, row.stage),
        row.contender + " (noisy)" * row.noisy,
        Cell(f"{row.batch:,}", row.batch),
        Cell(f"{row.ns_per_lookup:,.1f}", row.ns_per_lookup),
        Cell(f"{row.items_per_second:,.0f}", row.items_per_second),
        Cell(f"{row.ms_p50:.4g}", row.ms_p50),
        Cell(f"{row.ms_p99:.4g}", row.ms_p99),
        Cell("-" if ratio is None else f"{ratio:.2f}x" if ratio < 9.95 else format_ratio(ratio), ratio or 0.0),
    ]
