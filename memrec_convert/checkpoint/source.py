"""What a checkpoint turned out to be: its tables and dense tensors on disk, and the architecture they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from memrec_convert.checkpoint.facts import Assumption
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.file_digest import FilesDigest

PLAIN = "plain"


@dataclass(frozen=True)
class SourceTable:
    """One embedding table: its rows as the network looks them up, and its optimizer state where the file has it.

    `weight` reads those rows from whatever `form` they are stored in (shards, quotient and remainder, mixed dimensions,
    bytes). `optimizer` is Adagrad's accumulator, [rows, dim], or the row-wise one, [rows]. `others` are further tensors
    of a table that is listed only.
    """

    name: str
    weight: StoredTensor
    optimizer: StoredTensor | None = None
    form: str = PLAIN
    others: tuple[StoredTensor, ...] = ()

    @property
    def rows(self) -> int:
        """Number of ids; for quotient-remainder tables the most that the file allows."""
        return self.weight.rows

    @property
    def dim(self) -> int:
        """Width of a row as the network reads it."""
        return self.weight.shape[1]

    @property
    def dtype(self) -> str:
        """Element type as stored; of rows that are computed from several tensors, that of the first."""
        return self.weight.pieces[0].dtype

    @property
    def nbytes(self) -> int:
        """Bytes as stored, all parts together."""
        return self.weight.nbytes + sum(part.nbytes for part in self.others)


@dataclass(frozen=True)
class SourceModel:
    """A trained click model in a file, none of its tensors read yet.

    `tables` are in the order in which the network joins them; `dense` has the parameter names of the network in
    `models`; `architecture` is JSON-able and the input of `models.build_model`; `assumed` lists what the file does not
    say, and `open_facts` what of it may be otherwise and was not stated; `digest` is that of its files.
    """

    path: Path
    layout: str
    container: str
    tables: tuple[SourceTable, ...]
    dense: dict[str, StoredTensor]
    architecture: dict[str, object]
    optimizer: str | None = None
    stored_metrics: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    unrun_classes: tuple[str, ...] = ()
    digest: FilesDigest = field(default_factory=lambda: FilesDigest(()), compare=False)
    open_facts: tuple[Assumption, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that the checkpoint lies in: one, except for directories and files of several ranks."""
        return self.digest.files

    @property
    def file_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables as stored, one that serves twice counted once, optimizer state not at all."""
        return sum({table.weight: table.nbytes for table in self.tables}.values())

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense part as stored."""
        return sum(tensor.nbytes for tensor in self.dense.values())
