"""Templates in which no value can become markup: each is escaped by one function, unless it was made here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def read_text(name: str) -> str:
    """A file beside the templates, as it is."""
    return files("memrec_convert.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def make_environment(escape: Callable[[object], Markup], **filters: Callable[..., object]) -> Environment:
    """Templates that escape every value that is no markup yet; None shows nothing, a missing name is an error."""

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else Markup() if value is None else escape(value)

    environment = Environment(
        loader=FunctionLoader(read_text),
        autoescape=True,
        extensions=["jinja2.ext.do"],
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment
