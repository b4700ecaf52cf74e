"""From a path to a `SourceModel`: open the container, find the state dict, read it by its layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memrec_convert.checkpoint.checksum import sum_part
from memrec_convert.checkpoint.containers import Contents, find_container, open_checkpoint
from memrec_convert.checkpoint.facts import NOTHING_STATED, Facts, assume_one
from memrec_convert.checkpoint.layouts import (
    LAYOUTS,
    PYTORCH_FM,
    TORCHREC_DLRM,
    Layout,
    Reading,
    find_layout,
    keep_tables,
)
from memrec_convert.checkpoint.layouts.facebookresearch_dlrm import QUOTIENT_REMAINDER
from memrec_convert.checkpoint.layouts.unread import name_unapplied, name_unread_tables, name_unused
from memrec_convert.checkpoint.optimizer_state import find_optimizer, suits_rows
from memrec_convert.checkpoint.shards import SHARDED_TENSOR, join_ranks
from memrec_convert.checkpoint.source import PLAIN, SourceModel, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict, find_metrics, find_state_dict
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import CheckpointError
from memrec_convert.file_digest import FilesDigest
from memrec_convert.parallel import ALONE, Crew
from memrec_convert.remote import as_source

PARTS_PER_MEMBER = 4
"""Neighbouring parts of what has a checksum that one process reads at a time, where several share them."""


def read_source(
    path: str | Path, *, for_conversion: bool = True, facts: Facts = NOTHING_STATED, tables_only: bool = False
) -> SourceModel:
    """The click model in a checkpoint, from its headers; no row is read and nothing in the file is run.

    `path`: a file, a directory, a URL of either, or the files of all ranks separated by commas. `facts`: what the file
    does not say. Raises CheckpointError (NoTablesError, IncompleteCheckpointError) with one sentence. With
    `for_conversion=False`, missing tables and forms that cannot be converted are warnings. With `tables_only`, nothing
    but the tables is looked for: how their network reads them need not be known, and the architecture is that of
    `models.TableSet`.
    """
    path = as_source(path)
    contents = open_checkpoint(path)
    root = _join_shards(contents, path)
    found = find_state_dict(root, path, wanted=facts.state)
    layout, state = find_layout(found.state, str(path), bare_tables=contents.bare_tables or found.bare)
    reading = layout.read(state, str(path), facts)
    reading.warnings += [*contents.notes, *found.notes, *_name_unread(reading, state, layout)]
    reading.warnings += _note_idle(reading, layout, facts)
    if tables_only:
        reading = keep_tables(reading, str(path))
    if for_conversion and reading.problems:
        raise reading.problems[0]
    _settle_pooling(reading, facts)
    if facts.to_json():
        reading.architecture["stated"] = facts.to_json()
    optimizer = find_optimizer(root, state, path=found.path, ordered=contents.ordered)
    return SourceModel(
        path=path,
        layout=layout.name,
        container=contents.container,
        tables=_add_accumulators(reading, optimizer.sums),
        dense=reading.dense,
        architecture=reading.architecture,
        optimizer=optimizer.name,
        stored_metrics=find_metrics(root),
        warnings=(*map(str, reading.problems), *reading.warnings, *optimizer.notes),
        assumed=(*reading.assumed, *optimizer.assumed),
        unrun_classes=contents.unrun_classes,
        digest=FilesDigest(contents.files),
        open_facts=tuple(one for one in reading.open_facts if getattr(facts, one.fact, None) is None),
    )


def read_state(
    path: str | Path, *, facts: Facts = NOTHING_STATED
) -> tuple[SourceModel, StateDict, dict[str, StoredTensor]]:
    """All tensors of a checkpoint by name, whatever its network, as the dense part of a source without tables.

    Gives the state and Adagrad's accumulators by the state's names too; CheckpointError as `read_source`.
    """
    path = as_source(path)
    contents = open_checkpoint(path)
    root = _join_shards(contents, path)
    found = find_state_dict(root, path, wanted=facts.state)
    tensors = {name: value for name, value in found.state.items() if isinstance(value, StoredTensor)}
    optimizer = find_optimizer(root, found.state, path=found.path, ordered=contents.ordered)
    source = SourceModel(
        path=path,
        layout="",
        container=contents.container,
        tables=(),
        dense=tensors,
        architecture={},
        optimizer=optimizer.name,
        stored_metrics=find_metrics(root),
        warnings=(*contents.notes, *found.notes, *optimizer.notes),
        assumed=optimizer.assumed,
        unrun_classes=contents.unrun_classes,
        digest=FilesDigest(contents.files),
    )
    return source, found.state, optimizer.sums


def _name_unread(reading: Reading, state: StateDict, layout: Layout) -> list[str]:
    """What the reading leaves of the state: what looks like a table, and what a network that is known does not use."""
    used = [*reading.dense.values()]
    for table in reading.tables:
        used += [table.weight, *table.others]
    plain = [
        reading.table_keys[table.name]
        for table in reading.tables
        if table.form == PLAIN and table.name in reading.table_keys
    ]
    unread = [*name_unapplied(state, plain), *name_unread_tables(state, used)]
    return unread or (name_unused(state, used) if layout in LAYOUTS and not reading.problems else [])


def _note_idle(reading: Reading, layout: Layout, facts: Facts) -> list[str]:
    """A sentence for each stated fact that has no part in how this checkpoint is read."""
    idle = {
        "field_sizes": facts.field_sizes and layout is not PYTORCH_FM,
        "table_order": facts.table_order and layout is not TORCHREC_DLRM,
        "qr_operation": facts.qr_operation and not any(table.form == QUOTIENT_REMAINDER for table in reading.tables),
    }
    return [f"--assume {name} has no part in reading {layout.name} and changes nothing" for name in idle if idle[name]]


def _settle_pooling(reading: Reading, facts: Facts) -> None:
    """Bags are summed in every network that is known, unless it is stated that they are averaged."""
    if not reading.architecture or reading.architecture.get("name") == "tables":
        return
    if facts.pooling is None:
        reading.open_facts.append(assume_one("pooling", "sum"))
    elif facts.pooling == "mean":
        reading.architecture["pooling"] = "mean"
        reading.assumed = [text.replace("bags are summed", "bags are averaged (as stated)") for text in reading.assumed]


def _join_shards(contents: Contents, path: Path) -> object:
    """The contents of one file with its ShardedTensors as tensors; one rank's file of several is refused."""
    return join_ranks([contents.root], str(path)) if SHARDED_TENSOR in contents.unrun_classes else contents.root


