"""The tables of a report, once for terminal, card and page: what their columns are, and the words of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from memrec_convert.report.figures import (
    describe_interval,
    describe_shares,
    format_change,
    format_ratio,
    format_share,
    format_size,
    format_value,
)

QUALITY = {
    "auc": "AUC",
    "log_loss": "log loss",
    "normalized_entropy": "normalized entropy",
    "calibration": "calibration",
}
"""Figures of quality: keys of the JSON, and their names for people."""
CONTROLS = {
    "training": "what training gives the original",
    "conversion": "what conversion alone costs",
    "compression": "what compression costs, both fine-tuned",
}

Values = Mapping[str, Any]
Item = TypeVar("Item")


class Cell(str):
    """A figure in words, and the number that it sorts by."""

    value: float

    def __new__(cls, words: str, value: float) -> Cell:
        """`words` with their number."""
        made = super().__new__(cls, words)
        made.value = value
        return made


@dataclass(frozen=True)
class Table:
    """Rows of as many texts as there are columns; the columns in `words` are text, the others figures."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    words: tuple[str, ...] = ()

    def pick(self, *columns: str) -> Table:
        """The table with those columns alone."""
        places = [self.columns.index(name) for name in columns]
        return replace(self, columns=columns, rows=[[row[place] for place in places] for row in self.rows])

    def places(self, columns: Sequence[str]) -> tuple[int, ...]:
        """Where those of the columns stand that the table has."""
        return tuple(place for place, name in enumerate(self.columns) if name in columns)


def quality_table(values: Values) -> Table:
    """Each figure of quality, six digits; a bare number counts as 'after'. A metric of its own stands alone."""
    rows, metric = [], values.get("metric")
    for key, name in QUALITY.items() if metric is None else (("metric", metric["title"]),):
        entry = values.get(key)
        pair = entry if isinstance(entry, Mapping) else {"after": entry}
        before, after = pair.get("before"), pair.get("after")
        change = None if before is None or after is None else after - before
        rows.append([name, format_value(before, 6), format_value(after, 6), format_change(change, 6)])
    return Table("Figures of quality", ("quality", "before", "after", "change"), rows, ("quality",))


def size_table(sizes: Values) -> Table:
    """Bytes by part, of the source and of the artifact."""
    source, artifact = sizes["source"], sizes["artifact"]
    rest = source["file"] - source["tables"] - source["dense"]
    rows = [
        ["tables", source["tables"], artifact["tables"]],
        ["dense part", source["dense"], artifact["dense"]],
        ["rest of the file", rest, artifact["header"]],
        ["whole file", source["file"], artifact["total"]],
    ]
    shown = [[part, format_size(before), format_size(after)] for part, before, after in rows]
    return Table("Sizes by part", ("size of", "before", "after"), shown, ("size of",))


def model_table(tables: Sequence[Values]) -> Table:
    """What each of the model's tables was and became; what a plan does not know yet may be missing."""
    columns = ("table", "rows", "dim", "before", "after", "ratio", "bits per row", "method", "form", "lookups by form")
    shown = [_model_row(entry) for entry in tables]
    return Table("What each table was and became", columns, shown, ("table", "method", "form", "lookups by form"))


def _model_row(entry: Values) -> list[str]:
    rows, before, after = entry["rows"], entry["bytes_before"], entry["bytes_after"]
    return [
        entry["name"],
        _count(rows),
        _count(entry["dim"]),
        _size(before),
        _size(after),
        _known(before / after if after else None, format_ratio),
        _known(8 * after / rows if rows else None, "{:,.1f}".format),
        entry.get("method") or "",
        entry.get("form") or entry.get("method") or "",
        describe_shares(entry.get("lookup_share")),
    ]


def slice_table(slices: Sequence[Values]) -> Table:
    """AUCs over the rows whose lookup in a table has a form."""
    rows = [
        [
            entry["table"],
            entry["form"],
            _count(entry["samples"]),
            Cell(format_share(entry["share"]), entry["share"]),
            _known(entry["auc_before"], format_value, -1.0),
            _known(entry["auc_after"], format_value, -1.0),
            _known(entry["delta"], format_change, -1.0),
        ]
        for entry in slices
    ]
    columns = ("AUC where", "form", "samples", "share", "before", "after", "change")
    return Table("AUC over the rows whose lookup has a form", columns, rows, ("AUC where", "form"))


def decile_table(deciles: Values) -> Table:
    """Mean prediction and share of clicks by tenth of the rows, lowest predictions first."""
    rows = [
        [str(number), *(f"{entry[key]:.4f}" for entry in pair for key in ("mean_prediction", "mean_label"))]
        for number, pair in enumerate(zip(deciles["before"], deciles["after"], strict=True), start=1)
    ]
    columns = ("decile", "predicted before", "clicks before", "predicted after", "clicks after")
    return Table("Calibration by decile of the prediction", columns, rows, columns[:1])


def ablation_table(ablation: Sequence[Values]) -> Table:
    """The AUC of the original with each table alone compressed."""
    rows = [
        [entry["table"], format_value(entry["auc"]), _change(entry["delta"]), describe_interval(entry["ci95"], 5)]
        for entry in ablation
    ]
    columns = ("this table alone", "AUC", "change", "95 % interval")
    return Table("AUC with one table alone compressed", columns, rows, columns[:1])


def control_table(control: Values) -> Table:
    """The control's three differences."""
    rows = [
        [
            title,
            format_value(entry["before"]),
            format_value(entry["after"]),
            _change(entry["delta"]),
            describe_interval(entry["ci95"], 5),
        ]
        for entry, title in ((control[key], title) for key, title in CONTROLS.items())
    ]
    columns = ("training and compression", "before", "after", "change", "95 % interval")
    return Table("Training and compression", columns, rows, columns[:1])


def alternative_table(alternatives: Sequence[Values]) -> Table:
    """The plans that lost."""
    rows = [
        [entry["name"], _size(entry["bytes"]), _known(entry.get("score"), "{:.6g}".format), entry.get("note") or ""]
        for entry in alternatives
    ]
    columns = ("alternative", "bytes", "score", "note")
    return Table("What lost against it (score: lower is better)", columns, rows, ("alternative", "note"))


def take_largest(items: Sequence[Item], most: int, size: Callable[[Item], float]) -> tuple[list[Item], int]:
    """The `most` largest in their own order, and how many were left out."""
    kept = sorted(range(len(items)), key=lambda i: -size(items[i]))[:most]
    return [items[i] for i in sorted(kept)], len(items) - len(kept)


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", number)


def _size(size: int) -> Cell:
    return Cell(format_size(size), size)


def _change(delta: float) -> Cell:
    return Cell(format_change(delta, 5), delta)


def _known(value: float | None, say: Callable[[float], str], unknown: float = 0.0) -> Cell:
    """A figure in words, or a dash that sorts as `unknown`."""
    return Cell("-", unknown) if value is None else Cell(say(value), value)
