"""What is a table in a state dict of no known network: listed, but not converted, for no file says how it is read."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from memrec_convert.checkpoint.chunked_ref import ChunkedRef
from memrec_convert.checkpoint.facts import Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.source import SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

_TABLE_WORDS = re.compile(r"emb|lookup|_factors|(?:^|[._])tables?(?:[._]|$)", re.IGNORECASE)
_NO_TABLE_WORDS = re.compile(r"(?:^|[._])(?:pos|position|positional|running|proj|projection|norm|bn)(?:[._]|$|_)")
_READABLE = FLOATING | {"uint8", "int8"}
_PAIRS = (("weight_q", "weight_r", "quotient-remainder"), ("embs.weight", "proj.weight", "mixed-dimension"))
_MOST_NAMED = 4


def is_table(state: StateDict, name: str) -> bool:
    """Whether an entry is a matrix named as a table, and neither a Linear (which has a bias) nor of positions."""
    value = state[name]
    if not isinstance(value, StoredTensor) or len(value.shape) != 2 or 0 in value.shape:
        return False
    stem = name.removesuffix("weight")
    linear = stem != name and f"{stem}bias" in state
    named = _TABLE_WORDS.search(name) is not None and _NO_TABLE_WORDS.search(name.lower()) is None
    return named and not linear and value.dtype in _READABLE and not name.endswith("weight_r")


def _is_matrix(state: StateDict, name: str) -> bool:
    value = state[name]
    if not isinstance(value, StoredTensor) or value.dtype not in FLOATING:
        return False
    return len(value.shape) == 2 and 0 not in value.shape


def _matches(state: StateDict) -> bool:
    return any(is_table(state, name) for name in state)


def _read(state: StateDict, where: str, facts: Facts, *, bare: bool = False) -> Reading:
    reading, seen = Reading(), dict[StoredTensor, str]()
    tables = []
    for name in state:
        value = state[name]
        if not isinstance(value, StoredTensor) or not (_is_matrix(state, name) if bare else is_table(state, name)):
            continue
        if value in seen:  # tied: one table under two names
            reading.warnings.append(f"{printable(name)} is stored as the same tensor as {seen[value]}")
            continue
        shown = printable(name.removesuffix(".weight"), limit=500)
        seen[value] = shown
        tables.append(_make_table(shown, name, value, state))
        reading.table_keys[shown] = name
    reading.tables = tuple(tables)
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
    problems: list[CheckpointError] = [one for one in reading.problems if isinstance(one, IncompleteCheckpointError)]
    for table in reading.tables:
        if table.others:
            problems.append(
                CheckpointError(
                    f"{where} > {table.name}: is stored as a {table.form} pair, and how its rows come of the two is "
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
    return replace(reading, dense={}, architecture=architecture, assumed=[], problems=problems)


def _make_table(shown: str, name: str, value: StoredTensor, state: StateDict) -> SourceTable:
    """A table; one that is stored as a pair of tensors counts once."""
    for main, other, form in _PAIRS:
        partner = state.get(name.removesuffix(main) + other) if name.endswith(main) else None
        if isinstance(partner, StoredTensor):
            return SourceTable(shown, value, form=form, others=(partner,))
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
