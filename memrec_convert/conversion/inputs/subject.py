"""The model under conversion, whether it came from a checkpoint file or lives in the caller's process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from memrec_convert.artifact.dense import narrow_shapes
from memrec_convert.clicklog import Sensitivity
from memrec_convert.conversion.inputs.kept_fits import NO_STORE, FitStore
from memrec_convert.conversion.inputs.metering import Meter, Progress, count_large_bytes
from memrec_convert.distill.columns import IN_MEMORY, Column, Scratch
from memrec_convert.distill.rows import RowReader
from memrec_convert.distill.survey import Distances
from memrec_convert.encoding.spec import TensorShapes, count_bytes
from memrec_convert.errors import LogError
from memrec_convert.evaluation.answers import Answers
from memrec_convert.evaluation.goal import CLICKS, Goal
from memrec_convert.evaluation.measures import Truth
from memrec_convert.evaluation.scoring import Forward, score_batches
from memrec_convert.parallel import ALONE, Crew

__all__ = ["BatchSource", "Progress", "Subject", "TableSite"]


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

    @property
    def name(self) -> str:
        """What messages call them."""
        ...

    @property
    def mark(self) -> str:
        """What tells these batches from others in another run; "" where nothing does."""
        ...

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - what the caller's loader yields
        """Labels float32 [rows] of a batch."""
        ...

    def groups_of(self, batch: Any) -> Tensor | None:  # noqa: ANN401 - what the caller's loader yields
        """Which rows of a batch belong together, int64 [rows]; None where nothing says so."""
        ...


def join_groups(source: BatchSource, batches: Iterable[Any]) -> np.ndarray | None:
    """Which samples of all the batches belong together, int64 [n]; None where nothing says so."""
    found = [groups.numpy() for batch in batches if (groups := source.groups_of(batch)) is not None]
    return np.concatenate(found) if found else None


def read_truth(source: BatchSource) -> Truth | None:
    """The labels and groups of all batches; None without labels."""
    if not source.has_labels:
        return None
    labels, groups = list[np.ndarray](), list[np.ndarray]()
    for batch in source.stream():
        labels.append(source.labels_of(batch).numpy())
        found = source.groups_of(batch)
        groups += [found.numpy()] if found is not None else []
    if len(widths := {one.shape[1:] for one in labels}) > 1:
        shown = " and ".join(str(["rows", *one]).replace("'", "") for one in sorted(widths))
        raise LogError(f"the labels of {source.name} have the shapes {shown}; expected as many for all samples.")
    return Truth(np.concatenate(labels), np.concatenate(groups) if groups else None)


@dataclass(frozen=True)
class TableSite:
    """One table and where it stands in the model.

    paths        module paths that lead to it: several where modules share their rows
    module       the nn.EmbeddingBag or nn.Embedding that holds it now
    pooling      "sum" or "mean" for a bag, "" for an nn.Embedding
    optimizer    Adagrad's accumulated squares, [rows, dim] or [rows]
    norms        |row|**2, float64 [rows], where a pass over the rows has found them
    distances    how far rows are from a centre that was asked for, in no metric, where such a pass has found them too
    weights      names of the parameters that show these rows: where there are some, the compressed rows take their
                 place and the modules stay; else the compressed table takes the place of the module
    borrowed     the rows lie in the memory of another table, which counts them
    kept_module  the modules do more than look up rows, so nothing can stand for one
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
    norms: Column | None = None
    distances: Distances | None = None
    weights: tuple[str, ...] = ()
    borrowed: bool = False
    kept_module: bool = False

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
    felt     per site what the model feels of its rows, where a profile of this model knows it already
    keep_felt  takes what was measured in its place
    scratch  where numbers per row are kept
    work     where fits and codes are kept for another run
    meter    counts what is read of large tables
    uncopied what copies of the model share with it
    goal     what the outputs are for, and what a conversion is judged by
    crew     who shares the work
    answers  the model's logits for the training log's samples, once a pass has found them
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
    felt: tuple[Sensitivity, ...] = ()
    keep_felt: Callable[[Sequence[Sensitivity]], None] | None = None
    scratch: Scratch = IN_MEMORY
    work: FitStore = NO_STORE
    meter: Meter = field(default_factory=Meter)
    uncopied: tuple[object, ...] = ()
    goal: Goal = CLICKS
    crew: Crew = ALONE
    answers: Answers = field(default_factory=Answers)

    @property
    def large_bytes(self) -> int:
        """Bytes of one pass over the tables whose passes are counted, as float32; 0 where there is none."""
        return count_large_bytes([site.reader for site in self.sites])

    @property
    def table_bytes(self) -> int:
        """Bytes of the rows as stored in the source."""
        return sum(site.nbytes for site in self.sites if not site.borrowed)

    def score(self, model: nn.Module, batches: Iterable[Any], workers: int) -> np.ndarray:
        """Outputs of a copy of the model, float32 [samples], or [samples, k] where the objective has several."""
        workers, wide = self.scoring_workers(workers), self.goal.objective.wide
        return score_batches(model, batches, self.forward, workers=workers, wide=wide)

    def score_original(self, source: BatchSource, workers: int, *, limit: int | None = None) -> np.ndarray:
        """Outputs of the original on the source's first samples; found again where work is kept."""

        def score() -> np.ndarray:
            return self.score(self.model, source.stream(limit=limit), workers)

        if self.work.folder is None or not source.mark:
            return score()
        return self.work.recall(f"logits of {limit or 'all'} samples of {source.mark}", score, ())

    def scoring_workers(self, workers: int) -> int:
        """Threads that may run the model at once: a model of the caller's own class may not bear more than one."""
        return workers if self.architecture is not None else 1

    def dense_bytes(self, dense: str) -> int:
        """Bytes of everything else, at the precision it is stored in ("fp32", "bf16" or "int8")."""
        return count_bytes(narrow_shapes(self.dense_shapes, dense).values())
