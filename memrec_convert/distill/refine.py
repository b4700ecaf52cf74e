"""Codes and codebooks improved together once it is known how deep each row goes.

Two steps in turn, as in additive quantisation (Babenko and Lempitsky, CVPR 2014): each row is coded towards the depth
at which it will be read, by beam search; then all codebooks are fitted jointly to those codes, by linear least squares.
Rows weigh what they weigh in the plan, and a stage is shaped by the rows that reach it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.rows import RowReader, chunk_bounds
from memrec_convert.distill.stages import Stage, books_in_metric
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding.spec import LARGEST_ENTRY
from memrec_convert.kernels.encoder import add_to_normal, measure_rows, search_codes, solve_positive, sum_by_nearest
from memrec_convert.parallel import ordered_map

BEAM, WIDE_BEAM = 4, 16
"""Partial codes that are kept of each row while codebooks are fitted, and in the search for the last codes."""
ROUNDS = 4
_RIDGE = 1e-3


@dataclass(frozen=True)
class RefinedTable:
    """Stages, codes uint8 [rows, stages] (zeros beyond a row's depth) and loss: sum of weight * |(t - z) A|**2."""

    stages: tuple[Stage, ...]
    codes: np.ndarray
    loss: float


def refine_table(
    reader: RowReader,
    survey: Survey,
    stages: Sequence[Stage],
    depths: np.ndarray,
    *,
    workers: int,
    rounds: int = ROUNDS,
    beam: int = BEAM,
    last_beam: int = BEAM,
) -> RefinedTable:
    """Alternates coding and fitting; depths int8 [rows] is the number of tokens of each row (-1: not coded at all).

    `beam` partial codes are kept of each row; with more of them, `last_beam`, the codes are searched for once more. The
    best state is kept, so the loss is never above that of plain coding with the given stages.
    """
    best = _code_all(reader, survey, stages, depths, workers=workers, beam=beam)
    for _ in range(rounds if stages else 0):
        fitted = _fit_jointly(reader, survey, best, depths)
        found = _code_all(reader, survey, fitted, depths, workers=workers, beam=beam)
        if found.loss >= best.loss:
            break
        best = found
    if last_beam <= beam:
        return best
    last = _code_all(reader, survey, best.stages, depths, workers=workers, beam=last_beam)
    return last if last.loss < best.loss else best


def find_centre(reader: RowReader, survey: Survey, chosen: np.ndarray) -> Tensor | None:
    """The weighted mean of the rows that are `chosen` (bool [rows]), float32 [dim]; None where they count nothing."""
    mass, sums = 0.0, torch.zeros(len(survey.centre), dtype=torch.float64)
    for start, stop in chunk_bounds(*reader.shape):
        weights = torch.from_numpy(np.where(chosen[start:stop], survey.weights[start:stop], np.float32(0)))
        nearest = torch.zeros(stop - start, dtype=torch.int64)
        masses, total = sum_by_nearest(torch.from_numpy(reader.read_rows(start, stop)), weights, nearest, 1)
        mass, sums = mass + float(masses[0]), sums + total[0]
    return (sums / mass).to(torch.float32) if mass > 0 else None


def measure_mean_row(reader: RowReader, survey: Survey, centre: Tensor) -> np.ndarray:
    """What each row loses at depth 0 with this centre, float32 [rows]."""
    losses = np.empty(reader.shape[0], dtype=np.float32)
    for start, stop in chunk_bounds(*reader.shape):
        rows = torch.from_numpy(reader.read_rows(start, stop))
        squared, _ = measure_rows(rows, centre=centre, metric=survey.metric)
        losses[start:stop] = squared.numpy() * survey.weights[start:stop]
    return losses


def move_centre(
    reader: RowReader, survey: Survey, stages: Sequence[Stage], depths: np.ndarray
) -> tuple[Survey, tuple[Stage, ...]]:
    """The survey with the weighted mean of the rows at depth 0 for its centre, and stages that make up for it.

    All other rows have an entry of the first stage, which moves by as much the other way: only its rounding changes. In
    a direction in which an entry would leave its codebook the centre goes as far as it can. As given where no row at
    depth 0 counts, or would lose less.
    """
    mean = find_centre(reader, survey, depths == 0)
    if mean is None or not stages:
        return (survey if mean is None else replace(survey, centre=mean)), tuple(stages)
    entries, room = stages[0].values(survey.scale), LARGEST_ENTRY * survey.scale * 2.0 ** -stages[0].shift
    step = torch.maximum(torch.minimum(survey.centre - mean, room - entries.amax(dim=0)), -room - entries.amin(dim=0))
    centre = survey.centre - step
    apart = measure_rows(torch.stack([centre, survey.centre]), centre=mean, metric=survey.metric)[0]
    if not float(apart[0]) < float(apart[1]):
        return survey, tuple(stages)
    return replace(survey, centre=centre), (_round_entries(stages[0], entries + step, survey.scale), *stages[1:])


def _code_all(
    reader: RowReader, survey: Survey, stages: Sequence[Stage], depths: np.ndarray, *, workers: int, beam: int
) -> RefinedTable:
    rows, dim = reader.shape
    books = books_in_metric(stages, survey.metric, scale=survey.scale)
    codes = np.zeros((rows, len(stages)), dtype=np.uint8)

    def code(bounds: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray, float]:
        chunk, own = torch.from_numpy(reader.read_rows(*bounds)), torch.from_numpy(depths[slice(*bounds)])
        found, distance = search_codes(chunk, books, centre=survey.centre, metric=survey.metric, depths=own, beam=beam)
        weighted = distance.numpy() * survey.weights[slice(*bounds)]
        return bounds, found.numpy(), float(weighted.sum(dtype=np.float64))

    total = 0.0
    for (start, stop), found, loss in ordered_map(code, chunk_bounds(rows, dim), workers=workers):
        codes[start:stop] = found
        total += loss
    return RefinedTable(tuple(stages), codes, total)


def _fit_jointly(reader: RowReader, survey: Survey, coded: RefinedTable, depths: np.ndarray) -> tuple[Stage, ...]:
    """All codebooks at once: the weighted least squares of rows on the entries that their codes name.

    The metric drops out: it is the same invertible map for every row, and weights are scalars.
    """
    sizes = [stage.size for stage in coded.stages]
    firsts = torch.tensor([0, *sizes]).cumsum(0)
    entries, dim = int(firsts[-1]), reader.shape[1]
    matrix = torch.zeros(entries, entries, dtype=torch.float64)
    right = torch.zeros(entries, dim, dtype=torch.float64)
    for start, stop in chunk_bounds(*reader.shape):
        add_to_normal(
            matrix,
            right,
            rows=torch.from_numpy(reader.read_rows(start, stop)) - survey.centre,
            weights=torch.from_numpy(survey.weights[start:stop]),
            depths=torch.from_numpy(depths[start:stop]),
            codes=torch.from_numpy(coded.codes[start:stop]),
            firsts=firsts,
        )
    ridge = _RIDGE * float(matrix.diagonal().mean()) + 1e-30
    current = torch.cat([stage.values(survey.scale) for stage in coded.stages]).to(torch.float64)
    matrix.diagonal().add_(ridge)
    right += ridge * current
    solve_positive(matrix, right)
    solved = right.to(torch.float32)
    return tuple(
        _round_entries(stage, solved[firsts[n] : firsts[n + 1]], survey.scale) for n, stage in enumerate(coded.stages)
    )


def _round_entries(stage: Stage, entries: Tensor, scale: float) -> Stage:
    units = (entries / (scale * 2.0**-stage.shift)).round_().clamp_(-LARGEST_ENTRY, LARGEST_ENTRY)
    return Stage(units.to(torch.int8), stage.shift, stage.reach)
