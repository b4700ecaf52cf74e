"""Recipes: what a checkpoint file does not say, and the wishes for its conversion, as strict typed YAML."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from memrec_convert.choices import DenseTransform, Interaction, Pairs, Pooling, QrOperation
from memrec_convert.conversion.options import Options, describe_expected
from memrec_convert.errors import BudgetError, RecipeError
from memrec_convert.units import parse_budget

LARGEST_RECIPE_BYTES = 1_000_000
"""Nobody writes a longer recipe: a larger file is something else under a recipe's name."""

_MOST_PROBLEMS = 8
_SUFFIXES = (".yaml", ".yml")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 2, 60  # a few aliases in YAML make a value without end
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a mapping",
    list: "a list",
}


class RecipeData(BaseModel):
    """How the log's ids become rows. A field's description is what an error says was expected."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    modulus: int | None = Field(default=None, gt=0, description="a whole number above zero")
    id_map: str | None = Field(default=None, min_length=1, description="the path of a file, relative to the recipe")


class Recipe(Options):
    """Everything a recipe may say; what it leaves open is left to the command line and the defaults."""

    description: str | None = Field(None, description="a sentence")
    source: str | None = Field(None, description="where the values come from, as text")
    budget: str | int | None = Field(None, description="a size such as 48MB, a share such as 5% or 100x, or llc")
    pairs: Pairs | None = None
    dense_transform: DenseTransform | None = None
    qr_operation: QrOperation | None = None
    field_sizes: list[int] | None = Field(
        None, min_length=1, description="a list of whole numbers, the ids of each field"
    )
    table_order: list[str] | None = Field(None, min_length=1, description="a list of names of tables")
    interaction: Interaction | None = None
    pooling: Pooling | None = None
    state: str | None = Field(default=None, min_length=1, description="a key, or the beginning of names")
    columns: dict[str, str] = Field(
        default_factory=dict, description="a mapping from table, dense input or label to a column of the log"
    )
    data: RecipeData = Field(RecipeData(), description="a mapping with the keys modulus and id_map")

    @field_validator("budget")
    @classmethod
    def _budget_is_readable(cls, value: str | int | None) -> str | int | None:
        # 'llc' is left to the machine that converts: the one that reads the recipe need not know its cache.
        if value is not None and str(value).strip().lower() != "llc":
            try:
                parse_budget(value)
            except BudgetError as error:
                raise ValueError(str(error)) from None  # the class that pydantic collects
        return value

    def to_json(self) -> dict[str, Any]:
        """What the recipe says, and nothing that it leaves open."""
        return self.model_dump(mode="json", exclude_unset=True)

    def said(self) -> dict[str, Any]:
        """What the recipe says about a conversion, by the names of the verbs' choices and of `Facts`."""
        found = self.to_json()
        data: dict[str, Any] = found.pop("data", {})
        return found | data


def read_recipe(path_or_name: str | Path) -> Recipe:
    """The recipe in a YAML file, or the packaged one of that bare name (`criteo-kaggle`).

    `data.id_map` comes back relative to the working directory where the recipe gave it relative to itself.
    RecipeError where there is no such recipe, where it is not YAML, and for any unknown key or wrong value.
    """
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or "/" in text or text.lower().endswith(_SUFFIXES):
        path = Path(path_or_name)
        return _beside(path, _parse(_read_file(path), where=text))
    packaged = _packaged()
    if text in packaged:
        return _parse(packaged[text](), where=text)
    known = ", ".join(sorted(packaged)) or "none"
    raise RecipeError(
        f"no recipe is called {text!r}{_suggestion(text, packaged)}: known are {known}; "
        "for a file of your own give its path with .yaml at the end."
    )


def _packaged() -> dict[str, Callable[[], bytes]]:
    """Name -> reader of the packaged recipes: inside an installed package, or beside it in a source checkout."""
    folders = [resources.files("memrec_convert") / "recipes"]
    checkout = Path(__file__).resolve().parent.parent
    # Beside an installed package lies whatever else is installed: only a checkout's folder is ours.
    if (checkout / "pyproject.toml").is_file():
        folders.append(checkout / "recipes")
    return {
        entry.name.removesuffix(".yaml"): entry.read_bytes
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    }


