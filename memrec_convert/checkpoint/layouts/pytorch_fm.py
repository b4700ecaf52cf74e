"""pytorch-fm: all fields in one joint table, whose field sizes are not in the file. Its DeepFM converts."""

from __future__ import annotations

import re

from memrec_convert.checkpoint.derived_rows import RowRange
from memrec_convert.checkpoint.facts import Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.networks.deepfm import (
    add_biases,
    describe_deepfm,
    read_normalised_mlp,
    tensor_at,
)
from memrec_convert.checkpoint.layouts.tables import TableForm, TableNames, note_unreadable, read_tables
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import CheckpointError

_FACTORS, _FIRST_ORDER = "embedding.embedding.weight", "linear.fc.weight"
_TABLES = TableNames(
    forms=(
        TableForm(PLAIN, re.compile(r"(?P<table>embedding\.embedding)\.weight")),
        TableForm(PLAIN, re.compile(r"(?P<table>linear\.fc)\.weight")),
    ),
    numbered=False,
)
_DEEPFM = ("linear.", "embedding.embedding.", "mlp.mlp.")
"""Beginnings of all names of a DeepFM."""


def _matches(state: StateDict) -> bool:
    factors, first_order = state.get(_FACTORS), state.get(_FIRST_ORDER)
    return (
        isinstance(factors, StoredTensor)
        and isinstance(first_order, StoredTensor)
        and first_order.shape == (factors.rows, 1)
    )


def _read(state: StateDict, where: str, facts: Facts) -> Reading:
    reading = Reading()
    read_tables(_TABLES, state, where, reading)
    reading.tables = tuple(sorted(reading.tables, key=lambda table: table.name))  # embedding, then linear
    note_unreadable(reading, where)
    try:
        _check_deepfm(state, where)
        if facts.field_sizes is None:
            raise CheckpointError(
                f"{where}: all fields share one joint table, and how many ids each has is not in the file; state the "
                "field sizes in the order of the fields, such as --assume field_sizes=50,30,1000."
            )
        _describe(state, where, facts.field_sizes, reading)
    except CheckpointError as error:
        reading.problems.append(error)
    return reading


def _check_deepfm(state: StateDict, where: str) -> None:
    other = next((name for name in state if not name.startswith(_DEEPFM)), None)
    if other is not None:
        raise CheckpointError(
            f"{where}: has {printable(other)}, so it is not the DeepFM of pytorch-fm, the one network of it that is "
            "converted; load it there and give it to compress()."
        )


def _describe(state: StateDict, where: str, sizes: tuple[int, ...], reading: Reading) -> None:
    factors, first_order = reading.tables
    if sum(sizes) != factors.rows:
        raise CheckpointError(
            f"{where}: the stated field sizes add up to {sum(sizes)} ids, the joint table has {factors.rows}."
        )
    mlp = add_biases(read_normalised_mlp(state, where), [tensor_at(state, "linear.bias", (1,), where)])
    reading.tables = (*_split(factors, sizes, "field"), *_split(first_order, sizes, "first order of field"))
    reading.table_keys = {}
    fields = range(len(sizes))
    describe_deepfm(
        reading, mlp, fields=len(sizes), inputs=[*fields, *fields], dense=0, first_order=None, linear="none"
    )
    reading.assumed = [
        f"fields of {', '.join(map(str, sizes[:40]))} ids, as stated; one id per field and sample",
        "ReLU in the MLP, and BatchNorm with an epsilon of 1e-5 (folded into the layer before it)",
    ]


def _split(table: SourceTable, sizes: tuple[int, ...], name: str) -> list[SourceTable]:
    """One table per field of a joint one."""
    tables, start = [], 0
    for number, size in enumerate(sizes):
        rows = RowRange((size, table.dim), (table.weight,), dtype=table.dtype, start=start)
        tables.append(SourceTable(f"{name} {number}", rows))
        start += size
    return tables


PYTORCH_FM = Layout("pytorch-fm", _matches, _read)
