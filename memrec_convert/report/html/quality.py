"""Sections on what the conversion cost: figures with intervals, calibration, single tables, forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.figures import (
    ablation_rows,
    control_rows,
    decile_rows,
    describe_control,
    describe_groups,
    format_change,
    format_share,
    format_value,
    quality_rows,
)
from memrec_convert.report.html.markup import Html, join, name_of, shorten_names
from memrec_convert.report.html.parts import (
    Cell,
    Section,
    make_figure,
    make_list,
    make_table,
    say,
    side_by_side,
    take_largest,
)
from memrec_convert.report.html.scale import change_scale, linear_scale
from memrec_convert.report.html.svg import Line, Row, draw_legend, plot_intervals, plot_lines

MOST_INTERVALS = 30
NO_DATA = "Not measured: there was no evaluation data (--eval)."
INTERVAL_HEADERS = ["what", "before", "after", "change", "95 % interval"]

Values = Mapping[str, Any]


def show_quality(values: Values) -> Section:
    """AUC, log loss, normalized entropy, calibration, and how sure the AUC's change is."""
    if values["auc"] is None and values["log_loss"] is None:
        return Section("quality", "Quality", say(NO_DATA))
    about = values["evaluation"] or {}
    samples, log = about.get("samples"), about.get("log")
    rows = f" on {samples:,} rows" if isinstance(samples, int) else ""
    said = say(f"Measured{rows}", join(" of ", name_of(log)) if log else None, ".")
    table = make_table("Figures of quality", ["figure", "before", "after", "change"], quality_rows(values))
    groups = None
    if values["groups"]:
        groups = make_list([line.replace(" -> ", " → ") for line in describe_groups(values["groups"])])
    return Section("quality", "Quality", join(said, side_by_side(_draw_auc(values), table), groups))


def show_control(values: Values) -> Section | None:
    """What training gives and what compression costs, told apart; None where there was no control run."""
    control = values["control"]
    if not control:
        return None
    named = (("training gives", "training"), ("conversion costs", "conversion"), ("compression costs", "compression"))
    rows = [_interval_row(title, control[key]["delta"], control[key]["ci95"]) for title, key in named]
    chart = _draw_intervals(rows, "What training gives and compression costs")
    caption = "Change of the AUC with its 95 % interval, original and converted model trained alike."
    table = make_table("Training and compression", INTERVAL_HEADERS, control_rows(control), words=(0,))
    content = join(say(describe_control(control), "."), side_by_side(make_figure(caption, chart), table))
    return Section("control", "Training and compression", content)


def show_ablation(values: Values) -> Section | None:
    """What each table alone costs; None where nobody asked."""
    entries = values["ablation"]
    if not entries:
        return None
    shown, left_out = take_largest(entries, MOST_INTERVALS, lambda entry: abs(float(entry["delta"])))
    labels = shorten_names([entry["table"] for entry in shown], 24)
    rows = [_interval_row(label, e["delta"], e["ci95"]) for label, e in zip(labels, shown, strict=True)]
    caption = "Change of the original's AUC with one table alone compressed, with its 95 % interval."
    if left_out:
        caption += f" The {left_out:,} smallest changes are in the table only."
    table = make_table(
        "AUC with one table alone compressed",
        ["table", "AUC", "change", "95 % interval"],
        [
            [name, auc, Cell(change, entry["delta"]), interval]
            for (name, auc, change, interval), entry in zip(ablation_rows(entries), entries, strict=True)
        ],
        sortable=True,
    )
    chart = _draw_intervals(rows, "What each table alone costs")
    return Section("ablation", "What each table alone costs", side_by_side(make_figure(caption, chart), table))


def show_calibration(values: Values) -> Section:
    """Predicted against observed clicks by decile."""
    deciles = values["deciles"]
    if not deciles or not deciles["before"] or len(deciles["before"]) != len(deciles["after"]):
        return Section("calibration", "Calibration", say(NO_DATA))
    lines = [
        Line(name, tuple((e["mean_prediction"], e["mean_label"]) for e in deciles[side]), number, ours)
        for name, side, number, ours in (("before", "before", 1, False), ("after", "after", 0, True))
    ]
    ends = [value for line in lines for point in line.points for value in point]
    scale = linear_scale([0.0, *ends], lambda value: f"{value:g}")
    chart = plot_lines(
        lines,
        scale,
        scale,
        title="Calibration by decile of the prediction",
        axes=("mean prediction", "observed share of clicks"),
        description=f"{len(lines[0].points)} points before and after; on the dashed line both are equal.",
        diagonal=True,
    )
    caption = "Mean prediction and observed share of clicks in each tenth of the rows, lowest predictions first."
    legend = draw_legend([(line.name, line.number, line.ours) for line in lines])
    titles = ["decile", "predicted before", "observed before", "predicted after", "observed after"]
    table = make_table("Calibration by decile of the prediction", titles, decile_rows(deciles), words=())
    return Section("calibration", "Calibration", side_by_side(make_figure(caption, legend, chart), table))


def show_slices(values: Values) -> Section | None:
    """AUC by form of the lookup; None where there is nothing to compare."""
    slices = values["slices"]
    if not slices:
        return None
    rows = [_slice_row(entry) for entry in sorted(slices, key=lambda entry: -abs(entry["delta"] or 0.0))]
    headers = ["table", "form", "samples", "share", "before", "after", "change"]
    table = make_table("AUC over the rows whose lookup has a form", headers, rows, words=(0, 1), sortable=True)
    said = say("AUC over those rows alone whose lookup in a table has the form; the largest changes first.")
    return Section("forms", "AUC by form of the lookup", join(said, table))


def _slice_row(entry: Values) -> list[Cell | str]:
    figures = [
        Cell("-" if value is None else text, -1.0 if value is None else value)
        for value, text in (
            (entry["auc_before"], format_value(entry["auc_before"])),
            (entry["auc_after"], format_value(entry["auc_after"])),
            (entry["delta"], format_change(entry["delta"])),
        )
    ]
    samples = Cell(f"{entry['samples']:,}", entry["samples"])
    return [entry["table"], entry["form"], samples, Cell(format_share(entry["share"]), entry["share"]), *figures]


def _draw_auc(values: Values) -> Html | None:
    """The AUC's change with both intervals, and that of the groups' mean AUC."""
    auc, groups = values["auc"], values["groups"]
    if auc is None:
        return None
    rows = [_interval_row("AUC, rows independent", auc["delta"], auc["ci95"])]
    if groups:
        rows.append(_interval_row("AUC, groups resampled", auc["delta"], groups["auc_ci95"]))
        if isinstance(groups["gauc"], Mapping):
            rows.append(_interval_row("GAUC, mean of groups", groups["gauc"]["delta"], groups["gauc"]["ci95"]))
    caption = "Change from the original to the artifact, with its 95 % interval; at the dashed line nothing changes."
    return make_figure(caption, _draw_intervals(rows, "Change of the AUC"))


def _interval_row(label: str, delta: float, interval: Sequence[float] | None) -> Row:
    span = None if interval is None else (interval[0], interval[1])
    return Row(label, format_change(delta, 5), value=delta, span=span)


def _draw_intervals(rows: Sequence[Row], title: str) -> Html:
    scale = change_scale(end for row in rows for end in (row.value, *(row.span or ())))
    said = "; ".join(f"{row.label} {row.said}" for row in rows[:6])
    return plot_intervals(rows, scale, title=title, description=f"{said}.")
