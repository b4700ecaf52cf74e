"""A plan from a shape as text: what the budget would buy, per table, and the published sizes beside an honest count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.figures import describe_shares, format_change, format_ratio, format_share, format_size
from memrec_convert.report.text import NARROWEST, list_lines, table_lines, wrap


def render_shape_plan(plan: Mapping[str, Any], width: int = 80) -> str:
    """What `planning.shape_plan.plan_shape` returned, in lines of at most `width` characters."""
    width = max(width, NARROWEST)
    head = (
        f"{plan['shape']}: {format_size(plan['source_bytes'])} -> {format_size(plan['bytes'])} "
        f"({format_ratio(plan['ratio'])}), {plan['bits_per_row']:.2f} bits per row, dense part "
        f"{format_size(plan['dense_bytes'])}; {format_share(plan['covered'])} of the lookups "
        "find more than a mean row"
    )
    rows = [
        [
            table["name"],
            f"{table['rows']:,}",
            format_size(table["bytes_before"]),
            format_size(table["bytes"]),
            f"{table['bits_per_row']:.2f}",
            format_share(table["covered"]),
            table["form"],
        ]
        for table in plan["tables"]
    ]
    blocks = [
        wrap(head, width),
        wrap(f"Budget: {format_size(plan['budget_bytes'])}; Zipf exponent {plan['zipf']:g}", width)
        + wrap(f"Lookups by form: {describe_shares(plan['lookups'])}", width),
        table_lines(
            ["table", "rows", "before", "after", "bits/row", "covered", "form"], rows, width, left=(0, 6), wrapped=(6,)
        ),
        _published_lines(plan["published"], width),
        list_lines("Assumed:", plan["assumed"], width),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _published_lines(published: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    if not published:
        return []
    rows = [
        [
            f"{one['d']:,}",
            f"{one['published_parameters'] / 1e6:.1f} M",
            f"{one['published_bytes'] / 1e6:.0f} MB",
            _ratio(one["published_ratio"]),
            _ratio(one["printed_ratio"]),
            f"{one['bytes'] / 1e6:.1f} MB",
            _ratio(one["ratio"]),
            "" if one["auc_change"] is None else format_change(one["auc_change"], 3),
        ]
        for one in published
    ]
    headers = ["d", "params", "theirs", "ratio", "printed", "all", "ratio", "AUC"]
    note = "Theirs: the top's first layer and the weight table left out. All: nothing left out. AUC: their change."
    if not all(one["all_layers_known"] for one in published):
        note += " The layers of this one are nowhere printed: all adds the weight table alone."
    return [
        *wrap("MEM-REC, one table for the pooled sample:", width),
        *table_lines(headers, rows, width, left=()),
        *wrap(note, width),
    ]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}x"
