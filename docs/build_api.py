"""Writes api.md, the reference of the Python interface, beside itself, from the package's signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import is_typeddict

from pydantic import BaseModel

import memrec_convert
from memrec_convert import choices, clicklog, errors, lookup, report
from memrec_convert.checkpoint.facts import Facts
from memrec_convert.checkpoint.inspect import Inspection
from memrec_convert.conversion.evaluate import Evaluation
from memrec_convert.conversion.options import (
    GoalChoices,
    InputChoices,
    LiveChoices,
    OptionChoices,
    Options,
    OutputChoices,
    ReadingChoices,
)
from memrec_convert.conversion.plan import Plan
from memrec_convert.conversion.verify import Verified
from memrec_convert.evaluation.metrics import Decile
from memrec_convert.evaluation.slices import Slice
from memrec_convert.exports.export import Exported, prove
from memrec_convert.exports.place import Proved
from memrec_convert.lab.compare import Compared
from memrec_convert.models.network import ClickNetwork
from memrec_convert.models.table_set import TableSet
from memrec_convert.patches.apply import Applied
from memrec_convert.patches.diff import Diffed, TensorChange

PAGE = Path(__file__).with_name("api.md")
WIDTH = 120
HIDDEN = {"describe", "describe_tables", "read_bags", "blocks", "to_json"}
"""Public members that callers have no use for."""

HEAD = """\
# Python interface

Made from the code by `python docs/build_api.py`: edit the docstrings, not this page.

The verbs are in `memrec_convert` and are imported when they are first used. All that a caller can do wrong raises a
[`MemrecError`](#errors). A `LogPaths` is a path or several: a file, a directory, a glob pattern or a URL each. A
`Progress` is called as `progress(stage, done, total)`, and is silent where none is given.
"""

CHOICES = """\
What `**choices` of the verbs takes, as typed keywords that editors and mypy know. `compress` takes `LiveChoices`: what
a model is for, and fields of `Options`. `evaluate` takes `ReadingChoices`. `plan` and `compare` take `InputChoices`,
which add inputs to fields of `Options`; `convert` takes `OutputChoices`, which add outputs to those.
`assume` states fields of `Facts`.
"""

KEYWORDS: tuple[type, ...] = (OptionChoices, GoalChoices, LiveChoices, ReadingChoices, InputChoices, OutputChoices)

SECTIONS: tuple[tuple[str, str, tuple[object, ...]], ...] = (
    (
        "Files",
        "Verbs that take paths. Each is the command of the same name; `prove`, in `memrec_convert.exports.export`, is\n"
        "`verify` of an export.",
        (
            memrec_convert.inspect,
            memrec_convert.plan,
            memrec_convert.convert,
            memrec_convert.evaluate,
            memrec_convert.compare,
            memrec_convert.verify,
            memrec_convert.export,
            prove,
            memrec_convert.diff,
            memrec_convert.apply,
        ),
    ),
    (
        "Models in memory",
        "",
        (memrec_convert.compress, memrec_convert.save, memrec_convert.load, ClickNetwork.forward, TableSet),
    ),
    ("Choices", CHOICES, (Options, *KEYWORDS[1:], Facts)),
    (
        "Results",
        "Frozen dataclasses; `to_json()` of each gives what `--json` prints.",
        (Inspection, Plan, Evaluation, Compared, Verified, Exported, Proved, Diffed, TensorChange, Applied),
    ),
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
            report.MetricComparison,
            Slice,
            report.GroupReport,
            report.DecileComparison,
            Decile,
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
    if is_typeddict(thing) or issubclass(thing, BaseModel):
        return "\n".join([*lines, show_keywords(thing), "\n" + show_docstring(thing) + "\n"])
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


def show_keywords(thing: type) -> str:
    """The own fields of a model or of typed keywords as a block; a choice stands with its values."""
    own = set(thing.__annotations__)
    inherited = {name for one in KEYWORDS if set(one.__annotations__) < own for name in one.__annotations__}
    shown = []
    for name, annotation in thing.__annotations__.items():
        if name in inherited or name.startswith(("_", "model_")):
            continue
        kind = str(getattr(annotation, "__forward_arg__", annotation))
        values = choices.values_of(getattr(choices, kind, None))
        kind = " | ".join(map(repr, values)) or kind
        field = thing.model_fields[name] if issubclass(thing, BaseModel) else None
        shown.append(f"{name}: {kind}" + ("" if field is None else f" = {field.default!r}"))
    return "```text\n" + "\n".join(shown) + "\n```"


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
