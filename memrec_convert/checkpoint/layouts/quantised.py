"""Quantised tables: bytes whose width, type and scales stand in small tensors beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from memrec_convert.checkpoint.derived_rows import QuantisedRows, ScaledRows
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Reading
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor
from memrec_convert.errors import CheckpointError

QUANTISED, SCALED = "quantised", "scaled"
_PART = re.compile(
    r".*(?:(?:^|[._])(?:q?scales?|scale_inv|qbias|q?zeros?|zero_points?|absmax|quant_map|quant_state|scb|g_idx|mask)"
    r"|_shape)(?:\.weight)?|.*(?:^|[._])lora_.*",
    re.IGNORECASE | re.ASCII,
)
_PARTNERS = {
    "scale": ("weight_scale", "weight_scales", "weight_qscale", "scale", "scales"),
    "zero": ("weight_zero_point", "weight_zero_points", "zero_point", "zero_points"),
    "bias": ("weight_qbias",),
}
_UNKNOWN_PARTNERS = ("weight_scale_inv", "SCB", "weight_absmax", "absmax", "weight.absmax", "weight.quant_map")
_CODES = frozenset({"int8", "uint8", "float8_e4m3fn", "float8_e5m2"})
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
        if table.dtype != "uint8" or table.form not in (PLAIN, QUANTISED):
            tables.append(table)
        elif isinstance(table.weight, ScaledRows):
            forms = {listed[number][1]} if len(batches) == 1 and len(listed) == len(reading.tables) else set()
            tables.append(_cut_filling(table, forms or by_rows.get(table.rows, set()), where))
        elif len(batches) == 1 and len(listed) == len(reading.tables):
            tables.append(_dequantise(table, {listed[number][1]}, where))
        else:
            tables.append(_dequantise(table, by_rows.get(table.rows, set()), where))
    reading.tables = tuple(tables)
    if listed:
        reading.assumed.append("quantised rows are value = code * scale + shift, as fbgemm stores them")


def is_part(name: str) -> bool:
    """Whether a name is that of a scale, a mask or an adapter: what a table is made of, and no table."""
    return _PART.fullmatch(name) is not None


def adapters_of(state: StateDict, name: str) -> tuple[StoredTensor, ...]:
    """The LoRA parts that the network adds to a table's rows."""
    stem = name.removesuffix("weight").removesuffix("base_layer.")
    return tuple(
        value for key, value in state.items() if key.startswith(f"{stem}lora_") and isinstance(value, StoredTensor)
    )


def read_scaled(state: StateDict, name: str, stored: StoredTensor, where: str) -> StoredTensor | None:
    """The rows of a table that is stored as codes with scales beside them, or pruned by a mask; None for a plain one.

    Reads `T.weight_scale` (or scale, scales), `weight_zero_point`, torchrec's `weight_qscale` and `weight_qbias`, and
    `weight_orig` with `weight_mask`. CheckpointError where the parts are there, but what they mean is not known.
    """
    stem = name.removesuffix("_orig").removesuffix("weight")
    mask = state.get(f"{stem}weight_mask") if name.endswith("weight_orig") else None
    if isinstance(mask, StoredTensor) and mask.shape == stored.shape:
        return ScaledRows(stored.shape, (stored, mask), parts=("scale",), dtype=stored.dtype)
    if stored.dtype not in _CODES:
        return None
    found: dict[str, StoredTensor] = {}
    for part, keys in _PARTNERS.items():
        tensor = next((one for key in keys if isinstance(one := state.get(stem + key), StoredTensor)), None)
        if tensor is not None:
            found[part] = tensor
    odd = next((key for key in _UNKNOWN_PARTNERS if stem + key in state), None)
    if not found and odd is None:
        return None
    fits = all(_fits(part, stored) for part in found.values()) and "scale" in found and odd is None
    if not fits or (stored.dtype == "uint8" and len(found) == 1):
        parts = [*found, *([odd] if odd else [])]
        raise CheckpointError(
            f"{where} > {printable(name)}: is stored as {stored.dtype} with {', '.join(parts)} beside it, whose "
            "meaning is not known; save the model dequantised."
        )
    return ScaledRows(stored.shape, (stored, *found.values()), parts=tuple(found))


def _fits(part: StoredTensor, stored: StoredTensor) -> bool:
    """Whether a part has one number for all, one per row, or (where that is another number) one per column."""
    rows, dim = stored.shape
    per_row = {(rows,), (rows, 1)} if rows != dim else {(rows, 1)}
    return part.shape in {(), (1,), (1, 1), (1, dim), *per_row} or (part.shape == (dim,) and rows != dim)


def _cut_filling(table: SourceTable, forms: set[_Form], where: str) -> SourceTable:
    """A table whose scales stand beside its codes, as wide as its batch says: fbgemm fills rows up."""
    width = table.weight.shape[1]
    dims = {form.dim for form in forms}
    if len(dims) == 1 and max(dims) <= width:
        return replace(table, weight=replace(table.weight, shape=(table.rows, max(dims))))  # type: ignore[type-var]
    if (width + 4) % _ALIGNMENT == 0:  # filled up, or exactly as wide
        raise CheckpointError(
            f"{where} > {table.name}: its codes are {width} wide, filling included, and how wide its rows are "
            "(D_offsets) is not in the file; save the whole quantised model's state_dict()."
        )
    return table


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
