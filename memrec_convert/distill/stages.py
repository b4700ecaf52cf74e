"""Residual quantisation in fixed point: one codebook per stage, each rounded before the next one is fitted.

Every stage is a weighted k-means of what the stages before it left over, measured in the model's own metric
(section 'warm start' of docs/method.md). Stage lists that begin alike share the stages of their common beginning.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.kmeans import partition
from memrec_convert.encoding.spec import LARGEST_ENTRY, LARGEST_SUM
from memrec_convert.kernels.encoder import code_each_depth, find_nearest, in_metric, measure_rows, sum_by_nearest

LARGEST_SHIFT = 7
MOST_STAGES = 16
"""Stages of a list: so many entries are sure to have room above the largest sum before them."""

_READING, _EXTENDING = 8, 16
"""What reading a row takes, and what one more token does beside its search, in entries compared."""


@dataclass(frozen=True)
class Stage:
    """One codebook: int8 [size, dim] in units of scale * 2**-shift; `reach` bounds every |sum| up to here."""

    codebook: Tensor
    shift: int
    reach: int

    @property
    def size(self) -> int:
        """Entries."""
        return len(self.codebook)

    def values(self, scale: float) -> Tensor:
        """The entries as float32 [size, dim]."""
        return self.codebook.to(torch.float32) * (scale * 2.0**-self.shift)


@dataclass(frozen=True)
class SampleRows:
    """Rows to fit on: what the centre leaves of them (float32 [n, dim]), and what each counts (float32 [n])."""

    residual: Tensor
    weights: Tensor


@dataclass(frozen=True)
class FittedList:
    """The stages of one list; each sample row's squared distance after 0, 1, ... of them, float32 [depth + 1, n]."""

    sizes: tuple[int, ...]
    stages: tuple[Stage, ...]
    distances: Tensor


def fit_lists(
    sample: SampleRows, metric: Tensor, lists: Sequence[tuple[int, ...]], *, scale: float, iterations: int, seed: int
) -> Iterator[FittedList]:
    """Fits every stage list once on the sample; metric is float32 [dim, dim], distances are |residual @ metric|**2."""
    points = in_metric(sample.residual, metric)
    start = _Prefix((), (), sample.residual, points, (measure_rows(points)[0],))
    memory: dict[tuple[int, ...], _Prefix] = {(): start}
    ordered = sorted(lists)
    for number, sizes in enumerate(ordered):
        later = {one[:depth] for one in ordered[number + 1 :] for depth in range(len(one))}
        memory = {key: prefix for key, prefix in memory.items() if key in later or key == sizes[: len(key)]}
        full = memory[max((key for key in memory if key == sizes[: len(key)]), key=len)]
        for depth in range(len(full.sizes) + 1, len(sizes) + 1):
            generator = seeded_generator(seed, *sizes[:depth])
            full = _extend(full, sizes[depth - 1], sample.weights, metric, scale, iterations, generator)
            if full.sizes in later:
                memory[full.sizes] = full
        yield FittedList(sizes, full.stages, torch.stack(full.distances))


def fit_stage(
    residual: Tensor,
    points: Tensor,
    weights: Tensor,
    size: int,
    *,
    scale: float,
    before: Stage | None,
    iterations: int,
    generator: torch.Generator,
) -> Stage:
    """One codebook for these residuals (float32 [n, dim]; `points` in the metric), rounded to fixed point."""
    nearest = partition(points, weights, size, iterations=iterations, generator=generator)
    mass, sums = sum_by_nearest(residual, weights, nearest, size)
    means = (sums / mass.clamp(min=1e-30).unsqueeze(1)).to(torch.float32)  # linear: the metric need not be inverted
    return round_stage(means, widest=float(means.abs().max()), scale=scale, before=before)


def round_stage(entries: Tensor, *, widest: float, scale: float, before: Stage | None) -> Stage:
    """Entries (float32 [size, dim]) in fixed point: the finest shift that holds `widest` and keeps sums in int16."""
    least, carried = (before.shift, before.reach) if before else (0, 0)
    shift = least
    while shift < LARGEST_SHIFT and widest * 2 ** (shift + 1) <= LARGEST_ENTRY * scale:
        shift += 1
    # A finer shift doubles what the stages before can reach; room must stay for those that follow at the same shift.
    while shift > least and (carried << (shift - least)) + MOST_STAGES * LARGEST_ENTRY > LARGEST_SUM:
        shift -= 1
    codebook = (entries / (scale * 2.0**-shift)).round_().clamp_(-LARGEST_ENTRY, LARGEST_ENTRY).to(torch.int8)
    # The bound supposes the largest entries everywhere, so that training may move them without leaving int16.
    return Stage(codebook, shift, (carried << (shift - least)) + LARGEST_ENTRY)


def split_codebook(codebook: Tensor, sizes: Sequence[int], shifts: Sequence[int]) -> tuple[Stage, ...]:
    """The stages that codebooks int8 [entries, dim], one after the other, were joined from."""
    found = list[Stage]()
    for entries, shift in zip(torch.split(codebook, list(sizes)), shifts, strict=True):
        carried = found[-1].reach << (shift - found[-1].shift) if found else 0
        found.append(Stage(entries.clone(), shift, carried + LARGEST_ENTRY))
    return tuple(found)


def encode_rows(
    rows: Tensor, metric: Tensor, stages: Sequence[Stage], *, scale: float, centre: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes uint8 [n, depth] and squared distances float32 [depth + 1, n] of rows [n, dim] less the centre."""
    return code_each_depth(rows, books_in_metric(stages, metric, scale=scale), centre=centre, metric=metric)


def books_in_metric(stages: Sequence[Stage], metric: Tensor, *, scale: float) -> list[Tensor]:
    """Each stage's entries times the metric, float32 [size, dim]: what rows in the metric are coded by."""
    return [in_metric(stage.values(scale), metric) for stage in stages]


def count_search_work(sizes: Sequence[int], dim: int, *, beam: int = 1) -> np.ndarray:
    """About what one row takes by its depth, from -1 (not coded) to the last stage: float64 [stages + 2], relative."""
    held, work = 1, [_READING, _READING]
    for size in sizes:
        work.append(work[-1] + held * (size + _EXTENDING))
        held = min(beam, held * min(2, size))
    return np.array(work, dtype=np.float64) * dim


def seeded_generator(*parts: int) -> torch.Generator:
    """A generator whose stream depends on these numbers alone."""
    return torch.Generator().manual_seed(zlib.crc32(repr(parts).encode()))


@dataclass(frozen=True)
class _Prefix:
    sizes: tuple[int, ...]
    stages: tuple[Stage, ...]
    residual: Tensor
    points: Tensor  # the residual in the metric, less the entries in the metric
    distances: tuple[Tensor, ...]


def _extend(
    prefix: _Prefix,
    size: int,
    weights: Tensor,
    metric: Tensor,
    scale: float,
    iterations: int,
    generator: torch.Generator,
) -> _Prefix:
    before = prefix.stages[-1] if prefix.stages else None
    stage = fit_stage(
        prefix.residual,
        prefix.points,
        weights,
        size,
        scale=scale,
        before=before,
        iterations=iterations,
        generator=generator,
    )
    values = stage.values(scale)
    book = in_metric(values, metric)
    nearest, distance = find_nearest(prefix.points, book)
    residual = prefix.residual - values[nearest]
    points = residual if book is values else prefix.points - book[nearest]
    return _Prefix((*prefix.sizes, size), (*prefix.stages, stage), residual, points, (*prefix.distances, distance))
