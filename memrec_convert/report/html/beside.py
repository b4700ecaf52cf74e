"""What the artifact is set beside: rivals at equal bytes, other budgets, other speeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from memrec_convert.report.figures import format_change, format_size, format_value
from memrec_convert.report.html.given import Latency, RivalRow, RivalTable, read_points
from memrec_convert.report.html.markup import shorten_names
from memrec_convert.report.html.plots import OWN, Line, Plot, Points, Row, Values, list_lines
from memrec_convert.report.html.scale import change_scale, label_size, list_scale, log_scale
from memrec_convert.report.latency import STAGES, format_speed
from memrec_convert.report.tables import Cell, Table

OURS, CONVERTED = "memrec-convert", "converted"
THIS = "this artifact"
MOST_LINES = 40
RANKED = 34
"""Columns of a method's name in the ranking."""
NEAR = 1.1
"""Sizes that differ by less than this factor are set beside each other."""
SAME_AUC = 1e-6

Comparison = Sequence[RivalTable]


@dataclass(frozen=True)
class Ranking:
    """Methods at one budget, best first; `near`: this artifact, which has that size, is among them."""

    budget_bytes: int
    near: bool
    rows: list[Row]
    out_of_reach: list[str]


def rank_methods(values: Values, comparison: Comparison) -> Ranking:
    """The methods at the budget nearest to this artifact's size."""
    size, auc = values["artifact"]["bytes"], values["auc"]
    table = min(comparison, key=lambda one: abs(math.log(one.budget_bytes / max(size, 1))))
    found = [
        (row.method, row.auc_delta, row.ci95, row.method.startswith(OURS))
        for row in table.rows
        if row.auc_delta is not None
    ]
    near = NEAR > table.budget_bytes / max(size, 1) > 1 / NEAR
    if auc is not None and near:
        found.append((THIS, auc["delta"], auc["ci95"], True))
    found = sorted(found, key=lambda one: -one[1])[:MOST_LINES]
    labels = shorten_names([name for name, *_ in found], RANKED)
    rows = [
        Row(label, format_change(delta, 5), value=delta, span=interval and (interval[0], interval[1]), muted=not ours)
        for label, (_, delta, interval, ours) in zip(labels, found, strict=True)
    ]
    out_of_reach = [row.method for row in table.rows if row.auc_delta is None]
    return Ranking(table.budget_bytes, near, rows, out_of_reach[:MOST_LINES])


def plot_rivals(values: Values, comparison: Comparison) -> Plot | None:
    """AUC against bytes of every method and of this artifact; None at fewer than two budgets."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in _list_rows(comparison):
        if row.bytes is not None and row.auc_delta is not None:
            found.setdefault(row.method, []).append((float(row.bytes), row.auc_delta))
    if len(comparison) < 2 or not found:
        return None
    ordered = sorted(found, key=lambda name: not name.startswith(OURS))[:MOST_LINES]
    lines = [(name, sorted(found[name]), i, name.startswith(OURS), True) for i, name in enumerate(ordered)]
    own = _own_point(values)
    return _plot_sizes([*lines, *([(THIS, own, OWN, True, False)] if own else [])])


def rival_table(comparison: Comparison) -> Table:
    """Every method at every budget, the best first."""
    rows = [
        [
            row.method,
            Cell(format_size(table.budget_bytes), table.budget_bytes),
            Cell("-" if row.bytes is None else f"{row.bytes:,}", row.bytes or 0),
            Cell("-" if row.auc is None else format_value(row.auc, 5), row.auc or 0.0),
            Cell("-", -1.0) if row.auc_delta is None else Cell(format_change(row.auc_delta, 5), row.auc_delta),
            row.note,
        ]
        for table in comparison
        for row in sorted(table.rows, key=lambda row: 2.0 if row.auc_delta is None else -row.auc_delta)
    ]
    columns = ("method", "budget", "bytes", "AUC", "change", "note")
    return Table("Methods at equal bytes", columns, rows, ("method", "note"))


def find_other_original(values: Values, comparison: Comparison) -> float | None:
    """The AUC of the comparison's original, where that is not this report's."""
    own = values["auc"]
    known = (row.auc - row.auc_delta for row in _list_rows(comparison) if row.auc and row.auc_delta is not None)
    other = next(known, None)
    return None if own is None or other is None or abs(other - own["before"]) < SAME_AUC else other


def plot_curve(values: Values) -> Plot | None:
    """What other budgets would lead to, predicted or tried; None where the report says neither."""
    known = _list_sizes(values)
    if all(name == THIS for name, *_ in known):
        return None
    return _plot_sizes([(name, sorted(found), i, name == THIS, name != THIS) for name, found, i in known])


def curve_table(values: Values) -> Table:
    """The curve's points."""
    rows = [
        [name.partition(",")[0], Cell(format_size(x), x), Cell(format_change(y, 5), y)]
        for name, found, _ in _list_sizes(values)
        for x, y in found
    ]
    return Table("Change of the AUC at other sizes", ("what", "bytes", "change of the AUC"), rows, ("what",))


