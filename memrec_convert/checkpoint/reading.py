"""From a path to a `SourceModel`: open the container, find the state dict, read it by its layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memrec_convert.checkpoint.containers import find_container, open_checkpoint
from memrec_convert.checkpoint.layouts import Reading, find_layout, read_layout
from memrec_convert.checkpoint.optimizer_state import find_optimizer
from memrec_convert.checkpoint.source import SourceModel, SourceTable
from memrec_convert.checkpoint.state_dict import find_metrics, find_state_dict
from memrec_convert.checkpoint.tensor_ref import TensorRef
from memrec_convert.errors import CheckpointError


def read_source(path: str | Path, *, for_conversion: bool = True) -> SourceModel:
    """The click model in a checkpoint file, from its headers; no tensor is read and nothing in the file is run.

    Raises CheckpointError (NoTablesError, IncompleteCheckpointError) with one sentence. With `for_conversion=False`,
    missing tables and forms that cannot be converted are warnings.
    """
    path = Path(path)
    contents = open_checkpoint(path)
    state = find_state_dict(contents.root, str(path))
    layout = find_layout(state, str(path))
    reading = read_layout(layout, state, str(path))
    if for_conversion and reading.problems:
        raise reading.problems[0]
    optimizer, accumulators, notes = find_optimizer(contents.root, state)
    return SourceModel(
        path=path,
        layout=layout.name,
        container=contents.container,
        tables=_add_accumulators(reading, accumulators),
        dense=reading.dense,
        architecture=reading.architecture,
        optimizer=optimizer,
        stored_metrics=find_metrics(contents.root),
        warnings=(*map(str, reading.problems), *reading.warnings, *notes),
        assumed=layout.assumed,
        unrun_classes=contents.unrun_classes,
    )


def _add_accumulators(reading: Reading, accumulators: dict[str, TensorRef]) -> tuple[SourceTable, ...]:
    """The tables, each with its optimizer state where there is one."""
    return tuple(replace(table, optimizer=accumulators.get(reading.table_keys[table.name])) for table in reading.tables)


def verify_storage(source: SourceModel) -> None:
    """Read the bytes of all tables, their optimizer state and the dense part once, and compare their checksums.

    A zip .pt has a CRC-32 per storage; legacy .pt and safetensors have none, so nothing is read for them. To be called
    once before a conversion. CheckpointError names the storage that was damaged after it was written.
    """
    tensors = [*source.dense.values()]
    for table in source.tables:
        tensors += [table.weight, *table.parts] + ([table.optimizer] if table.optimizer is not None else [])
    try:
        find_container(source.path).verify(source.path, tensors)
    except OSError as error:
        raise CheckpointError(f"{source.path}: cannot be read ({error.strerror or error}).") from error
