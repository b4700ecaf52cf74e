"""Tables decoded beforehand: rows that lie in the caches anyway are copied faster than codes are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memrec_convert.encoding.spec import TableSpec
from memrec_convert.lookup.memory import copy_side_by_side
from memrec_convert.lookup.table import CompressedTable

ROWS_PER_CHUNK = 1 << 16


@dataclass(frozen=True)
class ExpandedRows:
    """A table as the kernel sees it once its rows are decoded: kept rows float32 [rows, dim], of the same bits."""

    rows: Tensor
    name: str
    oov: str
    padding_idx: int | None
    mode: str
    decoder: None = None
    group: None = None

    @property
    def spec(self) -> TableSpec:
        """Of a table that is kept as it is."""
        return TableSpec(len(self.rows), self.rows.shape[1], "kept", codec="fp32")

    def named_buffers(self, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Its rows alone."""
        del recurse
        yield "rows", self.rows

    def get_buffer(self, target: str) -> Tensor:
        """Its rows; KeyError for another name."""
        return dict(self.named_buffers())[target]


def expand_tables(tables: Sequence[CompressedTable], within_bytes: int) -> int:
    """Decodes whole tables into float32 rows for the kernel, smallest first; returns the bytes that they take.

    Every sample reads each table as often, so the smallest tables are read most per byte. The tables' own tensors stay:
    the kernel alone reads the rows, until a tensor is replaced.
    """
    chosen, taken = list[CompressedTable](), 0
    for table in sorted(tables, key=lambda one: one.spec.rows * one.spec.dim):
        nbytes = 4 * table.spec.rows * table.spec.dim
        if table.spec.codec == "fp32" or table.decoder is not None:
            continue
        if taken + nbytes > within_bytes:
            break
        chosen.append(table)
        taken += nbytes
    if chosen:
        for table, rows in zip(chosen, copy_side_by_side([_decode(table) for table in chosen]), strict=True):
            table.show_expanded(
                ExpandedRows(rows, table.name, table.oov, table.padding_idx, str(getattr(table, "mode", "")))
            )
    return taken


def _decode(table: CompressedTable) -> Tensor:
    rows = torch.empty(table.spec.rows, table.spec.dim)
    for first in range(0, len(rows), ROWS_PER_CHUNK):
        last = min(first + ROWS_PER_CHUNK, len(rows))
        rows[first:last] = table.read_rows(torch.arange(first, last))
    return rows
