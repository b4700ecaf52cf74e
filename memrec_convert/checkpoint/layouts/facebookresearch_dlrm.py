"""facebookresearch/dlrm (`dlrm_s_pytorch.py --save-model`): emb_l.N, bot_l.0, .2, ..., top_l.0, .2, ..."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from memrec_convert.checkpoint.derived_rows import ProjectedRows, QuotientRemainderRows, WeightedRows
from memrec_convert.checkpoint.facts import Assumption, Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.networks.dlrm import DENSE_ASSUMPTION, DlrmNames, deduce, describe_dlrm, try_mlps
from memrec_convert.checkpoint.layouts.networks.interaction import CAT, DOT, DOT_ITSELF
from memrec_convert.checkpoint.layouts.networks.linear_layers import KIND, NUMBER
from memrec_convert.checkpoint.layouts.tables import TableForm, TableNames, note_shared, note_unreadable, read_tables
from memrec_convert.checkpoint.source import PLAIN
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor
from memrec_convert.errors import CheckpointError

QUOTIENT_REMAINDER, MIXED_DIMENSION = "quotient-remainder", "mixed-dimension"
_TABLE = r"emb_l\.(?:module\.)?(?P<table>0|[1-9][0-9]{0,5})\."
_ROW_WEIGHTS = re.compile(r"v_W_l\.(?:module\.)?(?P<table>0|[1-9][0-9]{0,5})")
_EXACT_QUOTIENT = 2**24
_MOST_IDS = 2**31


def _project(stored: StoredTensor, parts: tuple[StoredTensor, ...]) -> StoredTensor:
    (projection,) = parts
    if projection.shape[1] != stored.shape[1] or not {stored.dtype, projection.dtype} <= FLOATING:
        raise CheckpointError(
            f"{_path_of(stored)}: a mixed-dimension table of {stored.shape[1]} columns has a projection of shape "
            f"{list(projection.shape)}, which does not fit."
        )
    return ProjectedRows((stored.rows, projection.shape[0]), (stored, projection))


def _divide(dim: int, facts: Facts, quotient: StoredTensor, parts: tuple[StoredTensor, ...]) -> StoredTensor:
    """Rows of a quotient-remainder table; concat shows in the widths, mult against add is a fact."""
    (remainder,) = parts
    width = quotient.shape[1]
    if remainder.shape[1] != width or not {quotient.dtype, remainder.dtype} <= FLOATING:
        raise CheckpointError(
            f"{_path_of(quotient)}: a quotient-remainder table has parts of shape {list(quotient.shape)} and "
            f"{list(remainder.shape)}, which do not fit."
        )
    joined = 2 * width == dim
    if facts.qr_operation is not None and (facts.qr_operation == "concat") != joined:
        raise CheckpointError(
            f"{_path_of(quotient)}: the operation {facts.qr_operation!r} was stated, but the parts of a table are "
            f"{width} wide in a network of {dim}, which {'is' if joined else 'is not'} a concatenation."
        )
    if quotient.rows * remainder.rows > _MOST_IDS:
        raise CheckpointError(
            f"{_path_of(quotient)}: a quotient-remainder table stands for {quotient.rows} x {remainder.rows} ids, too "
            f"many to be written out as rows (at most {_MOST_IDS})."
        )
    operation = "concat" if joined else facts.qr_operation or "mult"
    shape = (quotient.rows * remainder.rows, 2 * width if joined else width)
    return QuotientRemainderRows(shape, (quotient, remainder), operation=operation)


def _path_of(tensor: StoredTensor) -> str:
    return str(tensor.pieces[0].path)


def _table_names(dim: int, facts: Facts) -> TableNames:
    """The three forms of a table; `dim` is the width that the network reads."""
    return TableNames(
        forms=(
            TableForm(PLAIN, re.compile(_TABLE + "weight")),
            TableForm(
                QUOTIENT_REMAINDER,
                re.compile(_TABLE + "(?P<tail>weight_q)"),
                parts=("weight_r",),
                assemble=partial(_divide, dim, facts),
            ),
            TableForm(
                MIXED_DIMENSION,
                re.compile(_TABLE + r"(?P<tail>embs\.weight)"),
                parts=("proj.weight",),
                optional=True,  # where a table is as wide as the network reads it, there is none
                assemble=_project,
            ),
        ),
        numbered=True,
        prefix="emb_l.",
    )


_NAMES = DlrmNames(
    tables=_table_names(0, Facts()),
    bottom=(re.compile(rf"bot_l\.(?:module\.)?{NUMBER}\.{KIND}"),),
    top=(re.compile(rf"top_l\.(?:module\.)?{NUMBER}\.{KIND}"),),
    layer_step=2,
    pairs="lower",
)


def _read(state: StateDict, where: str, facts: Facts) -> Reading:
    reading = Reading()
    mlps = try_mlps(_NAMES, state, where, reading)
    read_tables(_table_names(mlps.dim if mlps else 0, facts), state, where, reading)
    note_unreadable(reading, where)
    note_shared(reading)
    _fold_row_weights(state, where, reading)
    if mlps is None:
        return reading
    interaction = deduce((DOT, DOT_ITSELF, CAT), mlps, reading, where, facts=facts)
    describe_dlrm(reading, mlps, interaction, pairs=_NAMES.pairs)
    reading.assumed = [
        "pairs in the order of the lower triangle, as facebookresearch/dlrm takes them",
        "ReLU after every layer but the last",
        "bags are summed",
        DENSE_ASSUMPTION,
    ]
    _note_divided(facts, reading)
    return reading


def _fold_row_weights(state: StateDict, where: str, reading: Reading) -> None:
    """Learned weights per row (`--weighted-pooling learned`) act inside the sums, so they belong into the rows."""
    weights = {int(match["table"]): key for key in state if (match := _ROW_WEIGHTS.fullmatch(key)) is not None}
    tables = list(reading.tables)
    for number, key in weights.items():
        value = state[key]
        table = tables[number] if number < len(tables) else None
        if not isinstance(value, StoredTensor) or value.dtype not in FLOATING or table is None:
            raise CheckpointError(f"{where} > {printable(key)}: weights per row (weighted pooling) of no table.")
        if value.shape != (table.rows,) or table.form == QUOTIENT_REMAINDER:
            raise CheckpointError(
                f"{where} > {printable(key)}: weights per row (weighted pooling) of shape {list(value.shape)} do not "
                f"fit {table.name} ({table.form}, {table.rows} rows)."
            )
        if table.dtype in FLOATING:
            weighted = WeightedRows((table.rows, table.dim), (table.weight, value))
            tables[number] = replace(table, weight=weighted, form="weighted" if table.form == PLAIN else table.form)
    reading.tables = tuple(tables)


def _note_divided(facts: Facts, reading: Reading) -> None:
    """Say what joins the parts of quotient-remainder tables, and what that forbids."""
    operations = {
        number: table.weight.operation
        for number, table in enumerate(reading.tables)
        if isinstance(table.weight, QuotientRemainderRows)
    }
    if not operations:
        return
    verbs = {"mult": "multiplied", "add": "added", "concat": "joined side by side"}
    for operation in sorted(set(operations.values())):
        source = "as the widths show" if operation == "concat" else "as stated" if facts.qr_operation else "by default"
        reading.assumed.append(f"the two rows of quotient-remainder tables are {verbs[operation]} ({source})")
    if facts.qr_operation is None and set(operations.values()) & {"mult", "add"}:
        reading.open_facts.append(Assumption("qr_operation", "mult", ("add",)))
    multiplied = [number for number, operation in operations.items() if operation == "mult"]
    if multiplied:
        reading.architecture["single_valued"] = multiplied
        reading.warnings.append(
            f"{len(multiplied)} quotient-remainder tables are multiplied: such a table equals rows for features of one "
            "id per sample only, and a bag of several is refused"
        )
    for number in operations:
        if reading.tables[number].rows > _EXACT_QUOTIENT:
            reading.warnings.append(
                f"{reading.tables[number].name}: the framework divides ids in float32, which is exact up to 2^24 only"
            )


FACEBOOKRESEARCH_DLRM = Layout("facebookresearch-dlrm", _NAMES.found_in, _read)
