"""Say what a checkpoint is, from its headers alone: the JSON of `inspect --json`."""

from __future__ import annotations

from pathlib import Path

from memrec_convert.checkpoint.reading import read_source


def inspect(path: str | Path) -> dict[str, object]:
    """Layout, container, tables, dense part, optimizer and warnings of a checkpoint, as JSON-able values.

    Sizes are bytes as stored. What would forbid conversion is a warning here; CheckpointError only where the file
    cannot be read or holds no known model.
    """
    source = read_source(path, for_conversion=False)
    return {
        "layout": source.layout,
        "container": source.container,
        "tables": [
            {"name": table.name, "rows": table.rows, "dim": table.dim, "dtype": table.dtype, "bytes": table.nbytes}
            for table in source.tables
        ],
        "dense_bytes": source.dense_bytes,
        "optimizer": source.optimizer,
        "warnings": list(source.warnings),
        "assumed": list(source.assumed),
        "stored_metrics": source.stored_metrics,
        "network": source.architecture,
        "unrun_classes": list(source.unrun_classes),
        "file_bytes": source.path.stat().st_size,
    }
