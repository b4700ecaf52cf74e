"""The subject of a conversion, from a checkpoint file and click logs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from memrec_convert.checkpoint import (
    NOTHING_STATED,
    Facts,
    SourceModel,
    SourceTable,
    parse_assumed,
    read_source,
    verify_storage,
)
from memrec_convert.clicklog import Batch, ClickLog, LogSchema, Profile, open_log
from memrec_convert.conversion.inputs.finite_rows import FiniteRows, find_nonfinite_rows, make_lengths, refuse_nonfinite
from memrec_convert.conversion.inputs.kept_fits import NO_STORE, FitStore
from memrec_convert.conversion.inputs.metering import Meter, MeteredRows, Progress, count_large_bytes
from memrec_convert.conversion.inputs.subject import Subject, TableSite
from memrec_convert.conversion.options import LogPaths, ReadingChoices, refuse_unknown
from memrec_convert.conversion.ranks.joining import look_at_files
from memrec_convert.distill.columns import IN_MEMORY, Scratch
from memrec_convert.distill.rows import RowReader, is_large
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.errors import LogError, ModelError, NonFiniteRowsError
from memrec_convert.models import StoredTable, TableSet, build_original, read_pooling, read_table_inputs
from memrec_convert.parallel import ALONE, Crew


@dataclass(frozen=True)
class LogBatches:
    """A click log as a source of batches."""

    log: ClickLog
    batch_size: int

    def stream(self, *, limit: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Batches in the log's order, or shuffled."""
        return self.log.batches(self.batch_size, shuffle_seed=shuffle_seed, limit=limit)

    def count_batches(self) -> int:
        """From the files' own row counts where they tell them."""
        rows = self.log.rows
        return sum(1 for _ in self.stream()) if rows is None else -(-rows // self.batch_size)

    @property
    def has_labels(self) -> bool:
        """Whether the log has a label column."""
        return self.log.has_labels

    @property
    def name(self) -> str:
        """The log's first file."""
        return str(self.log.paths[0])

    @property
    def mark(self) -> str:
        """The log's digest, and how its rows are read."""
        return f"{self.log.digest().combined} {replace(self.log.schema, group=None)!r} {self.batch_size}"

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - the protocol's
        """Labels float32 [rows]."""
        labels: Tensor = batch.labels
        return labels

    def groups_of(self, batch: Any) -> Tensor | None:  # noqa: ANN401 - the protocol's
        """The log's group column, int64 [rows]."""
        groups: Tensor | None = batch.groups
        return groups


@dataclass(frozen=True)
class LogChoices:
    """What checkpoint and log are read with beyond what they say themselves."""

    columns: Mapping[str, str]
    oov: str = "error"
    id_map: Path | None = None
    modulus: int | None = None
    facts: Facts = NOTHING_STATED


def read_choices(reading: ReadingChoices, *, oov: str, facts: Facts = NOTHING_STATED) -> LogChoices:
    """Log choices from keywords; OptionError for unknown ones, CheckpointError for what cannot be assumed.

    `facts` are stated already; `assume` goes before them.
    """
    refuse_unknown(reading, ReadingChoices)
    id_map = reading.get("id_map")
    return LogChoices(
        columns=reading.get("columns") or {},
        oov=oov,
        id_map=Path(id_map) if id_map else None,
        modulus=reading.get("modulus"),
        facts=parse_assumed(reading.get("assume") or {}, facts),
    )


def run_on_batch(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of a known network on a batch of a click log."""
    logits: Tensor = model(batch.dense, batch.ids)
    return logits


def read_checked(
    path: str | Path, *, facts: Facts = NOTHING_STATED, tables_only: bool = False, workers: int = 1, crew: Crew = ALONE
) -> SourceModel:
    """The source model, its checksums verified, with the facts that the caller states put in."""
    source = read_source(path, facts=facts, tables_only=tables_only)
    crew.agree("the checkpoint's bytes", lambda: look_at_files(source.files))
    verify_storage(source, crew, workers=workers)
    return _state(source, facts)


def read_stated(source: SourceModel, facts: Facts, fact: str, value: str) -> SourceModel:
    """The checkpoint read with one more fact, as `--assume` states it; CheckpointError where it cannot be so."""
    facts = parse_assumed({fact: value}, facts)
    return _state(read_source(source.path, facts=facts), facts)


def _state(source: SourceModel, facts: Facts) -> SourceModel:
    """The source with what stands in its architecture stated; ModelError for an order of pairs where there are none."""
    if facts.pairs is not None:
        if source.architecture.get("interaction") != "dot":
            raise ModelError(
                f"{source.path}: the order of pairs was stated as {facts.pairs!r}, and this network has no pairs."
            )
        source.architecture["pairs"] = facts.pairs
    if facts.dense_transform is not None:
        source.architecture["dense_transform"] = facts.dense_transform
    return source


def make_schema(architecture: Mapping[str, Any], names: Sequence[str], choices: LogChoices) -> LogSchema:
    """What a log must provide for a network of this architecture: one entry per input, which may feed several tables.

    An input bears the name of the first table that it feeds, unless the architecture has a name for it.
    """
    inputs = read_table_inputs(architecture, len(names))
    first_tables = [inputs.index(number) for number in range(max(inputs) + 1)]
    own_names = architecture.get("input_names") or [names[table] for table in first_tables]
    rows = [int(architecture["tables"][table][0]) for table in first_tables]
    return LogSchema(
        tables=tuple(zip(map(str, own_names), rows, strict=True)),
        dense=int(architecture.get("bottom", [0])[0]),
        dense_transform=str(architecture.get("dense_transform", "log1p")),
        columns=dict(choices.columns),
        oov=choices.oov,
        id_map=choices.id_map,
        modulus=choices.modulus,
    )


def open_batches(paths: LogPaths, schema: LogSchema, batch_size: int) -> LogBatches:
    """A log of this schema as a source of batches."""
    return LogBatches(open_log(paths, schema), batch_size)


def make_subject(
    source: SourceModel,
    *,
    train: LogBatches | None,
    hold_out: LogBatches | None,
    profile: Profile | None,
    allow_nonfinite: bool,
    scratch: Scratch = IN_MEMORY,
    held_bytes: int = sys.maxsize,
    work: FitStore = NO_STORE,
    progress: Progress | None = None,
    workers: int = 1,
    crew: Crew = ALONE,
    centres: Mapping[str, Tensor] | None = None,
) -> tuple[Subject, tuple[str, ...]]:
    """The subject and what there is to warn of; NonFiniteRowsError for NaN or infinite rows unless they are allowed.

    Tables of more than `held_bytes` together are read from their file wherever they are needed. `centres` (float32
    [dim]) of large tables by name: how far rows are from them is measured along the way.
    """
    model = build_original(source, held_bytes=held_bytes)
    for name, parameter in model.named_parameters():
        if not name.startswith("tables.") and not bool(torch.isfinite(parameter).all()):
            raise NonFiniteRowsError(
                f"{source.path}: the dense part holds NaN or infinite values ({name}), with which no logit is a "
                "number; expected finite numbers; give a checkpoint from before they arose."
            )
    warnings, sites = list[str](), list[TableSite]()
    meter = Meter()
    reading = 0 if progress is None else count_large_bytes([table.weight for table in source.tables])
    with meter.stage("read rows", reading, progress or (lambda *_: None)):
        for number, table in enumerate(source.tables):
            shared: dict[str, Any] = {"allow_nonfinite": allow_nonfinite, "workers": workers, "crew": crew}
            centre = (centres or {}).get(table.name)
            site, note = _make_site(source, number, table, model, scratch, meter, centre=centre, **shared)
            sites.append(site)
            warnings += [note] if note else []
    state = model.state_dict().items()
    shapes: TensorShapes = {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state if not name.startswith("tables.")
    }
    inputs = read_table_inputs(source.architecture, len(sites))
    subject = Subject(
        model,
        tuple(sites),
        run_on_batch,
        shapes,
        dict(source.architecture),
        train=train,
        hold_out=hold_out,
        counts=None if profile is None else tuple(profile.counts[one] for one in inputs),
        samples=0 if profile is None else profile.samples,
        scratch=scratch,
        work=work,
        meter=meter,
        crew=crew,
    )
    return subject, tuple(warnings)


def _make_site(
    source: SourceModel,
    number: int,
    table: SourceTable,
    model: nn.Module,
    scratch: Scratch,
    meter: Meter,
    *,
    allow_nonfinite: bool,
    workers: int,
    crew: Crew,
    centre: Tensor | None,
) -> tuple[TableSite, str]:
    """A table and where it stands, its rows looked at once; and what there is to warn of, or ""."""
    large = is_large(table.weight.shape)
    lengths = make_lengths(table.weight.shape, scratch, centre) if large else None
    seen = MeteredRows(table.weight, meter) if large else table.weight
    where = f"{source.path} > {table.name}"
    count, first = find_nonfinite_rows(
        seen, where, lengths=lengths, workers=workers, crew=crew if large else ALONE, label=table.name
    )
    if count and not allow_nonfinite:
        raise refuse_nonfinite(where, count, first)
    module, reader, note = model.get_submodule(f"tables.{number}"), cast("RowReader", table.weight), ""
    if count:
        reader = FiniteRows(table.weight)
        note = f"{table.name}: {count} rows have NaN or infinite values, which are read as zeros (first: {first})"
        if isinstance(module, StoredTable):
            module.reader = reader
        else:
            with torch.no_grad():
                module.get_parameter("weight").nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    if large:
        reader = MeteredRows(reader, meter)
    site = TableSite(
        name=table.name,
        paths=(f"tables.{number}",),
        module=module,
        reader=reader,
        nbytes=table.nbytes,
        dtype=table.dtype,
        optimizer=table.optimizer,
        norms=None if lengths is None else lengths.norms,
        distances=None if lengths is None else lengths.distances,
        pooling="" if isinstance(model, TableSet) else read_pooling(source.architecture),
    )
    return site, note


def require_labels(batches: LogBatches) -> None:
    """LogError for a log without labels."""
    if not batches.has_labels:
        raise LogError(f"the log {batches.log.paths[0]} has no label column, so nothing can be measured on it.")
