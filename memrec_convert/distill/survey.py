"""A first look at a table: its centre, what each row is worth, and a sample of rows that stands for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.rows import RowReader, chunk_bounds, read_chunks
from memrec_convert.distill.stages import SampleRows, seeded_generator

CLASSES_PER_OCTAVE = 2
_LOWEST_CLASS, _HIGHEST_CLASS = -160, 160


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
    weights: np.ndarray
    values: np.ndarray
    widest: float

    @property
    def scale(self) -> float:
        """Fixed-point unit at shift 0, as float32 holds it."""
        return float(np.float32(self.widest / 127)) if self.widest > 0 else 1.0


@dataclass(frozen=True)
class ValueClasses:
    """Rows grouped by value in half-octaves, most valuable class first.

    number int16 [rows] is each row's class; rows int64 [classes]; energy float64 [classes] sums the values.
    """

    number: np.ndarray
    rows: np.ndarray
    energy: np.ndarray


@dataclass(frozen=True)
class Sample:
    """Rows drawn to stand for the table: their numbers (int64 [n]), the rows and how many each stands for."""

    numbers: np.ndarray
    rows: SampleRows
    stands_for: Tensor


def survey_table(reader: RowReader, weights: np.ndarray, metric: Tensor) -> Survey:
    """Two passes over the rows: the weighted centre, then each row's value. Rows must be finite."""
    rows, dim = reader.shape
    total, mass = torch.zeros(dim, dtype=torch.float64), 0.0
    for start, chunk in read_chunks(reader):
        weight = torch.from_numpy(weights[start : start + len(chunk)]).to(torch.float64)
        total += weight @ chunk.to(torch.float64)
        mass += float(weight.sum())
    centre = (total / max(mass, 1e-30)).to(torch.float32)
    values, widest = np.empty(rows, dtype=np.float32), 0.0
    for start, chunk in read_chunks(reader):
        rest = chunk - centre
        distance = (rest @ metric).square().sum(dim=1).numpy()
        values[start : start + len(chunk)] = weights[start : start + len(chunk)] * distance
        widest = max(widest, float(rest.abs().max()))
    return Survey(centre, metric, weights, values, widest)


def group_by_value(values: np.ndarray) -> ValueClasses:
    """Half-octaves of value, so that any number of rows is a few dozen classes."""
    tiny = np.float32(2.0**-120)
    octave = np.floor(CLASSES_PER_OCTAVE * np.log2(np.maximum(values, tiny)))
    key = np.clip(octave, _LOWEST_CLASS * CLASSES_PER_OCTAVE, _HIGHEST_CLASS * CLASSES_PER_OCTAVE).astype(np.int16)
    present, number = np.unique(-key, return_inverse=True)
    rows = np.bincount(number, minlength=len(present))
    energy = np.bincount(number, weights=values.astype(np.float64), minlength=len(present))
    return ValueClasses(number.astype(np.int16), rows, energy)


def draw_sample(reader: RowReader, survey: Survey, *, size: int, seed: int) -> Sample:
    """About `size` rows, drawn in proportion to the root of their value (all of them where the table is smaller)."""
    rows, _ = reader.shape
    if rows <= size:
        chance = np.ones(rows)
    else:
        chance = np.sqrt(survey.values.astype(np.float64))
        chance += 0.05 * chance.mean() + 1e-30
        for _ in range(4):  # what exceeds certainty is spread over the others
            chance = np.minimum(1.0, chance * (size / chance.sum()))
    uniform = torch.rand(rows, generator=seeded_generator(seed, 1), dtype=torch.float64).numpy()
    numbers = np.flatnonzero(uniform < chance)
    picked = torch.from_numpy(_gather_rows(reader, numbers)) - survey.centre
    stands_for = torch.from_numpy((1.0 / chance[numbers]).astype(np.float32))
    weights = torch.from_numpy(survey.weights[numbers]) * stands_for
    return Sample(numbers, SampleRows(picked, weights), stands_for)


def _gather_rows(reader: RowReader, numbers: np.ndarray) -> np.ndarray:
    """The rows of these rising numbers, read chunk by chunk in the order of the file."""
    rows, dim = reader.shape
    picked = np.empty((len(numbers), dim), dtype=np.float32)
    for start, stop in chunk_bounds(rows, dim):
        low, high = np.searchsorted(numbers, [start, stop])
        if high > low:
            picked[low:high] = reader.read_rows(start, stop)[numbers[low:high] - start]
    return picked
