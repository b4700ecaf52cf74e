"""Find the tables of a state dict by a layout's names, in the order of the network's inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memrec_convert.checkpoint.inert.stand_ins import Placeholder, printable
from memrec_convert.checkpoint.layouts.layout import Reading
from memrec_convert.checkpoint.layouts.quantised import QUANTISED, read_scaled
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

_LONGEST_NAME = 500

Assemble = Callable[[StoredTensor, tuple[StoredTensor, ...]], StoredTensor]
"""(main tensor, further parts) -> the rows that the network looks up."""


@dataclass(frozen=True)
class TableForm:
    """One way of storing a table: the name of its main tensor (group `table`), and the names of further parts.

    The parts stand where the group `tail` of the main tensor's name stands; `optional` ones may be missing.
    """

    form: str
    pattern: re.Pattern[str]
    parts: tuple[str, ...] = ()
    optional: bool = False
    assemble: Assemble | None = None


@dataclass(frozen=True)
class TableNames:
    """The forms of a framework's tables. `numbered` ones are ordered by number, others as the file has them."""

    forms: tuple[TableForm, ...]
    numbered: bool
    prefix: str = ""

    def found_in(self, state: StateDict) -> bool:
        """Whether a state dict has a table by these names."""
        return any(form.pattern.fullmatch(name) for form in self.forms for name in state)


def read_tables(names: TableNames, state: StateDict, where: str, reading: Reading) -> None:
    """Fill the tables of a reading; gaps in their numbers are a problem."""
    found: dict[str, tuple[TableForm, str]] = {}
    numbers: dict[str, int] = {}
    for key in state:
        for form in names.forms:
            match = form.pattern.fullmatch(key)
            if match is not None:
                name = printable(names.prefix + match["table"], limit=_LONGEST_NAME)
                if name in found:
                    raise CheckpointError(f"{where} > {printable(key)}: {name} is in the file twice, under two names.")
                found[name] = (form, key)
                numbers[name] = int(match["table"]) if names.numbered else len(numbers)
    order = sorted(found, key=numbers.__getitem__)
    missing = next((place for place, name in enumerate(order) if numbers[name] != place), None)
    if missing is not None:
        problem = f"{where}: tables up to {order[-1]} are there, but not number {missing}; give the whole checkpoint."
        reading.problems.append(IncompleteCheckpointError(problem))
    reading.tables = tuple(_read_table(name, *found[name], state, where) for name in order)
    reading.table_keys = {name: found[name][1] for name in order}


def _read_table(name: str, form: TableForm, key: str, state: StateDict, where: str) -> SourceTable:
    """One table's tensors, joined into its rows."""
    weight = check_table(state[key], f"{where} > {printable(key)}")
    match = form.pattern.fullmatch(key)
    stem = key[: match.start("tail")] if form.parts and match is not None else ""
    parts = []
    for part in form.parts:
        if stem + part in state:
            parts.append(check_table(state[stem + part], f"{where} > {printable(stem + part)}"))
        elif not form.optional:
            raise IncompleteCheckpointError(
                f"{where} > {printable(key)}: its other part {printable(stem + part)} is missing; give the whole "
                "checkpoint."
            )
    if form.assemble is not None and parts:
        weight = form.assemble(weight, tuple(parts))
    scaled = read_scaled(state, key, weight, where) if form.form == PLAIN else None
    return SourceTable(name, weight, form=form.form) if scaled is None else SourceTable(name, scaled, form=QUANTISED)


def check_table(value: object, where: str) -> StoredTensor:
    """The tensor of a table, checked to be rows and columns that lie in the file."""
    if not isinstance(value, StoredTensor):
        kind = value.name if isinstance(value, Placeholder) else type(value).__name__
        raise CheckpointError(
            f"{where}: is stored as {kind}, which is not read; gather the model in one process and save "
            "model.state_dict()."
        )
    if len(value.shape) != 2 or 0 in value.shape:
        raise CheckpointError(f"{where}: shape {list(value.shape)}; a table has rows and columns.")
    if isinstance(value, TensorRef) and 0 in value.strides and value.rows > 1:
        raise CheckpointError(f"{where}: all its rows are one stored row (an expanded tensor).")
    return value


def note_unreadable(reading: Reading, where: str) -> None:
    """Forbid the conversion of tables whose rows are no floats, in one sentence."""
    names = [table.name for table in reading.tables if table.form == PLAIN and table.dtype not in FLOATING]
    if names:
        dtype = next(table.dtype for table in reading.tables if table.name == names[0])
        which = f"{names[0]} and {len(names) - 1} more tables are" if names[1:] else f"{names[0]} is"
        reading.problems.append(
            CheckpointError(
                f"{where}: {which} stored as {dtype} (a quantised model); conversion needs floating-point rows."
            )
        )


def note_shared(reading: Reading) -> None:
    """Warn where two tables are one stored tensor."""
    first: dict[StoredTensor, str] = {}
    for table in reading.tables:
        if table.weight in first:
            reading.warnings.append(f"{table.name} is stored as the same tensor as {first[table.weight]}")
        first.setdefault(table.weight, table.name)


def order_tables(tables: Sequence[SourceTable], wanted: Sequence[str], where: str) -> tuple[SourceTable, ...]:
    """The tables in the order that their owner states; CheckpointError unless it names each once."""
    by_name = {table.name: table for table in tables}
    if sorted(wanted) != sorted(by_name):
        odd = sorted(set(wanted) ^ set(by_name))
        raise CheckpointError(
            f"{where}: the stated order of the tables does not name each of them once "
            f"({', '.join(odd[:4]) or 'one comes twice'}); they are {', '.join(list(by_name)[:40])}."
        )
    return tuple(by_name[name] for name in wanted)
