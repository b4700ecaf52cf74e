"""The subject of a conversion, from a checkpoint file and click logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.checkpoint import Facts, SourceModel, read_source, verify_storage
from memrec_convert.clicklog import Batch, ClickLog, LogSchema, Profile, open_log
from memrec_convert.conversion.fitting import FiniteRows, find_nonfinite_rows, refuse_nonfinite
from memrec_convert.conversion.subject import Subject, TableSite
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.errors import ModelError, NonFiniteRowsError
from memrec_convert.models import build_original, read_table_inputs

LogPaths = str | Path | Sequence[str | Path]

NOTHING_STATED = Facts()


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

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - the protocol's
        """Labels float32 [rows]."""
        labels: Tensor = batch.labels
        return labels


@dataclass(frozen=True)
class LogChoices:
    """What checkpoint and log are read with beyond what they say themselves."""

    columns: Mapping[str, str]
    oov: str = "error"
    dense_transform: str | None = None
    id_map: Path | None = None
    modulus: int | None = None
    facts: Facts = NOTHING_STATED


def run_on_batch(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of a known network on a batch of a click log."""
    logits: Tensor = model(batch.dense, batch.ids)
    return logits


def read_checked(
    path: str | Path, *, pairs: str | None, dense_transform: str | None, facts: Facts = NOTHING_STATED
) -> SourceModel:
    """The source model, its checksums verified, with the facts that the caller states put in."""
    source = read_source(path, facts=facts)
    verify_storage(source)
    if pairs is not None:
        if source.architecture.get("interaction") != "dot":
            raise ModelError(f"{path}: the order of pairs was stated as {pairs!r}, and this network has no pairs.")
        source.architecture["pairs"] = pairs
    if dense_transform is not None:
        source.architecture["dense_transform"] = dense_transform
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
        tables=tuple(zip(map(str, own_names), rows, strict=True)), dense=int(architecture["bottom"][0]),
        dense_transform=str(architecture.get("dense_transform", "log1p")), columns=dict(choices.columns),
        oov=choices.oov, id_map=choices.id_map, modulus=choices.modulus,
    )  # fmt: skip


def open_batches(paths: LogPaths, schema: LogSchema, batch_size: int) -> LogBatches:
    """A log of this schema as a source of batches."""
    return LogBatches(open_log(paths, schema), batch_size)


def make_subject(
    source: SourceModel, *, train: LogBatches | None, hold_out: LogBatches | None, profile: Profile | None,
    allow_nonfinite: bool,
) -> tuple[Subject, tuple[str, ...]]:  # fmt: skip
    """The subject and what there is to warn of; NonFiniteRowsError for NaN or infinite rows unless they are allowed."""
    readers, warnings = [], list[str]()
    model = build_original(source)
    for name, parameter in model.named_parameters():
        if not name.startswith("tables.") and not bool(torch.isfinite(parameter).all()):
            raise NonFiniteRowsError(
                f"{source.path}: the dense part holds NaN or infinite values ({name}), with which no logit is a "
                "number; expected finite numbers; give a checkpoint from before they arose."
            )
    for number, table in enumerate(source.tables):
        count, first = find_nonfinite_rows(table.weight)
        if count and not allow_nonfinite:
            raise refuse_nonfinite(f"{source.path} > {table.name}", count, first)
        if count:
            warnings.append(
                f"{table.name}: {count} rows with NaN or infinite values are read as zeros (first: {first})"
            )
            weight = model.get_parameter(f"tables.{number}.weight")
            with torch.no_grad():
                weight.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        readers.append(FiniteRows(table.weight) if count else table.weight)
    sites = tuple(
        TableSite(
            name=table.name, paths=(f"tables.{number}",), module=model.get_submodule(f"tables.{number}"),
            reader=readers[number], nbytes=table.nbytes, dtype=table.dtype, optimizer=table.optimizer,
        )
        for number, table in enumerate(source.tables)
    )  # fmt: skip
    shapes: TensorShapes = {
        name: (tensor.dtype, tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
        if not name.startswith("tables.")
    }
    inputs = read_table_inputs(source.architecture, len(sites))
    subject = Subject(
        model, sites, run_on_batch, shapes, dict(source.architecture), train=train, hold_out=hold_out,
        counts=None if profile is None else tuple(profile.counts[one] for one in inputs),
        samples=0 if profile is None else profile.samples,
    )  # fmt: skip
    return subject, tuple(warnings)
