"""The rows and lines of the charts of a report's own figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from memrec_convert.report.figures import format_change, format_share, format_size
from memrec_convert.report.html.given import read_points
from memrec_convert.report.html.markup import shorten_names
from memrec_convert.report.html.plots import Line, Plot, Row, Values, list_areas, list_lines
from memrec_convert.report.html.scale import Scale, change_scale, label_size, linear_scale, log_scale
from memrec_convert.report.tables import take_largest

MOST_INTERVALS = MOST_BARS = 30
MOST_STEPS = 500
NAMED_TABLES = 5
DENSE, REST, OTHERS = 5, 6, 7
"""Colours of the dense part, of headers, and of all tables that are not named."""
LABEL = 18
"""Columns of a label in a chart that must fit a telephone."""
CONTROLS = {"training": "training gives", "conversion": "conversion costs", "compression": "compression costs"}
MANY, SOME = 7, 4
"""Stages of a code from which it is called one of many, of some."""
_CODE = re.compile(r"code\(([0-9]{1,4})\)")


@dataclass(frozen=True)
class Kind:
    """Forms that share a colour: their name in the legend, and what they mean."""

    name: str
    colour: int
    says: str


KINDS: Final = (
    Kind("kept", 0, "the whole table stays as rows, perhaps at lower precision"),
    Kind("row", 5, "the id's own row is stored, at lower precision"),
    Kind("code, 7 stages and more", 2, "a sum of codebook entries, one for each stage: near the original's row"),
    Kind("code, 4 to 6 stages", 6, "a sum of 4 to 6 codebook entries: less close to the original's row"),
    Kind("code, 1 to 3 stages", 1, "a coarse sum: what ids with similar rows have in common"),
    Kind("hashed", 4, "computed from hashes of the id, as in MEM-REC"),
    Kind("mean", 3, "the table's mean row, the same for all these ids"),
    Kind("other", 7, "a form that this version does not know"),
)


def auc_rows(values: Values) -> list[Row]:
    """The AUC's change with both intervals, and that of the groups' mean AUC; or the change of the metric."""
    auc, groups, metric = values["auc"], values["groups"], values.get("metric")
    if metric is not None and metric["ci95"] is not None:
        return [_interval_row(f"{metric['title']}, {metric['resampled']} resampled", metric["delta"], metric["ci95"])]
    if auc is None:
        return []
    rows = [_interval_row("AUC, rows independent", auc["delta"], auc["ci95"])]
    if groups:
        rows.append(_interval_row("AUC, groups resampled", auc["delta"], groups["auc_ci95"]))
        if isinstance(groups["gauc"], Mapping):
            rows.append(_interval_row("GAUC, mean of groups", groups["gauc"]["delta"], groups["gauc"]["ci95"]))
    return rows


def control_rows(control: Values) -> list[Row]:
    """What training gives and what compression costs, told apart."""
    return [_interval_row(title, control[key]["delta"], control[key]["ci95"]) for key, title in CONTROLS.items()]


def ablation_rows(entries: Sequence[Values]) -> tuple[list[Row], int]:
    """What each table alone costs, and how many small changes are left out."""
    shown, left_out = take_largest(entries, MOST_INTERVALS, lambda entry: abs(float(entry["delta"])))
    labels = shorten_names([entry["table"] for entry in shown], 24)
    return [_interval_row(label, e["delta"], e["ci95"]) for label, e in zip(labels, shown, strict=True)], left_out


def interval_scale(rows: Sequence[Row]) -> Scale:
    """The scale of rows with intervals."""
    return change_scale(end for row in rows for end in (row.value, *(row.span or ())))


def say_rows(rows: Sequence[Row]) -> str:
    """The first rows in words."""
    return "; ".join(f"{row.label} {row.said}" for row in rows[:6]) + "."


def plot_calibration(deciles: Values) -> Plot:
    """Predicted against observed clicks by decile."""
    points = {side: [(e["mean_prediction"], e["mean_label"]) for e in deciles[side]] for side in ("before", "after")}
    lines = list_lines([("before", points["before"], 1, False, True), ("after", points["after"], 0, True, True)])
    scale = linear_scale([0.0, *(end for line in lines for point in line.points for end in point)], "{:g}".format)
    return Plot(lines, scale, scale)


def part_rows(tables: Sequence[Values], sizes: Values) -> tuple[list[Row], list[Line]]:
    """Both files, each as a bar split into its parts, and the parts' legend."""
    source, artifact = sizes["source"], sizes["artifact"]
    before, after = source["tables"] + source["dense"], artifact["total"]
    named, left_out = take_largest(
        tables, NAMED_TABLES, lambda one: max(_share(one["bytes_before"], before), _share(one["bytes_after"], after))
    )
    bars = []
    for label, side, total, dense, header in (
        ("Before", "bytes_before", before, source["dense"], 0),
        ("After", "bytes_after", after, artifact["dense"], artifact["header"]),
    ):
        others = sum(table[side] for table in tables) - sum(table[side] for table in named)
        parts = [(table["name"], table[side], number) for number, table in enumerate(named)]
        parts += [("other tables", others, OTHERS), ("dense part", dense, DENSE), ("names and header", header, REST)]
        shares = tuple((name, _share(part, total), colour) for name, part, colour in parts)
        bars.append(Row(label, format_size(total), shares))
    legend = [(table["name"], number) for number, table in enumerate(named)]
    legend += [(f"{left_out:,} other table" + "s" * (left_out != 1), OTHERS)] if left_out else []
    return bars, list_areas([*legend, ("dense part", DENSE), ("names and header", REST)])


