"""torchrec's quantised tables: bytes whose width and type stand in small tensors beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from memrec_convert.checkpoint.derived_rows import QuantisedRows
from memrec_convert.checkpoint.layouts.layout import Reading
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor
from memrec_convert.errors import CheckpointError

QUANTISED = "quantised"
_BATCH = re.compile(r"(?P<batch>.*\btbes\.\d+)\.(?P<part>D_offsets|weights_tys|rows_per_table)", re.ASCII)
_KINDS = {0: "float32", 1: "float16", 2: "int8"}
_NAMES = {3: "int4", 4: "int2"}
_ALIGNMENT = 16
_MOST_TABLES = 100_000


@dataclass(frozen=True)
class _Form:
    """Columns and fbgemm's type number (SparseType) of a quantised table."""

    dim: int
    type_number: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, filled up."""
        used = {0: 4 * self.dim, 1: 2 * self.dim, 2: 4 + self.dim}.get(self.type_number, 0)
        return -(-used // _ALIGNMENT) * _ALIGNMENT


def dequantise_tables(state: StateDict, where: str, reading: Reading) -> None:
    """Put dequantised rows in the place of byte tables whose form the file tells; others stay as they are."""
    if not any(table.dtype == "uint8" for table in reading.tables):
        return
    batches = _read_batches(state)
    listed = [entry for batch in batches for entry in batch]
    tables, by_rows = [], dict[int | None, set[_Form]]()
    for rows, form in listed:
        by_rows.setdefault(rows, set()).add(form)
    for number, table in enumerate(reading.tables):
        if table.dtype != "uint8" or table.form != PLAIN:
            tables.append(table)
        elif len(batches) == 1 and len(listed) == len(reading.tables):
            tables.append(_dequantise(table, {listed[number][1]}, where))
        else:
            tables.append(_dequantise(table, by_rows.get(table.rows, set()), where))
    reading.tables = tuple(tables)
    if listed:
        reading.assumed.append("quantised rows are value = code * scale + shift, as fbgemm stores them")


def _dequantise(table: SourceTable, forms: set[_Form], where: str) -> SourceTable:
    """The table with its rows as floats; unchanged where the file does not tell its form."""
    if len(forms) != 1:
        return table
    (form,) = forms
    if form.type_number in _NAMES:
        raise CheckpointError(
            f"{where} > {table.name}: quantised to {_NAMES[form.type_number]}, which is not read; int8, fp16 and fp32 "
            "are."
        )
    if form.type_number not in _KINDS or form.row_bytes != table.weight.shape[1]:
        raise CheckpointError(
            f"{where} > {table.name}: rows of {table.weight.shape[1]} bytes, but {form.dim} columns of fbgemm's type "
            f"{form.type_number} take {form.row_bytes}; quantise with a current torchrec."
        )
    rows = QuantisedRows((table.rows, form.dim), (table.weight,), kind=_KINDS[form.type_number])
    return replace(table, weight=rows, form=QUANTISED)


def _read_batches(state: StateDict) -> list[list[tuple[int | None, _Form]]]:
    """Per batch of tables (tbe): rows, where they are told, and form of each table."""
    found: dict[str, dict[str, list[int]]] = {}
    for name, value in state.items():
        match = _BATCH.fullmatch(name)
        small = isinstance(value, StoredTensor) and len(value.shape) == 1 and value.rows <= _MOST_TABLES
        if match is not None and small and isinstance(value, StoredTensor) and value.dtype not in FLOATING:
            found.setdefault(match["batch"], {})[match["part"]] = [int(number) for number in value.read()]
    batches = []
    for parts in found.values():
        offsets, types = parts.get("D_offsets", []), parts.get("weights_tys", [])
        rows: list[int | None] = [*parts.get("rows_per_table", [])]
        if types and len(offsets) == len(types) + 1:
            rows += [None] * (len(types) - len(rows))
            forms = [_Form(stop - start, kind) for (start, stop), kind in zip(pairwise(offsets), types, strict=True)]
            batches.append(list(zip(rows, forms, strict=False)))
    return batches