def _read_file(path: Path) -> bytes:
    """The bytes of a recipe file; RecipeError where it is missing, unreadable or far too large."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_RECIPE_BYTES + 1)
    except FileNotFoundError:
        hint = _suggestion(path.stem, _packaged())
        raise RecipeError(f"{path}: there is no such recipe file{hint}.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte in it
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: the recipe cannot be read ({reason}): expected a YAML file.") from None
    if len(content) > LARGEST_RECIPE_BYTES:
        raise RecipeError(f"{path}: found more than {LARGEST_RECIPE_BYTES} bytes, expected a recipe of a few lines.")
    return content


def _parse(content: bytes, *, where: str) -> Recipe:
    """YAML bytes as a checked Recipe; `where` heads the error's sentence."""
    try:
        # The safe loader of yaml.safe_load, which besides refuses a key that is given twice.
        values = yaml.load(content.decode("utf-8-sig"), Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not a YAML recipe: {_on_one_line(error)}.") from None
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # What the loader lets through for impossible dates, tags on the wrong value, and nesting without end.
        raise RecipeError(f"{where}: not a YAML recipe ({type(error).__name__} while reading it).") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: found {_found(values)}, expected a mapping such as 'budget: 48MB'.")
    problems = list(_empty_values(values))
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += _problems(error)
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise RecipeError(f"{where}: {'; '.join([*problems[:_MOST_PROBLEMS], *more])}.") from None
    if problems:
        raise RecipeError(f"{where}: {'; '.join(problems)}.")
    return recipe


def _beside(path: Path, recipe: Recipe) -> Recipe:
    """The recipe with its id map's path seen from here instead of from the recipe's folder."""
    if recipe.data.id_map is None:
        return recipe
    data = recipe.data.model_copy(update={"id_map": str(path.parent / recipe.data.id_map)})
    return recipe.model_copy(update={"data": data})


class _UniqueKeyLoader(yaml.SafeLoader):
    """yaml.SafeLoader, for which a key given twice is an error instead of a silent last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _empty_values(values: Mapping[Any, Any]) -> Iterator[str]:
    """A sentence for each key without a value, here or one mapping down: it would silently do nothing."""
    for key, value in values.items():
        inner = value if isinstance(value, dict) else {}
        empty = [str(key)] if value is None else [f"{key} > {name}" for name, below in inner.items() if below is None]
        for path in empty:
            yield f"{path}: found nothing, expected a value: give one or leave the key out"


def _problems(error: ValidationError) -> Iterator[str]:
    """One sentence for each wrong key or value, without the full stop."""
    for detail in error.errors(include_url=False, include_context=False):
        location = [str(part) for part in detail["loc"]]
        model: type[BaseModel] = RecipeData if location[0] == "data" and len(location) > 1 else Recipe
        key = location[1] if model is RecipeData else location[0]
        field = model.model_fields.get(key)
        if field is None:
            path = " > ".join(["data", key] if model is RecipeData else [key])
            yield f"unknown key {_SHORT.repr(path)}{_suggestion(key, model.model_fields)}"
            continue
        if detail["input"] is None:
            continue  # said by _empty_values
        if key == "columns":  # the location goes on into the mapping; '[key]' there is pydantic's own
            path = " > ".join(part for part in location if part != "[key]")
        else:
            path = " > ".join(location[: location.index(key) + 1])
        yield f"{path}: found {_found(detail['input'])}, expected {describe_expected(field)}"


def _suggestion(text: str, known: Mapping[str, object]) -> str:
    """', did you mean ...?' in brackets for the nearest known name, or nothing."""
    near = difflib.get_close_matches(text[:100].lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _found(value: object) -> str:
    """A wrong value as an error shows it: short, and with its kind."""
    if value is None:
        return "nothing"
    return f"{_SHORT.repr(value)} ({_KINDS.get(type(value), type(value).__name__)})"


def _on_one_line(error: yaml.YAMLError) -> str:
    """The loader's complaint and its place, without the excerpt over several lines."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else str(problem)
