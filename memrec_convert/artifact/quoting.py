"""A file's own words in a sentence: printable, on one line and short, whatever they are."""

from __future__ import annotations

_LONGEST_SHOWN = 60
_LONGEST_QUOTE = 300


def quote_error(error: BaseException) -> str:
    """Another library's message, or a file's own words in it, as a clause of one printable line."""
    words = " ".join(str(error).split())
    plain = "".join(letter if letter.isprintable() else "?" for letter in words[:_LONGEST_QUOTE])
    return plain if len(words) <= _LONGEST_QUOTE else f"{plain}..."


def show_value(value: object) -> str:
    """A value of the file in a sentence: text and numbers, cut; of all else the kind alone, however deep it nests."""
    if not isinstance(value, (str, int, float)):
        return type(value).__name__
    shown = ascii(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
