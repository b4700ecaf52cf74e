"""HTML that cannot be broken out of: text is escaped unless it was made here."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence

from markupsafe import Markup

from memrec_convert.report.text import shorten, shorten_all

MOST_CHARACTERS = 600
"""A longer text from a file loses its middle: the page stays small whatever a name holds."""
MOST_MARKS = 3
"""More combining marks on one letter would reach into the lines above and below."""
NO_BREAK = "\u00a0"


def escape(text: object) -> Markup:
    """`text` as a browser shows it and nothing else: no markup, no control or direction marks, no endless names."""
    return Markup(html.escape(make_harmless(text), quote=True))


def name_of(text: object) -> Markup:
    """A name from a file: isolated, so that letters written right to left do not reorder what stands beside them.

    No line ends between a number and its per cent.
    """
    return Markup(f"<bdi>{escape(text).replace(' %', NO_BREAK + '%')}</bdi>")


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


def format_percent(share: float) -> str:
    """A share as a coordinate across."""
    return f"{format_number(100 * share)}%"