def plot_latency(latency: Latency) -> tuple[list[Line], dict[str, Plot]]:
    """A legend, and time against batch size for each stage."""
    names = list(dict.fromkeys(row.contender for row in latency.rows))
    ordered = sorted(names, key=lambda name: name != CONVERTED)
    legend = list_lines((name, (), number, name == CONVERTED, True) for number, name in enumerate(ordered))
    stages = [*STAGES, *sorted({row.stage for row in latency.rows} - set(STAGES))]
    plots = {STAGES.get(stage, stage): _plot_stage(stage, latency, legend) for stage in stages}
    return legend, {title: plot for title, plot in plots.items() if plot.lines}


def latency_table(latency: Latency) -> Table:
    """All times."""
    rows = [
        [
            STAGES.get(row.stage, row.stage),
            row.contender + " (noisy)" * row.noisy,
            Cell(f"{row.batch:,}", row.batch),
            Cell(f"{row.ns_per_lookup:,.1f}", row.ns_per_lookup),
            Cell(f"{row.items_per_second:,.0f}", row.items_per_second),
            Cell(f"{row.ms_p50:.4g}", row.ms_p50),
            Cell(f"{row.ms_p99:.4g}", row.ms_p99),
            Cell(format_speed(row.ratio_to_original), row.ratio_to_original or 0.0),
        ]
        for row in latency.rows
    ]
    columns = ("stage", "who", "batch", "ns per lookup", "items per second", "p50 ms", "p99 ms", "speed")
    return Table("Latency by batch size", columns, rows, ("stage", "who"))


def describe_speed(latency: Latency) -> tuple[str, str]:
    """The embedding stage against the original over all batch sizes; its own time where nothing was beside it."""
    rows = [row for row in latency.rows if row.contender == CONVERTED]
    rows = [row for row in rows if row.stage == "embedding"] or rows
    compared = [(row.ratio_to_original, row.batch) for row in rows if row.ratio_to_original is not None]
    if compared:
        (low, at_low), (high, at_high) = min(compared), max(compared)
        said = "that of the original's embedding stage"
        if low == high:
            return f"{low:.2f}x", f"{said}, at batch {at_low:,}"
        return f"{low:.2f}x to {high:.2f}x", f"{said}: the least at batch {at_low:,}, the most at {at_high:,}"
    if rows:
        best = min(rows, key=lambda row: row.ns_per_lookup)
        return f"{best.ns_per_lookup:,.0f} ns a lookup", f"at batch {best.batch:,}"
    return "not measured", "the file given holds no times of the artifact"


def _list_rows(comparison: Comparison) -> Iterable[RivalRow]:
    return (row for table in comparison for row in table.rows)


def describe_epochs(values: Values, comparison: Comparison) -> str:
    """Who was trained: the methods by their epochs, this artifact by its report."""
    epochs = {row.epochs for row in _list_rows(comparison)}
    theirs = "none fine-tuned" if epochs <= {0} else f"fine-tuned, epochs: {max(epochs)}"
    return f"{theirs}; this artifact {'is fine-tuned' if values['fine_tune'] else 'is not'}"


def _list_sizes(values: Values) -> list[tuple[str, Points, int]]:
    """(name, (bytes, change of the AUC), number of the line) of what is known of sizes."""
    plan = values["plan"]
    gate = plan.get("gate")
    tried = gate.get("tried") if isinstance(gate, Mapping) else None
    points = [
        ("predicted, before fine-tuning", read_points(plan.get("curve"), "predicted_bytes", "predicted_auc_drop"), 1),
        ("measured on the hold-out", read_points(tried, "budget_bytes", "drop"), 2),
    ]
    drops = [(name, [(x, -y) for x, y in found], number) for name, found, number in points if found]
    own = _own_point(values)
    return [*drops, *([(THIS, own, OWN)] if own else [])]


def _own_point(values: Values) -> list[tuple[float, float]]:
    size, auc = values["artifact"]["bytes"], values["auc"]
    return [] if auc is None or size <= 0 else [(float(size), float(auc["delta"]))]


def _plot_sizes(entries: Sequence[tuple[str, Points, int, bool, bool]]) -> Plot:
    """Changes of the AUC against bytes."""
    points = [point for _, found, *_ in entries for point in found]
    return Plot(list_lines(entries), log_scale((x for x, _ in points), label_size), change_scale(y for _, y in points))


def _plot_stage(stage: str, latency: Latency, legend: Sequence[Line]) -> Plot:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in latency.rows:
        if row.stage == stage:
            found.setdefault(row.contender, []).append((float(row.batch), 1e6 / row.items_per_second))
    lines = [replace(line, points=sorted(found[line.name])) for line in legend if line.name in found]
    points = [point for line in lines for point in line.points] or [(1.0, 1.0)]
    across = list_scale([x for x, _ in points], "{:,.0f}".format)
    return Plot(lines, across, log_scale((y for _, y in points), "{:g}".format))
