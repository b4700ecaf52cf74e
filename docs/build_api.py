"""Writes api.md, the reference of the Python interface, beside itself, from the package's signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path

import memrec_convert
from memrec_convert import clicklog, errors, lookup, report
from memrec_convert.checkpoint.facts import Facts
from memrec_convert.conversion.options import Options
from memrec_convert.models.network import ClickNetwork
from memrec_convert.models.table_set import TableSet

PAGE = Path(__file__).with_name("api.md")
WIDTH = 120
HIDDEN = {"describe", "describe_tables", "may_replace", "workers", "read_bags", "blocks"}
"""Public members that callers have no use for."""

HEAD = """\
# Python interface

Made from the code by `python docs/build_api.py`: edit the docstrings, not this page.

The verbs are in `memrec_convert` and are imported when they are first used. All that a caller can do wrong raises a
[`MemrecError`](#errors). A `LogPaths` is a path or several: a file, a directory or a glob pattern each. A `Progress` is
called as `progress(stage, done, total)`, and is silent where none is given.
"""

CHOICES = """\
What `**choices` of the verbs takes: the fields of `Options`, which hold for any model; the fields of `Facts`, which say
what a checkpoint leaves open; and, where logs are read, `columns`, `id_map`, `modulus`, `pairs`, `dense_transform` and
`assume`, as the [options](cli.md#convert) of the same names.
"""

SECTIONS: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    (
        "Files",
        "Verbs that take paths. Each is the command of the same name.",
        (
            memrec_convert.inspect,
            memrec_convert.plan,
            memrec_convert.convert,
            memrec_convert.evaluate,
            memrec_convert.compare,
            memrec_convert.verify,
        ),
    ),
    (
        "Models in memory",
        "",
        (memrec_convert.compress, memrec_convert.save, memrec_convert.load, ClickNetwork.forward, TableSet),
    ),
    ("Choices", CHOICES, (Options, Facts)),
    (
        "Modules",
        "In `memrec_convert.lookup`: what stands where an embedding module was.",
        (lookup.CompressedEmbedding, lookup.CompressedEmbeddingBag),
    ),
    (
        "Logs",
        "In `memrec_convert.clicklog`.",
        (
            clicklog.open_log,
            clicklog.LogSchema,
            clicklog.ClickLog,
            clicklog.Batch,
            clicklog.take_profile,
            clicklog.save_profile,
            clicklog.load_profile,
            clicklog.Profile,
            clicklog.write_synthetic_log,
            clicklog.SyntheticSpec,
        ),
    ),
    (
        "Report",
        "In `memrec_convert.report`. The JSON file holds the fields and the properties of all these.",
        (
            report.Report,
            report.ArtifactFile,
            report.TableReport,
            report.Sizes,
            report.SourceSizes,
            report.ArtifactSizes,
            report.Comparison,
            report.AucComparison,
            report.SliceReport,
            report.GroupReport,
            report.DecileComparison,
            report.DecileReport,
            report.AblationReport,
            report.ControlReport,
            report.Alternative,
            report.Provenance,
        ),
    ),
)


def build_page() -> str:
    """The page as the code gives it now."""
    parts = [HEAD]
    for title, text, things in SECTIONS:
        parts.append(f"## {title}\n" + (f"\n{text.strip()}\n" if text else ""))
        parts += [describe(thing) for thing in things]
    parts.append(describe_errors())
    return "\n".join(parts)


def describe(thing: object) -> str:
    """A function, or a class with its fields and public methods."""
    if inspect.isclass(thing):
        return describe_class(thing)
    assert callable(thing)
    name = thing.__qualname__
    return f"### {name}\n\n{show_signature(name, thing)}\n\n{show_docstring(thing)}\n"


def describe_class(thing: type) -> str:
    """Signature or fields, docstring, then the methods and properties that it defines itself."""
    lines = [f"### {thing.__name__}\n"]
    if is_dataclass(thing):
        lines.append(show_fields(thing))
    elif "__init__" in vars(thing):
        lines.append(show_signature(thing.__name__, thing))
    lines.append("\n" + show_docstring(thing) + "\n")
    for name, value in vars(thing).items():
        if name.startswith("_") or name in HIDDEN:
            continue
        if isinstance(value, property):
            lines.append(f"`.{name}`: {show_docstring(value.fget)}\n")
        elif inspect.isfunction(value) or isinstance(value, classmethod):
            method = getattr(thing, name)
            label = f"{thing.__name__}.{name}" if isinstance(value, classmethod) else f".{name}"
            lines.append(f"{show_signature(label, method)}\n\n{show_docstring(method)}\n")
    return "\n".join(lines)


def show_fields(thing: type) -> str:
    """The fields of a dataclass as a block: name, type, default."""
    return "```text\n" + "\n".join(show_field(each) for each in fields(thing)) + "\n```"


def show_field(each: Field[object]) -> str:
    """A field as it stands in the code; a default that is made by a call is shown empty."""
    if each.default is not MISSING:
        return f"{each.name}: {each.type} = {each.default!r}"
    factory = "" if each.default_factory is MISSING else f" = {each.default_factory()!r}"
    return f"{each.name}: {each.type}{factory}"


def show_signature(name: str, thing: object) -> str:
    """The call in a block: one line where it fits, else one per argument."""
    assert callable(thing)
    signature = inspect.signature(thing)
    parts, keyword_only = [], False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        if each.name != "self":
            parts.append(show_argument(each))
    result = "" if inspect.isclass(thing) else f" -> {show_type(signature.return_annotation)}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])
    return f"```text\n{line}\n```"


def show_argument(each: inspect.Parameter) -> str:
    """An argument as it stands in the code; a default that is a function is left out."""
    stars = "**" if each.kind is each.VAR_KEYWORD else ""
    default = "..." if inspect.isfunction(each.default) else repr(each.default)
    return f"{stars}{each.name}: {show_type(each.annotation)}" + ("" if each.default is each.empty else f" = {default}")


def show_type(annotation: object) -> str:
    """An annotation as it was written."""
    assert isinstance(annotation, str)
    return annotation


def show_docstring(thing: object) -> str:
    """A docstring as Markdown: aligned lists of names keep their lines, everything else stays prose."""
    text = inspect.getdoc(thing)
    assert text, thing
    paragraphs = []
    for paragraph in text.split("\n\n"):
        aligned = re.search(r"^\w[\w, ]*?  +\S", paragraph, re.MULTILINE)
        paragraphs.append(f"```text\n{paragraph}\n```" if aligned else paragraph)
    return "\n\n".join(paragraphs)


def describe_errors() -> str:
    """The tree of errors, as the module draws it."""
    tree = str(inspect.getdoc(errors)).split("\n\n", 1)[1]
    return (
        "## Errors\n\nIn `memrec_convert.errors`. Each has an `exit_code`, the one of the command line.\n\n"
        f"```text\n{tree}\n```\n"
    )


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
