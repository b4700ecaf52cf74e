"""A first look at a table: its centre, what each row is worth, and a sample of rows that stands for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.columns import IN_MEMORY, Column, Scratch, gather, slices
from memrec_convert.distill.rows import CHUNKS_PER_RANGE, RowReader, chunk_bounds, is_large, rows_per_chunk
from memrec_convert.distill.stages import SampleRows, seeded_generator
from memrec_convert.kernels.encoder import measure_rows, sum_by_nearest
from memrec_convert.parallel import ALONE, Crew, ordered_map

CENTRE_ROWS = 65_536
"""Rows of a large table that tell its centre: what all rows lose by its being off is about one part in so many."""

CLASSES_PER_OCTAVE = 2
_LOWEST_CLASS, _HIGHEST_CLASS = -160, 160
_KEYS = CLASSES_PER_OCTAVE * (_HIGHEST_CLASS - _LOWEST_CLASS) + 1


@dataclass(frozen=True)
class Survey:
    """What two passes over a table tell.

    centre       float32 [dim], the weighted mean row
    metric       float32 [dim, dim], A with A A^T = G, so that |(t - z) A|**2 is in units of logit**2
    weights      float32 [rows], how often a row counts
    values       float32 [rows], weight times squared distance from the centre: what the row loses at depth 0
    widest       largest |entry| of any row less the centre
    """

    centre: Tensor
    metric: Tensor
    weights: Column
    values: Column
    widest: float

    @property
    def scale(self) -> float:
        """Fixed-point unit at shift 0, as float32 holds it."""
        return float(np.float32(self.widest / 127)) if self.widest > 0 else 1.0


@dataclass(frozen=True)
class Distances:
    """How far all rows are from a centre (float32 [dim]).

    squared: float32 [rows], in a metric that whoever holds them knows; widest: the largest |entry| of any row less the
    centre.
    """

    centre: Tensor
    squared: Column
    widest: float = 0.0


def measure_distances(
    reader: RowReader, centre: Tensor, metric: Tensor, *, scratch: Scratch = IN_MEMORY, workers: int = 1
) -> Distances:
    """Those in this metric (float32 [dim, dim]), by a pass over the rows."""
    squared, widest, bounds = scratch.column(reader.shape[0], np.float32), 0.0, chunk_bounds(*reader.shape)

    def measure(part: tuple[int, int]) -> tuple[Tensor, float]:
        return measure_rows(torch.from_numpy(reader.read_rows(*part)), centre=centre, metric=metric)

    for part, (found, largest) in zip(bounds, ordered_map(measure, bounds, workers=workers), strict=True):
        squared[slice(*part)] = found.numpy()
        widest = max(widest, largest)
    return Distances(centre, squared, widest)


@dataclass(frozen=True)
class ValueClasses:
    """Rows grouped by value in half-octaves, most valuable class first.

    number int16 [rows] is each row's class; rows int64 [classes]; energy float64 [classes] sums the values.
    """

    number: Column
    rows: np.ndarray
    energy: np.ndarray


@dataclass(frozen=True)
class Sample:
    """Rows drawn to stand for the table: their numbers (int64 [n]), the rows and how many each stands for."""

    numbers: np.ndarray
    rows: SampleRows
    stands_for: Tensor


def survey_table(
    reader: RowReader,
    weights: Column,
    metric: Tensor,
    *,
    scratch: Scratch = IN_MEMORY,
    workers: int = 1,
    crew: Crew = ALONE,
    label: str = "",
) -> Survey:
    """The weighted centre, then each row's value. Rows must be finite; `label` tells the crew this table from others.

    The centre of a large table comes from rows drawn by their weights, that of others from all.
    """
    rows, dim = reader.shape
    bounds = chunk_bounds(rows, dim)
    shared: dict[str, Any] = {"workers": workers, "crew": crew, "label": label}
    if is_large(reader.shape):
        numbers, inverse = _draw(weights, CENTRE_ROWS, seeded_generator(0, 2))
        chosen = _gather_rows(reader, numbers, kind="centre", **shared)
        mass, sums = _add_up(chosen, gather(weights, numbers) * inverse)
    else:
        mass, sums = 0.0, torch.zeros(dim, dtype=torch.float64)
        for part in bounds:
            own_mass, own = _add_up(reader.read_rows(*part), weights[slice(*part)])
            mass, sums = mass + own_mass, sums + own
    centre = (sums / max(mass, 1e-30)).to(torch.float32)
    values, widest = scratch.column(rows, np.float32), 0.0

    def measure(part: tuple[int, int]) -> tuple[Tensor, float]:
        return measure_rows(torch.from_numpy(reader.read_rows(*part)), centre=centre, metric=metric)

    found = crew.map(f"values, {label}", measure, bounds, workers=workers, block=CHUNKS_PER_RANGE)
    for part, (distance, largest) in zip(bounds, found, strict=True):
        values[slice(*part)] = weights[slice(*part)] * distance.numpy()
        widest = max(widest, largest)
    return Survey(centre, metric, weights, values, widest)


def _add_up(rows: np.ndarray, weights: np.ndarray) -> tuple[float, Tensor]:
    """The sum of the weights, and of the rows times these, float64 [dim]."""
    one = torch.zeros(len(rows), dtype=torch.int64)
    mass, sums = sum_by_nearest(torch.from_numpy(rows), torch.from_numpy(weights), one, 1)
    return float(mass), sums[0]


def group_by_value(values: Column, *, scratch: Scratch = IN_MEMORY) -> ValueClasses:
    """Half-octaves of value, so that any number of rows is a few dozen classes."""
    rows, energy = np.zeros(_KEYS, dtype=np.int64), np.zeros(_KEYS)
    for part in slices(len(values)):
        keys = _key_of(values[part])
        rows += np.bincount(keys, minlength=_KEYS)
        energy += np.bincount(keys, weights=values[part].astype(np.float64), minlength=_KEYS)
    present = np.flatnonzero(rows)
    place = np.zeros(_KEYS, dtype=np.int16)
    place[present] = np.arange(len(present))
    number = scratch.column(len(values), np.int16)
    for part in slices(len(values)):
        number[part] = place[_key_of(values[part])]
    return ValueClasses(number, rows[present], energy[present])


def _key_of(values: np.ndarray) -> np.ndarray:
    """The half-octave of each value, counted from the highest down."""
    octave = np.floor(CLASSES_PER_OCTAVE * np.log2(np.maximum(values, np.float32(2.0**-120))))
    top = _HIGHEST_CLASS * CLASSES_PER_OCTAVE
    key: np.ndarray = (top - np.clip(octave, _LOWEST_CLASS * CLASSES_PER_OCTAVE, top)).astype(np.int16)
    return key


def draw_sample(
    reader: RowReader, survey: Survey, *, size: int, seed: int, workers: int = 1, crew: Crew = ALONE, label: str = ""
) -> Sample:
    """About `size` rows, drawn in proportion to the root of their value (all of them where the table is smaller)."""
    drawn, inverse = _draw(survey.values, size, seeded_generator(seed, 1))
    chosen = _gather_rows(reader, drawn, kind="sample", workers=workers, crew=crew, label=label)
    stands_for = torch.from_numpy(inverse)
    weights = torch.from_numpy(gather(survey.weights, drawn)) * stands_for
    return Sample(drawn, SampleRows(torch.from_numpy(chosen) - survey.centre, weights), stands_for)


def _draw(values: Column, size: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rising numbers of about `size` rows (int64), and for how many each stands (float32)."""
    chances = _Chances(values, size)
    numbers, inverse = [], []
    for part in slices(len(values)):
        chance = chances.of(part)
        uniform = torch.rand(len(chance), generator=generator, dtype=torch.float64).numpy()
        drawn = np.flatnonzero(uniform < chance)
        numbers.append(drawn + part.start)
        inverse.append((1.0 / chance[drawn]).astype(np.float32))
    return np.concatenate(numbers), np.concatenate(inverse)


