"""A table as every rival sees it: its rows, what each is worth, and the metric that says what an error costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memrec_convert.conversion.inputs.kept_fits import FitStore
from memrec_convert.distill.rows import TensorRows, chunk_bounds
from memrec_convert.distill.survey import Sample, Survey, draw_sample

SAMPLE_ROWS = 32_768
"""Rows that stand for a table where clusters are fitted and distortions estimated, as in the conversion's own fit."""


@dataclass(frozen=True)
class TableView:
    """rows float32 [n, dim]; survey: centre, metric, row weights, and what each row loses at the centre.

    `memory` holds what several rivals, or several sizes of one, share; `fits` what outlives the process.
    """

    name: str
    rows: Tensor
    survey: Survey
    replaceable: bool
    seed: int
    memory: dict[Any, Any] = field(default_factory=dict, repr=False)
    fits: FitStore = field(default_factory=lambda: FitStore(None, {}), repr=False)

    @property
    def count(self) -> int:
        """Ids of the table."""
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self.rows.shape[1])

    @cached_property
    def weights(self) -> Tensor:
        """How often each row counts, float32 [n]."""
        return torch.from_numpy(self.survey.weights)

    @cached_property
    def sample(self) -> Sample:
        """Rows that stand for all: drawn by their worth."""
        return draw_sample(TensorRows(self.rows), self.survey, size=SAMPLE_ROWS, seed=self.seed)

    def chunks(self) -> Iterator[slice]:
        """The table in pieces of a few megabytes."""
        yield from (slice(start, stop) for start, stop in chunk_bounds(self.count, self.dim))

    def losses(self, decode: Callable[[slice], Tensor]) -> np.ndarray:
        """weight * |(row - decoded row) A|**2 of every row, float32 [n]."""
        found = np.empty(self.count, dtype=np.float32)
        for piece in self.chunks():
            distance = ((self.rows[piece] - decode(piece)) @ self.survey.metric).square().sum(dim=1)
            found[piece] = (distance * self.weights[piece]).numpy()
        return found

    def total(self, decode: Callable[[slice], Tensor]) -> float:
        """The sum of `losses`."""
        return float(self.losses(decode).sum(dtype=np.float64))

    def distances(self, rest: Tensor) -> np.ndarray:
        """|rest A|**2 of what is left of rows (float32 [n, dim]), float32 [n]."""
        found: np.ndarray = (rest @ self.survey.metric).square().sum(dim=1).numpy()
        return found

    def estimate(self, distances: np.ndarray) -> float:
        """The table's loss where these are the distances of the sampled rows."""
        weights = self.sample.rows.weights.numpy().astype(np.float64)
        at_centre = float((self.distances(self.sample.rows.residual) * weights).sum())
        energy = float(self.survey.values.sum(dtype=np.float64))
        return float((distances * weights).sum()) * (energy / at_centre if at_centre > 0 else 0.0)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever rivals share
        """What `make` gives, made once."""
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def recall(self, key: str, make: Callable[[], Any], classes: Sequence[type] = ()) -> Any:  # noqa: ANN401 - any fit
        """As `remember`, and kept on disk where fits are; `classes` are the dataclasses in it."""
        return self.remember(key, lambda: self.fits.recall(f"{self.name}: {key}", make, classes))
