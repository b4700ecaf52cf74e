"""Shapes: the tables and layers of a model without its numbers, and what MEM-REC's authors count for them.

Needs no torch: a plan from a shape is an answer within a second.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memrec_convert.errors import RecipeError
from memrec_convert.recipe import LARGEST_RECIPE_BYTES, _found, _on_one_line, _UniqueKeyLoader

MOST_ROWS = 1 << 48
MOST_TABLES = 100_000
_WHOLE = "a whole number above zero"
_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True)


class Layers(BaseModel):
    """The dense part: layer widths of both MLPs, or, where they are not known, the parameters in all."""

    model_config = _CONFIG

    bottom: list[int] = Field(default_factory=list, description="a list of layer widths")
    top: list[int] = Field(default_factory=list, description="a list of layer widths")
    parameters: int | None = Field(default=None, gt=0, description=_WHOLE)

    @model_validator(mode="after")
    def _has_layers(self) -> Layers:
        if (self.parameters is None) == (not self.top):
            raise ValueError("expected either the widths of bottom and top, or parameters")
        if any(width < 1 for width in [*self.bottom, *self.top]):
            raise ValueError("expected layer widths above zero")
        return self

    def count(self) -> int:
        """Parameters of all layers, biases included."""
        return self.parameters or _count_mlp(self.bottom) + _count_mlp(self.top)

    def count_as_published(self) -> int:
        """Without the top's first layer, as the authors of MEM-REC count."""
        return self.parameters or _count_mlp(self.bottom) + _count_mlp(self.top[1:])


class Published(Layers):
    """The sample-pooled model of MEM-REC's authors: rows of `width`, the sizes d of its tables, and what they print."""

    width: int = Field(gt=0, description=_WHOLE)
    d: list[int] = Field(min_length=1, description="a list of whole numbers above zero")
    k: int = Field(default=1, gt=0, le=64, description="a whole number from 1 to 64")
    k_weights: int = Field(default=1, ge=0, le=64, description="a whole number from 0 to 64")
    printed_ratios: list[int] | None = Field(default=None, description="a whole number for each d")
    auc_changes: list[float] | None = Field(default=None, description="a number for each d")

    @model_validator(mode="after")
    def _sizes_hold_tokens(self) -> Published:
        for d in self.d:
            if d < max(self.k, self.k_weights, 1):
                raise ValueError(
                    f"d is {d}, and an id has {self.k} tokens and {self.k_weights} weights in tables of d; "
                    "expected d no smaller than k and k_weights"
                )
        for name in ("printed_ratios", "auc_changes"):
            if len(getattr(self, name) or self.d) != len(self.d):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {len(self.d)} sizes d")
        return self


