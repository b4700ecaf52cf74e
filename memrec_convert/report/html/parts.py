"""What sections are made of: titled sections, tables, lists, figures with their captions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from memrec_convert.report.html.markup import Child, Html, join, name_of, shorten_names, tag

MOST_ROWS = 400
"""Rows of one table of the page; all of them are in the JSON."""
MOST_ITEMS = 200
LONGEST_NAME = 80
"""Columns of a name that heads a row; longer ones lose what they have in common."""

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
Item = TypeVar("Item")


@dataclass(frozen=True)
class Section:
    """A part of the page under its own heading; `anchor` is what links name."""

    anchor: str
    title: str
    content: Html
    kind: str | None = None

    def render(self) -> Html:
        """The section, named by its heading."""
        heading = tag("h2", self.title, id=f"{self.anchor}-title")
        return tag(
            "section", heading, self.content, id=self.anchor, class_=self.kind, aria_labelledby=f"{self.anchor}-title"
        )


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, and the number that it sorts by."""

    shown: Child
    value: float | None = None


def make_table(
    caption: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    words: Collection[int] = (0,),
    sortable: bool = False,
) -> Html:
    """A table that scrolls within itself where it is too wide; the first column heads the rows.

    Columns in `words` are text, the others figures.
    """
    classes = ["words" if column in words else "figure" for column in range(len(headers))]
    head = tag("tr", *(tag("th", text, scope="col", class_=classes[i]) for i, text in enumerate(headers)))
    shown = rows[:MOST_ROWS]
    names = shorten_names([row[0] if isinstance(row[0], str) else "" for row in shown], LONGEST_NAME)
    body = [
        tag("tr", *(_cell((name or one) if i == 0 else one, i, classes[i]) for i, one in enumerate(row)))
        for name, row in zip(names, shown, strict=True)
    ]
    left_out = len(rows) - len(body)
    said = f"{caption} (the first {len(body):,} of {len(rows):,}; all are in the JSON)" if left_out else caption
    table = tag(
        "table", tag("caption", said), tag("thead", head), tag("tbody", *body), class_="sortable" if sortable else None
    )
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label=f"Table: {caption}")


def make_figure(caption: Child, *content: Child) -> Html:
    """A chart under the sentence that says what it shows."""
    return tag("figure", tag("figcaption", caption), *content)


def side_by_side(*content: Child) -> Html:
    """Parts next to each other where there is room, one below another where not."""
    return tag("div", *content, class_="pair")


def make_list(items: Sequence[str]) -> Html:
    """A list of sentences."""
    shown = [tag("li", _keep_units(name_of(item))) for item in items[:MOST_ITEMS]]
    if len(items) > MOST_ITEMS:
        shown.append(tag("li", f"and {len(items) - MOST_ITEMS:,} more, in the JSON"))
    return tag("ul", *shown, class_="plain")


def make_facts(facts: Sequence[tuple[str, str]]) -> Html:
    """Names and what they are."""
    return tag(
        "dl",
        *(join(tag("dt", name_of(name)), tag("dd", _keep_units(name_of(said)))) for name, said in facts[:MOST_ITEMS]),
        class_="facts",
    )


def split_facts(lines: Sequence[str], names: Mapping[str, str] = EMPTY) -> list[tuple[str, str]]:
    """'name: what it is' as pairs, with names as people write them: those of `names`, else without underscores."""
    pairs = (line.partition(": ") for line in lines)
    return [(names.get(name, name.replace("_", " ")), _unwrap(said)) for name, _, said in pairs]


def fold(summary: str, *content: Child) -> Html:
    """What only some want to see."""
    return tag("details", tag("summary", summary), *content)


def say(*sentences: Child) -> Html:
    """A paragraph."""
    return tag("p", *sentences)


def take_largest(items: Sequence[Item], most: int, size: Callable[[Item], float]) -> tuple[list[Item], int]:
    """The `most` largest in their own order, and how many were left out."""
    kept = sorted(range(len(items)), key=lambda i: -size(items[i]))[:most]
    return [items[i] for i in sorted(kept)], len(items) - len(kept)


def _unwrap(said: str) -> str:
    """Without the brackets that set a mapping within a mapping apart."""
    return said[1:-1] if said.startswith("(") and said.endswith(")") and "(" not in said[1:] else said


def _keep_units(shown: Html) -> Html:
    """No line ends between a number and its per cent."""
    return Html(shown.replace(" %", "&nbsp;%"))


def _cell(cell: Cell | str, column: int, kind: str) -> Html:
    one = cell if isinstance(cell, Cell) else Cell(cell)
    shown = name_of(one.shown) if isinstance(one.shown, str) and not isinstance(one.shown, Html) else one.shown
    value = None if one.value is None else f"{one.value:.10g}"
    if column == 0:
        return tag("th", shown, scope="row", class_=kind, data_value=value)
    return tag("td", shown, class_=kind, data_value=value)
