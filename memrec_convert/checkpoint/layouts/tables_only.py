"""What is a table in a state dict of no known network: listed, but not converted, for no file says how it is read."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memrec_convert.checkpoint.chunked_ref import ChunkedRef
from memrec_convert.checkpoint.facts import Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.quantised import QUANTISED, SCALED, adapters_of, is_part, read_scaled
from memrec_convert.checkpoint.layouts.unread import is_tall, name_unread_tables
from memrec_convert.checkpoint.source import SourceTable
from memrec_convert.checkpoint.state_dict import NO_TABLE_WORDS, TABLE_WORDS, StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

_READABLE = FLOATING | {"uint8", "int8"}
_PAIRS = (
    ("weight_q", "weight_r", "quotient-remainder"),
    ("embs.weight", "proj.weight", "mixed-dimension"),
    ("weight_v", "weight_g", "weight-normalised"),
    ("weight.original1", "weight.original0", "weight-normalised"),
)
_SECOND = tuple(second for _, second, _ in _PAIRS)
PARAMETRISED, UNKNOWN = "parametrised", "in parts that are not known"
_MOST_NAMED = 4


def is_table(state: StateDict, name: str) -> bool:
    """Whether an entry is a matrix named as a table, and neither a Linear (which has a bias) nor of positions."""
    value = state[name]
    if not isinstance(value, StoredTensor) or len(value.shape) != 2 or 0 in value.shape:
        return False
    stem = name.removesuffix("weight")
    linear = stem != name and f"{stem}bias" in state
    linear |= name.endswith("bias") and f"{name.removesuffix('bias')}weight" in state
    named = TABLE_WORDS.search(name) is not None and NO_TABLE_WORDS.search(name.lower()) is None and not is_part(name)
    return named and not linear and value.dtype in _READABLE and not name.endswith(_SECOND)


def find_tables(state: StateDict) -> list[str]:
    """The entries that are tables by name or by a tall shape, and those a column wide with as many rows as one."""
    named = {name for name in state if is_table(state, name) or is_tall(state, name)}
    named -= {name for name in named if name.endswith(_SECOND)}
    rows = {tensor.rows for name in named if isinstance(tensor := state[name], StoredTensor) and tensor.rows > 1}
    return [name for name in state if name in named or _is_first_order(state, name, rows)]


def _is_first_order(state: StateDict, name: str, rows: set[int]) -> bool:
    value, stem = state[name], name.removesuffix("weight")
    column = (
        isinstance(value, StoredTensor) and value.dtype in FLOATING and value.shape[1:] == (1,) and value.rows in rows
    )
    return column and f"{stem}bias" not in state and not is_part(name) and not name.endswith(_SECOND)


def _is_matrix(state: StateDict, name: str) -> bool:
    value = state[name]
    if not isinstance(value, StoredTensor) or value.dtype not in FLOATING:
        return False
    return len(value.shape) == 2 and 0 not in value.shape


def _matches(state: StateDict) -> bool:
    return bool(find_tables(state))


def _read(state: StateDict, where: str, facts: Facts, *, bare: bool = False) -> Reading:
    reading, seen = Reading(), dict[StoredTensor, str]()
    tables = []
    for name in [name for name in state if _is_matrix(state, name)] if bare else find_tables(state):
        value = state[name]
        if not isinstance(value, StoredTensor):
            continue
        if value in seen:  # tied: one table under two names
            reading.warnings.append(f"{printable(name)} is stored as the same tensor as {seen[value]}")
            continue
        shown = printable(name.removesuffix(".weight"), limit=500)
        if shown in reading.table_keys:
            other = printable(reading.table_keys[shown])
            raise CheckpointError(
                f"{where}: {other} and {printable(name)} are two tables of one name; rename one of them."
            )
        seen[value] = shown
        try:
            tables.append(_make_table(shown, name, value, state, where))
        except CheckpointError as error:
            tables.append(SourceTable(shown, value, form=UNKNOWN))
            reading.warnings.append(str(error))
        reading.table_keys[shown] = name
    reading.tables = tuple(tables)
    if not tables:
        unread = "; ".join(name_unread_tables(state, ())[:_MOST_NAMED])
        reading.problems.append(CheckpointError(f"{where}: holds no table that can be read ({unread})."))
        return reading
    listed = [f"{table.name} {list(table.weight.shape)}" for table in tables]
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    reading.problems.append(
        CheckpointError(
            f"{where}: has {', '.join(listed[:_MOST_NAMED])}{more}, but how its network reads these tables is not "
            "known; convert the tables alone with --tables-only, or give the model to compress()."
        )
    )
    return reading


def keep_tables(reading: Reading, where: str) -> Reading:
    """A reading without its network: what remains forbidden is a part that is missing, or rows that are no floats."""
    problems = [] if reading.tables else reading.problems
    for table in reading.tables:
        if table.others or table.form in (PARAMETRISED, UNKNOWN):
            problems.append(
                CheckpointError(
                    f"{where} > {table.name}: is stored in parts ({table.form}), and how its rows come of them is "
                    "not known for this network; load the model in its own framework and give it to compress()."
                )
            )
        elif isinstance(table.weight, TensorRef | ChunkedRef) and table.dtype not in FLOATING:
            problems.append(
                CheckpointError(
                    f"{where} > {table.name}: is stored as {table.dtype} (a quantised model); conversion needs "
                    "floating-point rows."
                )
            )
    architecture: dict[str, object] = {
        "name": "tables",
        "tables": [[table.rows, table.dim] for table in reading.tables],
        "names": [table.name for table in reading.tables],
    }
    lacking = [str(one) for one in reading.problems if isinstance(one, IncompleteCheckpointError)]
    warnings = [*reading.warnings, *(lacking if reading.tables else ())]
    return replace(reading, dense={}, architecture=architecture, assumed=[], problems=problems, warnings=warnings)


def _make_table(shown: str, name: str, value: StoredTensor, state: StateDict, where: str) -> SourceTable:
    """A table; one that is stored in several tensors counts once."""
    scaled = read_scaled(state, name, value, where)
    if scaled is not None:
        return SourceTable(shown, scaled, form=QUANTISED if value.dtype not in FLOATING else SCALED)
    adapters = adapters_of(state, name)
    if adapters:
        return SourceTable(shown, value, form="LoRA", others=adapters)
    for main, other, form in _PAIRS:
        partner = state.get(name.removesuffix(main) + other) if name.endswith(main) else None
        if isinstance(partner, StoredTensor):
            return SourceTable(shown, value, form=form, others=(partner,))
    if ".parametrizations." in f".{name}" or name.endswith("weight_orig"):
        return SourceTable(shown, value, form=PARAMETRISED)
    return SourceTable(shown, value)


TABLES_ONLY = Layout("tables only", _matches, _read)
BARE_TABLES = Layout(
    "tables only", lambda state: any(_is_matrix(state, name) for name in state), partial(_read, bare=True)
)


def name_tables(name: str, *beginnings: str) -> Layout:
    """A layout of a framework whose tables are listed, told by how its names begin."""
    return Layout(
        name, lambda state: any(entry.startswith(beginnings) and is_table(state, entry) for entry in state), _read
    )