def change_rows(tables: Sequence[Values]) -> tuple[list[Row], Scale, int] | None:
    """Bytes of each table before and after, their scale, and how many small tables are left out."""
    shown, labels, left_out = _take_tables([one for one in tables if one["bytes_before"] > 0 < one["bytes_after"]])
    if not shown:
        return None
    ends = [(float(one["bytes_before"]), float(one["bytes_after"])) for one in shown]
    rows = [
        Row(label, f"{format_size(before)} → {format_size(after)}", span=(before, after))
        for label, (before, after) in zip(labels, ends, strict=True)
    ]
    return rows, log_scale((end for pair in ends for end in pair), label_size), left_out


def lookup_rows(tables: Sequence[Values]) -> tuple[list[Row], int]:
    """Which form serves which share of the lookups of each table, and how many small tables are left out."""
    shown, labels, left_out = _take_tables(tables)
    shares = [table["lookup_share"] for table in shown]
    return [Row(label, _name_largest(s), split_shares(s)) for label, s in zip(labels, shares, strict=True)], left_out


def list_kinds(tables: Sequence[Values]) -> list[Kind]:
    """The kinds of forms that any lookup of the tables meets."""
    found = {colour for table in tables for _, _, colour in split_shares(table["lookup_share"])}
    return [kind for kind in KINDS if kind.colour in found]


def kind_legend(kinds: Sequence[Kind]) -> list[Line]:
    """Their legend."""
    return list_areas((kind.name, kind.colour) for kind in kinds)


def split_shares(shares: Mapping[str, float]) -> tuple[tuple[str, float, int], ...]:
    """A bar's parts (form, share, colour), the best form first; shares that add up to more than all are scaled."""
    total = max(1.0, sum(share for share in shares.values() if share > 0))
    ordered = sorted((rank_form(form), form) for form, share in shares.items() if share > 0)
    return tuple((form, shares[form] / total, KINDS[rank[0]].colour) for rank, form in ordered)


def rank_form(form: str) -> tuple[int, int]:
    """(place in KINDS, place within it) of a form by its name: codes of more stages come first."""
    code = _CODE.fullmatch(form)
    if code is None:
        return {"kept": 0, "row": 1, "hashed": 5, "mean": 6}.get(form, len(KINDS) - 1), 0
    stages = int(code[1])
    return (2 if stages >= MANY else 3 if stages >= SOME else 4), -stages


def plot_history(training: Values) -> Plot | None:
    """The hold-out while training; None where fewer than two measurements are known."""
    points = read_points(training.get("history"), "step", "score", least=0)[:MOST_STEPS]
    if len(points) < 2:
        return None
    across = linear_scale([0.0, *(x for x, _ in points)], "{:,.0f}".format)
    up = linear_scale([y for _, y in points], "{:.6g}".format, most=4)
    return Plot([Line("hold-out", points, ours=True)], across, up)


def _interval_row(label: str, delta: float, interval: Sequence[float] | None) -> Row:
    span = None if interval is None else (interval[0], interval[1])
    return Row(label, format_change(delta, 5), value=delta, span=span)


def _take_tables(tables: Sequence[Values]) -> tuple[list[Values], list[str], int]:
    """The largest tables, their names for a chart, and how many are left out."""
    shown, left_out = take_largest(tables, MOST_BARS, lambda table: float(table["bytes_before"]))
    return shown, shorten_names([table["name"] for table in shown], LABEL), left_out


def _name_largest(shares: Mapping[str, float]) -> str:
    form = max(shares, key=lambda form: shares[form])
    return f"{shorten_names([form], 14)[0]} {format_share(shares[form])}"


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