class _Chances:
    """The chance of each row to be drawn: the root of its value with a floor, scaled so that `size` are expected."""

    def __init__(self, values: Column, size: int) -> None:
        self.values, self.certain = values, len(values) <= size
        self.floor, self.factors = 0.0, list[float]()
        if self.certain:
            return
        self.floor = 0.05 * (self._sum() / len(values)) + 1e-30
        for _ in range(4):  # what exceeds certainty is spread over the others
            self.factors.append(size / self._sum())

    def of(self, part: slice) -> np.ndarray:
        """float64, for the rows of a slice."""
        if self.certain:
            return np.ones(part.stop - part.start)
        chance: np.ndarray = self.values[part].astype(np.float64)
        np.sqrt(chance, out=chance)
        chance += self.floor
        for factor in self.factors:
            chance *= factor
            np.minimum(1.0, chance, out=chance)
        return chance

    def _sum(self) -> float:
        return float(sum(self.of(part).sum() for part in slices(len(self.values))))


def _gather_rows(
    reader: RowReader, numbers: np.ndarray, *, kind: str, workers: int, crew: Crew, label: str
) -> np.ndarray:
    """The rows of these rising numbers, range by range in the order of the file."""
    rows, dim = reader.shape
    step = CHUNKS_PER_RANGE * rows_per_chunk(dim)
    parts = np.split(numbers, np.searchsorted(numbers, np.arange(step, rows, step)))

    def pick(own: np.ndarray) -> np.ndarray:
        return reader.read_ids(own)

    return np.concatenate(list(crew.map(f"{kind}, {label}", pick, parts, workers=workers)))
