"""Plain text within a width: harmless names, wrapped sentences, tables that shrink instead of running over."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Collection, Sequence

from tabulate import tabulate

NARROWEST = 20
"""Below this many columns a table cannot be read; narrower terminals get this width."""

_GAP = 2  # what tabulate's 'simple' format puts between two columns,
_HEADER_PADDING = 2  # and what it adds to the width of a header
_ELLIPSIS = "..."


def make_plain(text: object) -> str:
    """`text` on one line with one column per character: what moves the cursor, hides or is double-width is escaped.

    Names come out of files that anybody may have written; they must not reach a terminal as control sequences.
    """
    return "".join(
        char
        if char.isprintable() and unicodedata.east_asian_width(char) not in "WF" and not unicodedata.combining(char)
        else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in str(text)
    )


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters: its middle goes, for names differ at their ends."""
    if len(text) <= width:
        return text
    if width <= len(_ELLIPSIS) + 1:
        return text[: max(width, 0)]
    tail = (width - len(_ELLIPSIS)) // 2
    return text[: width - len(_ELLIPSIS) - tail] + _ELLIPSIS + text[len(text) - tail :]


def shorten_all(texts: Sequence[str], width: int) -> list[str]:
    """Each text in at most `width` characters; where that would make two of them look the same, without what the
    long ones begin and end with alike.
    """
    short = [shorten(text, width) for text in texts]
    if len(set(short)) == len(set(texts)):
        return short
    long = [text for text in set(texts) if len(text) > width]
    head = _shared_start(long)
    tail = _shared_start([text[head:][::-1] for text in long])
    cut = {text: _ELLIPSIS + text[head : len(text) - tail] + _ELLIPSIS * (tail > 0) for text in long}
    return [shorten(cut.get(text, text), width) for text in texts]


def wrap(text: str, width: int, *, indent: str = "") -> list[str]:
    """A sentence in lines of at most `width` characters; `indent` heads every line but the first."""
    lines = textwrap.wrap(
        make_plain(text), max(width, len(indent) + 1), subsequent_indent=indent, break_on_hyphens=False
    )
    return [line.rstrip() for line in lines] or [""]


def list_lines(title: str, items: Sequence[str], width: int) -> list[str]:
    """A titled list, one item after another, wrapped; nothing without items."""
    lines = [line for item in items for line in wrap(f"- {item}", width, indent="  ")]
    return [title, *lines] if lines else []


def table_lines(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    left: Collection[int] = (0,),
    wrapped: Collection[int] = (),
) -> list[str]:
    """A table in lines of at most `width` characters.

    Columns in `left` are text, the others figures. Where the table is too wide, the columns in `wrapped` go on below
    and the other texts lose their middle; figures are cut last.
    """
    cells = [[make_plain(cell) for cell in row] for row in rows]
    widths = [
        max(len(header) + _HEADER_PADDING, *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)
    ]
    order = [*((i, 16) for i in wrapped), *((i, 10) for i in left), *((i, 4) for i in range(len(widths)))]
    for column, narrowest in order:
        excess = sum(widths) + _GAP * (len(widths) - 1) - width
        widths[column] -= max(0, min(excess, widths[column] - narrowest))
    columns = [
        [_break(text, widths[i]) for text in column] if i in wrapped else shorten_all(column, widths[i])
        for i, column in enumerate(zip(*cells, strict=True))
    ]
    text = tabulate(
        list(zip(*columns, strict=True)),
        headers=[shorten(header, max(widths[i] - _HEADER_PADDING, 1)) for i, header in enumerate(headers)],
        tablefmt="simple",
        disable_numparse=True,
        colalign=["left" if i in left else "right" for i in range(len(headers))] if rows else None,
    )
    return [line[:width].rstrip() for line in text.splitlines()]


def _shared_start(texts: Sequence[str]) -> int:
    """How many characters all texts begin with alike: those of the first and the last in sorted order do."""
    first, last = min(texts), max(texts)
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def _break(cell: str, width: int) -> str:
    """A cell over as many lines as a column of `width` needs."""
    return cell if len(cell) <= width else "\n".join(textwrap.wrap(cell, width, break_on_hyphens=False))
