"""Say what a checkpoint is, from its headers alone: the JSON of `inspect --json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrec_convert.checkpoint.reading import read_source
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.results import Result


@dataclass(frozen=True)
class Inspection(Result):
    """What a checkpoint holds. Sizes are bytes as stored.

    tables   {"name", "rows", "dim" as stored, "dtype", "bytes"} each; with "form" where rows are stored in another form
             than as rows, and "scan" (fields of TableScan) where they were read
    """

    layout: str
    container: str
    tables: tuple[Mapping[str, Any], ...]
    dense_bytes: int
    optimizer: str | None
    warnings: tuple[str, ...]
    assumed: tuple[str, ...]
    stored_metrics: Mapping[str, Any]
    network: Mapping[str, Any]
    unrun_classes: tuple[str, ...]
    file_bytes: int


def inspect(
    path: str | Path, *, scan: bool = False, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Inspection:
    """Layout, container, tables, dense part, optimizer and warnings of a checkpoint. `scan` reads the rows too.

    What would forbid conversion is a warning here; CheckpointError only where the file cannot be read, is a part of a
    checkpoint, or holds no table.
    """
    source = read_source(path, for_conversion=False)
    described = [_describe(table) for table in source.tables]
    if scan:
        from memrec_convert.checkpoint.scan import scan_tables

        for entry, found in zip(described, scan_tables(source.tables, progress), strict=True):
            entry["scan"] = found.to_json()
    return Inspection(
        layout=source.layout,
        container=source.container,
        tables=tuple(described),
        dense_bytes=source.dense_bytes,
        optimizer=source.optimizer,
        warnings=source.warnings,
        assumed=source.assumed,
        stored_metrics=source.stored_metrics,
        network=source.architecture,
        unrun_classes=source.unrun_classes,
        file_bytes=source.file_bytes,
    )


def _describe(table: SourceTable) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": table.name,
        "rows": table.rows,
        "dim": table.weight.stored_width,
        "dtype": table.dtype,
        "bytes": table.nbytes,
    }
    return described if table.form == PLAIN else described | {"form": table.form}
