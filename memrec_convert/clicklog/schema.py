"""What the model expects of a log, and which column of the log serves which input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from memrec_convert.choices import DenseTransform, Oov, values_of
from memrec_convert.errors import LogError


@dataclass(frozen=True)
class LogSchema:
    """The inputs of a model, as a log must provide them.

    `tables`: (name, rows) in the order of the network's inputs. `dense`: the number of dense inputs.
    `dense_transform`: "log1p", "log(x+3)" or "identity", as in training. `columns`: table name, "I1".. or "label" ->
    column of the log; without an entry a table is sought under its own name, then under C1, C2, ... by position.
    `oov`: what an id outside its table does: "error", "clip" (to the nearest row), "hash" (id mod rows) or "zero" (no
    lookup). `id_map`, `modulus`: how the tokens of a raw Criteo log become rows (see `criteo`). `group`: the column
    that says which rows belong together (see `find_group`). `any_labels`: labels are any finite numbers, not clicks.
    LogError for unknown choices.
    """

    tables: tuple[tuple[str, int], ...]
    dense: int
    dense_transform: str = "log1p"
    columns: Mapping[str, str] = field(default_factory=dict)
    oov: str = "error"
    id_map: Path | None = None
    modulus: int | None = None
    group: str | None = None
    any_labels: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.dense_transform not in values_of(DenseTransform):
            choices = ", ".join(values_of(DenseTransform))
            raise LogError(f"the dense transform {self.dense_transform!r} is not known: choose one of {choices}.")
        if self.oov not in values_of(Oov):
            raise LogError(
                f"the choice {self.oov!r} for ids outside a table is not known: {', '.join(values_of(Oov))}."
            )
        if self.modulus is not None and self.modulus < 1:
            raise LogError(f"the modulus {self.modulus} is not a number of ids: give the one of the preprocessing.")
        known = {name for name, _ in self.tables} | {f"I{j + 1}" for j in range(self.dense)} | {"label"}
        unknown = [name for name in self.columns if name not in known]
        if unknown:
            raise LogError(
                f"columns names the inputs {_list_names(unknown)}, which the model does not have; "
                f"it has the tables {self.describe_tables()}, {self.dense} dense inputs (I1, ...) and label."
            )

    def describe_tables(self) -> str:
        """The tables as messages name them: C1 (6,040 rows), ..."""
        return _list_names([f"{name} ({rows:,} rows)" for name, rows in self.tables]) or "none"


@dataclass(frozen=True)
class ColumnChoice:
    """The log's columns that serve the model: one per table, one per dense input, the label's or None, the group's."""

    tables: tuple[str, ...]
    dense: tuple[str, ...]
    label: str | None
    group: str | None = None

    @property
    def all(self) -> list[str]:
        """Every column that is read, each once."""
        single = [column for column in (self.label, self.group) if column is not None]
        return list(dict.fromkeys([*single, *self.dense, *self.tables]))


def choose_columns(names: Sequence[str], schema: LogSchema, *, where: str) -> ColumnChoice:
    """The columns among `names` that serve the schema's inputs; `where` names the file.

    LogError, with the log's columns and the model's tables, when an input has no column, two tables that were not
    mapped explicitly share one, a needed name occurs twice, or columns go on (C27, I14) past the inputs that were
    found by position.
    """
    present = set(names)
    by_position = [schema.columns.get(n, n) not in present and n not in schema.columns for n, _ in schema.tables]
    tables = tuple(
        f"C{i + 1}" if positional else schema.columns.get(name, name)
        for i, ((name, _), positional) in enumerate(zip(schema.tables, by_position, strict=True))
    )
    dense_names = [f"I{j + 1}" for j in range(schema.dense)]
    dense = tuple(schema.columns.get(name, name) for name in dense_names)
    label = schema.columns.get("label", "label")
    has_label = label in present or "label" in schema.columns
    choice = ColumnChoice(tables, dense, label if has_label else None)
    problem = _find_problem(names, schema, choice, by_position)
    if problem:
        raise LogError(
            f"{where} does not fit the model: {problem}; the log's columns are {_list_names(list(names)) or 'none'}, "
            f"the model has {schema.dense} dense inputs and the tables {schema.describe_tables()}; "
            "map inputs to columns where the names differ."
        )
    if schema.group is None:
        return choice
    return replace(choice, group=find_group(names, schema, choice, where=where))


def find_group(names: Sequence[str], schema: LogSchema, choice: ColumnChoice, *, where: str) -> str:
    """The column that `schema.group` means: the log's of that name, else the one that serves the input of that name.

    LogError, with the log's columns and the model's tables, where there is neither, or the log has the name twice.
    """
    inputs = {f"I{j + 1}": column for j, column in enumerate(choice.dense)}
    inputs |= {name: column for (name, _), column in zip(schema.tables, choice.tables, strict=True)}
    group = str(schema.group)
    if group not in names and group not in inputs:
        raise LogError(
            f"{where} has no group column {group!r}: its columns are {_list_names(list(names)) or 'none'}, and the "
            f"model's tables {schema.describe_tables()}; name one of them, or leave the groups out."
        )
    if names.count(group) > 1:
        raise LogError(f"{where} holds the group column {group!r} more than once: give each column a name of its own.")
    return group if group in names else inputs[group]


def _find_problem(
    names: Sequence[str], schema: LogSchema, choice: ColumnChoice, by_position: Sequence[bool]
) -> str | None:
    missing = [column for column in choice.all if column not in names]
    if missing:
        return f"it lacks {_list_names(missing)}"
    twice = [column for column in choice.all if names.count(column) > 1]
    if twice:
        return f"it holds {_list_names(twice)} more than once"
    unmapped = Counter(
        column for (name, _), column in zip(schema.tables, choice.tables, strict=True) if name not in schema.columns
    )
    shared = [column for column, uses in unmapped.items() if uses > 1]
    if shared:
        return f"{_list_names(shared)} would serve more than one table"
    # A log with more features than the model was made for another model: its order can then not be trusted either.
    following = f"C{len(schema.tables) + 1}"
    if schema.tables and (all(by_position) or _are_numbered(schema)) and following in names:
        return f"it goes on with {following} after the model's {len(schema.tables)} tables"
    following = f"I{schema.dense + 1}"
    if schema.dense and following in names and not any(f"I{j + 1}" in schema.columns for j in range(schema.dense)):
        return f"it goes on with {following} after the model's {schema.dense} dense inputs"
    return None


def _are_numbered(schema: LogSchema) -> bool:
    return all(name == f"C{i + 1}" and name not in schema.columns for i, (name, _) in enumerate(schema.tables))


def _list_names(names: Sequence[str], *, most: int = 40) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
