"""The model under conversion, whether it came from a checkpoint file or lives in the caller's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from memrec_convert.artifact.writer import narrow_shapes
from memrec_convert.distill.rows import RowReader
from memrec_convert.encoding.spec import TensorShapes, count_bytes
from memrec_convert.evaluation.scoring import Forward

Progress = Callable[[str, int, int], None]
"""Told of (stage, done, total) as work goes on."""


class BatchSource(Protocol):
    """Batches that can be streamed again and again."""

    def stream(self, *, limit: int | None = None, shuffle_seed: int | None = None) -> Iterator[Any]:
        """Batches from the start; `limit` ends after that many samples, `shuffle_seed` asks for another order."""
        ...

    def count_batches(self) -> int:
        """How many batches a full pass has."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether `labels_of` gives something."""
        ...

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - what the caller's loader yields
        """Labels float32 [rows] of a batch."""
        ...


@dataclass(frozen=True)
class TableSite:
    """One table and where it stands in the model.

    paths        module paths that lead to it: several where modules share their rows
    module       the nn.EmbeddingBag or nn.Embedding that holds it now
    pooling      "sum" or "mean" for a bag, "" for an nn.Embedding
    optimizer    Adagrad's accumulated squares, [rows, dim] or [rows]
    """

    name: str
    paths: tuple[str, ...]
    module: nn.Module
    reader: RowReader
    nbytes: int
    dtype: str
    pooling: str = "sum"
    include_last_offset: bool = False
    padding_idx: int | None = None
    optimizer: RowReader | None = None

    @property
    def rows(self) -> int:
        """Ids of the table."""
        return self.reader.shape[0]

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.reader.shape[1]


@dataclass(frozen=True)
class Subject:
    """All that a conversion needs of a model and its data.

    dense_shapes, dense_aliases   every other tensor of the state dict, and the names that share one of them
    counts   per site the lookups of each id in the training data (int64 [rows]), or None without data
    samples  how many samples those counts come from
    """

    model: nn.Module
    sites: tuple[TableSite, ...]
    forward: Forward
    dense_shapes: TensorShapes
    architecture: dict[str, Any] | None
    dense_aliases: dict[str, str] = field(default_factory=dict)
    train: BatchSource | None = None
    hold_out: BatchSource | None = None
    counts: tuple[np.ndarray, ...] | None = None
    samples: int = 0

    @property
    def table_bytes(self) -> int:
        """Bytes of the rows as stored in the source."""
        return sum(site.nbytes for site in self.sites)

    def scoring_workers(self, workers: int) -> int:
        """Threads that may run the model at once: a model of the caller's own class may not bear more than one."""
        return workers if self.architecture is not None else 1

    def dense_bytes(self, dense: str) -> int:
        """Bytes of everything else, at the precision it is stored in ("fp32" or "bf16")."""
        return count_bytes(narrow_shapes(self.dense_shapes, dense).values())
