"""Sections on bytes: where they go, table by table, and which form serves how many lookups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memrec_convert.report.figures import describe_shares, format_ratio, format_share, format_size, size_rows
from memrec_convert.report.html.markup import Html, join, shorten_names
from memrec_convert.report.html.parts import (
    Cell,
    Section,
    make_facts,
    make_figure,
    make_table,
    say,
    side_by_side,
    take_largest,
)
from memrec_convert.report.html.scale import log_scale
from memrec_convert.report.html.svg import Row, draw_legend, plot_changes, plot_shares

NAMED_TABLES = 5
DENSE, REST, OTHERS = 5, 6, 7
"""Colours of the dense part, of headers, and of all tables that are not named."""
MOST_BARS = 30
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
    Kind("code, 4 to 6 stages", 6, "the same with fewer entries"),
    Kind("code, 1 to 3 stages", 1, "a coarse sum: what ids with similar rows have in common"),
    Kind("hashed", 4, "computed from hashes of the id, as in MEM-REC"),
    Kind("mean", 3, "the table's mean row, the same for all these ids"),
    Kind("other", 7, "a form that this version does not know"),
)
LABEL = 18
"""Columns of a label in a chart that must fit a telephone."""

Values = Mapping[str, Any]


def show_bytes(values: Values) -> Section:
    """Both files by their parts, and each table before and after."""
    tables, sizes = values["tables"], values["sizes"]
    budget = (
        f"The budget was {format_size(values['budget_bytes'])} ({values['budget_bytes']:,} bytes) and counts the whole "
        f"file; the file has {values['artifact']['bytes']:,} bytes. Serving memory: "
        f"{format_size(values['serving_bytes'])}. Ratios leave out what else the source's file holds, such as "
        "optimizer state."
    )
    parts = make_table("Sizes by part", ["part", "before", "after"], size_rows(sizes))
    drawn = join(say(budget), side_by_side(_draw_parts(tables, sizes), parts), _draw_changes(tables))
    return Section("bytes", "Where the bytes go", drawn)


def show_lookups(values: Values) -> Section:
    """Which form serves which share of the lookups of each table."""
    known = [table for table in values["tables"] if table["lookup_share"]]
    if not known:
        return Section("lookups", "Lookups by form", say("Not measured: there was no lookup profile (--data)."))
    shown, left_out = take_largest(known, MOST_BARS, lambda table: float(table["bytes_before"]))
    labels = shorten_names([table["name"] for table in shown], LABEL)
    rows = [
        Row(label, _largest(table["lookup_share"]), split_shares(table["lookup_share"]))
        for label, table in zip(labels, shown, strict=True)
    ]
    chart = plot_shares(
        rows, title="Lookups by form", description=f"A bar per table, split by form, for {len(rows)} tables."
    )
    found = {colour for table in known for _, _, colour in split_shares(table["lookup_share"])}
    legend = [(kind.name, kind.colour, False) for kind in KINDS if kind.colour in found]
    caption = (
        "Share of the profile's lookups that each form serves, the nearest to the original's rows on the left."
        + _say_left_out(left_out)
    )
    meanings = make_facts([(kind.name, kind.says) for kind in KINDS if kind.colour in found])
    figure = make_figure(caption, draw_legend(legend, marks=False), chart)
    return Section("lookups", "Lookups by form", side_by_side(figure, meanings))


def show_tables(values: Values) -> Section:
    """The plan of every table, to be sorted."""
    rows = [_table_row(table) for table in values["tables"]]
    headers = ["table", "rows", "dim", "before", "after", "ratio", "bits per row", "method", "form", "lookups by form"]
    table = make_table("What each table was and became", headers, rows, words=(0, 7, 8, 9), sortable=True)
    return Section("tables", "Plan by table", table if rows else say("There are none."))


def _table_row(table: Values) -> list[Cell | str]:
    before, after, rows = table["bytes_before"], table["bytes_after"], table["rows"]
    ratio = before / after if after else None
    bits = 8 * after / rows if rows else None
    return [
        table["name"],
        Cell(f"{rows:,}", rows),
        Cell(f"{table['dim']:,}", table["dim"]),
        Cell(format_size(before), before),
        Cell(format_size(after), after),
        Cell("-" if ratio is None else format_ratio(ratio), ratio or 0.0),
        Cell("-" if bits is None else f"{bits:,.1f}", bits or 0.0),
        table["method"],
        table["form"],
        describe_shares(table["lookup_share"]),
    ]


def _draw_parts(tables: Sequence[Values], sizes: Values) -> Html:
    source, artifact = sizes["source"], sizes["artifact"]
    totals = (source["tables"] + source["dense"], artifact["total"])
    named, left_out = take_largest(
        tables,
        NAMED_TABLES,
        lambda table: max(_share(table["bytes_before"], totals[0]), _share(table["bytes_after"], totals[1])),
    )
    bars = []
    for side, total, dense, header in (
        ("bytes_before", totals[0], source["dense"], 0),
        ("bytes_after", totals[1], artifact["dense"], artifact["header"]),
    ):
        parts = [(table["name"], _share(table[side], total), number) for number, table in enumerate(named)]
        others = sum(table[side] for table in tables) - sum(table[side] for table in named)
        parts += [
            ("other tables", _share(others, total), OTHERS),
            ("dense part", _share(dense, total), DENSE),
            ("names and header", _share(header, total), REST),
        ]
        bars.append(Row("Before" if side == "bytes_before" else "After", format_size(total), tuple(parts)))
    legend = [(table["name"], number, False) for number, table in enumerate(named)]
    if left_out:
        legend.append((f"{left_out:,} other table" + "s" * (left_out != 1), OTHERS, False))
    legend += [("dense part", DENSE, False), ("names and header", REST, False)]
    chart = plot_shares(
        bars,
        title="Bytes by part",
        description=f"The source's {format_size(totals[0])} and the artifact's {format_size(totals[1])}, each as a "
        "bar split into tables, dense part and header.",
    )
    return make_figure("Shares of the bytes, each bar of its own whole.", draw_legend(legend, marks=False), chart)


def _draw_changes(tables: Sequence[Values]) -> Html | None:
    known = [table for table in tables if table["bytes_before"] > 0 and table["bytes_after"] > 0]
    if not known:
        return None
    shown, left_out = take_largest(known, MOST_BARS, lambda table: float(table["bytes_before"]))
    labels = shorten_names([table["name"] for table in shown], LABEL)
    rows = [
        Row(
            label,
            f"{format_size(one['bytes_before'])} → {format_size(one['bytes_after'])}",
            span=(one["bytes_before"], one["bytes_after"]),
        )
        for label, one in zip(labels, shown, strict=True)
    ]
    scale = log_scale((end for row in rows if row.span for end in row.span), label_size)
    chart = plot_changes(
        rows,
        scale,
        title="Bytes of each table before and after",
        description=f"{len(rows)} tables on a logarithmic scale; all figures are in the plan by table.",
    )
    caption = "Bytes of each table, before (hollow) and after (full), on a logarithmic scale."
    return make_figure(caption + _say_left_out(left_out), chart)


def label_size(size: float) -> str:
    """A tick's size: 10 MB, 200 kB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor * 0.9999:
            return f"{size / factor:g} {unit}"
    return f"{size:g} B"


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


def _largest(shares: Mapping[str, float]) -> str:
    form = max(shares, key=lambda form: shares[form])
    return f"{shorten_names([form], 14)[0]} {format_share(shares[form])}"


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _say_left_out(number: int) -> str:
    return f" The {number:,} smallest tables are in the table of the plan only." if number else ""
