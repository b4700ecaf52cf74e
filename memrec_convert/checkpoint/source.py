"""What a checkpoint turned out to be: its tables and dense tensors on disk, and the architecture they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from memrec_convert.checkpoint.tensor_ref import TensorRef

PLAIN = "plain"


@dataclass(frozen=True)
class SourceTable:
    """One embedding table: its rows as stored, and its optimizer state where the file has it.

    `optimizer` is Adagrad's accumulator, [rows, dim], or the row-wise one, [rows]. Tables of another `form` than plain
    (quotient-remainder, mixed-dimension) are for inspection: `weight` is their main tensor, `parts` the others.
    """

    name: str
    weight: TensorRef
    optimizer: TensorRef | None = None
    form: str = PLAIN
    parts: tuple[TensorRef, ...] = ()

    @property
    def rows(self) -> int:
        """Number of ids; for quotient-remainder tables the most that the file allows."""
        factor = self.parts[0].rows if self.form == "quotient-remainder" and self.parts else 1
        return self.weight.rows * factor

    @property
    def dim(self) -> int:
        """Width of a row as stored."""
        return self.weight.shape[1]

    @property
    def dtype(self) -> str:
        """Element type as stored."""
        return self.weight.dtype

    @property
    def nbytes(self) -> int:
        """Bytes as stored, all parts together."""
        return self.weight.nbytes + sum(part.nbytes for part in self.parts)


@dataclass(frozen=True)
class SourceModel:
    """A trained click model in a file, none of its tensors read yet.

    `tables` are in the order of the network's inputs; `dense` has the state-dict names of `models.dlrm.DLRM`;
    `architecture` is JSON-able and the input of `models.build_model`; `assumed` lists what the file does not say.
    """

    path: Path
    layout: str
    container: str
    tables: tuple[SourceTable, ...]
    dense: dict[str, TensorRef]
    architecture: dict[str, object]
    optimizer: str | None = None
    stored_metrics: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    unrun_classes: tuple[str, ...] = ()

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables as stored, optimizer state not counted."""
        return sum(table.nbytes for table in self.tables)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense part as stored."""
        return sum(tensor.nbytes for tensor in self.dense.values())