def _add_accumulators(reading: Reading, accumulators: dict[str, StoredTensor]) -> tuple[SourceTable, ...]:
    """The tables, each with its optimizer state where there is one that fits its rows."""
    tables = []
    for table in reading.tables:
        found = accumulators.get(reading.table_keys.get(table.name, ""))
        fits = found is not None and suits_rows(found, table.weight)
        tables.append(replace(table, optimizer=found if fits else None))
    return tuple(tables)


def verify_storage(source: SourceModel, crew: Crew = ALONE, *, workers: int = 1) -> None:
    """Read the bytes of all tables, their optimizer state and the dense part once, and compare their checksums.

    The archives of torch.save and numpy have a CRC-32 per storage; other forms have none, so nothing is read for them.
    To be called once before a conversion; a crew shares the parts. CheckpointError names the storage that was
    damaged after it was written.
    """
    tensors = [*source.dense.values()]
    for table in source.tables:
        tensors += [table.weight, *table.others] + ([table.optimizer] if table.optimizer is not None else [])
    pieces = list(dict.fromkeys(piece for tensor in tensors for piece in tensor.pieces))
    container = find_container(source.path)
    try:
        checks = container.checksums(source.path, pieces)
        parts = [(check.parts(), check) for check in checks]
        flat = [part for own, _ in parts for part in own]
        found = crew.map("checksums", sum_part, flat, workers=workers, block=PARTS_PER_MEMBER)
        for own, check in parts:
            check.compare([next(found) for _ in own])
    except OSError as error:
        raise CheckpointError(f"{source.path}: cannot be read ({error.strerror or error}).") from error
