"""Say what a checkpoint is, from its headers alone: the JSON of `inspect --json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memrec_convert.checkpoint.reading import read_source
from memrec_convert.checkpoint.source import PLAIN, SourceTable


def inspect(
    path: str | Path, *, scan: bool = False, progress: Callable[[str, int, int], None] = lambda *_: None
) -> dict[str, object]:
    """Layout, container, tables, dense part, optimizer and warnings of a checkpoint, as JSON-able values.

    Sizes are bytes as stored, and so is the `dim` of a table in mixed dimensions; a table whose rows are stored in
    another form than as rows has a `form`. What would forbid conversion is a
    warning here; CheckpointError only where the file cannot be read, is a part of a checkpoint, or holds no table.
    With `scan` the rows are read too, and each table has a `scan` (fields of TableScan) of them.
    """
    source = read_source(path, for_conversion=False)
    described = [_describe(table) for table in source.tables]
    if scan:
        from memrec_convert.checkpoint.scan import scan_tables

        for entry, found in zip(described, scan_tables(source.tables, progress), strict=True):
            entry["scan"] = found.to_json()
    return {
        "layout": source.layout,
        "container": source.container,
        "tables": described,
        "dense_bytes": source.dense_bytes,
        "optimizer": source.optimizer,
        "warnings": list(source.warnings),
        "assumed": list(source.assumed),
        "stored_metrics": source.stored_metrics,
        "network": source.architecture,
        "unrun_classes": list(source.unrun_classes),
        "file_bytes": source.file_bytes,
    }


def _describe(table: SourceTable) -> dict[str, object]:
    described: dict[str, object] = {
        "name": table.name,
        "rows": table.rows,
        "dim": table.weight.stored_width,
        "dtype": table.dtype,
        "bytes": table.nbytes,
    }
    return described if table.form == PLAIN else described | {"form": table.form}