class Shape(BaseModel):
    """Rows of each table, their one width, the dense part, and what is published of it."""

    model_config = _CONFIG

    description: str = Field(default="", description="a sentence")
    source: str | None = Field(default=None, description="where the values come from, as text")
    rows: list[int] = Field(min_length=1, max_length=MOST_TABLES, description="a list of whole numbers above zero")
    names: list[str] | None = Field(default=None, description="a name for each table")
    dim: int = Field(gt=0, le=65536, description=_WHOLE)
    samples: int = Field(default=1_000_000, gt=0, description=_WHOLE)
    dense: Layers = Field(description="a mapping with bottom and top, or parameters")
    published: Published | None = Field(default=None, description="a mapping with width, d, and layers")

    @model_validator(mode="after")
    def _tables_are_sound(self) -> Shape:
        for number, rows in enumerate(self.rows):
            if not 0 < rows <= MOST_ROWS:
                raise ValueError(f"rows of table {number} are {rows}; expected {_WHOLE}")
        if len(self.names or self.rows) != len(self.rows):
            raise ValueError(f"found {len(self.names or ())} names for {len(self.rows)} tables")
        return self

    @property
    def table_bytes(self) -> int:
        """Bytes of the rows in fp32, which is what ratios are of."""
        return 4 * sum(self.rows) * self.dim

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense part in fp32."""
        return 4 * self.dense.count()

    def table_names(self) -> list[str]:
        """The names, or C1, C2, ..."""
        return self.names or [f"C{number + 1}" for number in range(len(self.rows))]


def shape_names() -> list[str]:
    """The names of the packaged shapes, sorted."""
    folder = resources.files("memrec_convert.lab.shapes") / "published"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_shape(path_or_name: str | Path) -> Shape:
    """The shape in a YAML file, or the packaged one of that bare name (`criteo-tb`).

    RecipeError where there is none, where it is no YAML, and for unknown keys and values that make no model.
    """
    text = str(path_or_name)
    if not (isinstance(path_or_name, Path) or "/" in text or text.lower().endswith((".yaml", ".yml"))):
        if text not in shape_names():
            near = difflib.get_close_matches(text[:100].lower(), shape_names(), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise RecipeError(
                f"there is no shape {text!r}: known are {', '.join(shape_names())}, and a file of your own with .yaml "
                f"at the end{hint}"
            )
        return _parse((resources.files("memrec_convert.lab.shapes") / "published" / f"{text}.yaml").read_bytes(), text)
    try:
        with Path(path_or_name).open("rb") as file:
            content = file.read(LARGEST_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte in it
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{text}: the shape cannot be read ({reason}): expected a YAML file.") from None
    if len(content) > LARGEST_RECIPE_BYTES:
        raise RecipeError(f"{text}: found more than {LARGEST_RECIPE_BYTES} bytes, expected a shape of a few lines.")
    return _parse(content, text)


def count_published(shape: Shape) -> list[dict[str, Any]]:
    """Per published size d: bytes as the authors count them, all bytes, both ratios, and what they print.

    published_bytes   4 * (d * width + layers without the top's first), the weight table left out
    bytes             all layers and the weight table counted
    """
    published = shape.published
    if published is None:
        return []
    found = []
    for number, d in enumerate(published.d):
        weights = d if published.k_weights else 0
        theirs = d * published.width + published.count_as_published()
        every = d * published.width + weights + published.count()
        found.append(
            {
                "d": d,
                "width": published.width,
                "k": published.k,
                "k_weights": published.k_weights,
                "published_parameters": theirs,
                "published_bytes": 4 * theirs,
                "published_ratio": shape.table_bytes / (4 * theirs),
                "bytes": 4 * every,
                "ratio": shape.table_bytes / (4 * every),
                "all_layers_known": published.parameters is None,
                "printed_ratio": _item(published.printed_ratios, number),
                "auc_change": _item(published.auc_changes, number),
            }
        )
    return found


def _item(values: Sequence[Any] | None, number: int) -> Any:  # noqa: ANN401 - an entry of either list
    return None if values is None else values[number]


def _count_mlp(widths: Sequence[int]) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


def _parse(content: bytes, where: str) -> Shape:
    try:
        # The safe loader of yaml.safe_load, which besides refuses a key that is given twice.
        values = yaml.load(content.decode("utf-8-sig"), Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not a YAML shape: {_on_one_line(error)}.") from None
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise RecipeError(f"{where}: not a YAML shape ({type(error).__name__} while reading it).") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: found {_found(values)}, expected a mapping such as 'rows: [1000, 50]'.")
    try:
        return Shape.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first_problem(error)}.") from None


def _first_problem(error: ValidationError) -> str:
    """The first problem, as one sentence without the full stop."""
    detail = error.errors(include_url=False, include_context=False)[0]
    location = " > ".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{location}: {message}" if location else message
    model: type[BaseModel] = Shape
    expected: str | None = None
    for part in detail["loc"]:
        field = model.model_fields.get(str(part))
        if field is None:
            break
        expected = field.description
        if str(part) in ("dense", "published"):
            model = Layers if part == "dense" else Published
    if detail["type"] == "extra_forbidden":
        return f"unknown key {location!r}{_suggest(str(detail['loc'][-1]), model.model_fields)}"
    if detail["type"] == "missing":
        return f"{location} is missing; expected {expected}"
    return f"{location}: found {_found(detail['input'])}, expected {expected}"


def _suggest(text: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(text[:100].lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
