"""HTML that cannot be broken out of: text is escaped unless it was made here."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from memrec_convert.report.text import shorten, shorten_all

MOST_CHARACTERS = 600
"""A longer text from a file loses its middle: the page stays small whatever a name holds."""
MOST_MARKS = 3
"""More combining marks on one letter would reach into the lines above and below."""
VOID: Final = frozenset({"br", "link", "meta"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


class Html(str):
    """Text that is markup already. Only this package makes it, from escaped parts."""

    __slots__ = ()


Child = Html | str | None


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element. Children that are no Html are escaped; attributes of None or False are left out.

    Names of attributes are Python's: `class_` is class, `aria_label` is aria-label, `viewBox` keeps its case.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False, ""))
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """The children one after another, escaped where they are no Html."""
    return Html("".join(one if isinstance(one, Html) else escape(one) for one in children if one is not None))


def escape(text: object) -> Html:
    """`text` as a browser shows it and nothing else: no markup, no control or direction marks, no endless names."""
    return Html(html.escape(make_harmless(text), quote=True))


def name_of(text: object) -> Html:
    """A name from a file: isolated, so that letters written right to left do not reorder what stands beside them."""
    return tag("bdi", str(text))


def make_harmless(text: object) -> str:
    """One line of printable characters, at most MOST_CHARACTERS of the text's: the invisible is shown as its escape."""
    shown, marks = [], 0
    for char in shorten(str(text), MOST_CHARACTERS):
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me", "Mc") else 0
        harmless = char.isprintable() and marks <= MOST_MARKS
        shown.append(char if harmless else char.encode("unicode_escape", "backslashreplace").decode("ascii"))
    return "".join(shown)


def shorten_names(names: Sequence[str], width: int) -> list[str]:
    """Names for a chart, where nothing wraps: `width` columns each, those alike at both ends told apart."""
    plain = [make_harmless(name) for name in names]
    wide = any(unicodedata.east_asian_width(char) in "WF" for name in plain for char in name)
    return shorten_all(plain, width // 2 if wide else width)


def format_number(value: float) -> str:
    """A coordinate with no more digits than can be seen."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an attribute")
    if value is True:
        return f" {name}"
    return f' {name}="{format_number(value) if isinstance(value, float) else escape(value)}"'
