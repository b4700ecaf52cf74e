"""Codes and codebooks improved together once it is known how deep each row goes.

Two steps in turn, as in additive quantisation (Babenko and Lempitsky, CVPR 2014): each row is coded towards the depth
at which it will be read, by beam search; then all codebooks are fitted jointly to those codes, by linear least squares.
Rows weigh what they weigh in the plan, and a stage is shaped by the rows that reach it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.rows import RowReader, chunk_bounds, in_metric
from memrec_convert.distill.stages import Stage
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding.spec import LARGEST_ENTRY
from memrec_convert.parallel import ordered_map

BEAM = 4
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
) -> RefinedTable:
    """Alternates coding and fitting; depths int8 [rows] is the number of tokens of each row (-1: not coded at all).

    The best state is kept, so the loss is never above that of plain coding with the given stages.
    """
    best = _code_all(reader, survey, stages, depths, workers=workers)
    for _ in range(rounds if stages else 0):
        fitted = _fit_jointly(reader, survey, best, depths)
        found = _code_all(reader, survey, fitted, depths, workers=workers)
        if found.loss >= best.loss:
            break
        best = found
    return best


def search_codes(points: Tensor, books: Sequence[Tensor], *, beam: int = BEAM) -> tuple[Tensor, Tensor]:
    """Codes uint8 [n, stages] whose summed entries come nearest to the points, and the squared distances float32 [n].

    points float32 [n, dim] and books float32 [size, dim] are in the metric's own space. Each of `beam` partial codes is
    extended by its two nearest entries.
    """
    rest = points.unsqueeze(1)
    codes = torch.zeros(len(points), 1, 0, dtype=torch.uint8)
    distance = points.square().sum(dim=1, keepdim=True)
    for book in books:
        half_norms = book.square().sum(dim=1) / 2
        scores = torch.addmm(half_norms, rest.reshape(-1, rest.shape[2]), book.T, alpha=-1)
        entries = _two_smallest(scores).reshape(len(points), rest.shape[1], -1)
        gain = scores.reshape(len(points), rest.shape[1], -1).gather(2, entries)
        total = (distance.unsqueeze(2) + 2 * gain).reshape(len(points), -1)
        kept = total.topk(min(beam, total.shape[1]), dim=1, largest=False, sorted=True)
        parent = kept.indices // entries.shape[2]
        entry = entries.reshape(len(points), -1).gather(1, kept.indices)
        rest = rest.gather(1, parent.unsqueeze(2).expand(-1, -1, rest.shape[2])) - book[entry]
        codes = codes.gather(1, parent.unsqueeze(2).expand(-1, -1, codes.shape[2]))
        codes = torch.cat([codes, entry.unsqueeze(2).to(torch.uint8)], dim=2)
        distance = kept.values
    return codes[:, 0], rest[:, 0].square().sum(dim=1)


def _two_smallest(scores: Tensor) -> Tensor:
    first = scores.argmin(dim=1, keepdim=True)
    if scores.shape[1] == 1:
        return first
    second = scores.scatter(1, first, float("inf")).argmin(dim=1, keepdim=True)
    return torch.cat([first, second], dim=1)


def _code_all(
    reader: RowReader, survey: Survey, stages: Sequence[Stage], depths: np.ndarray, *, workers: int
) -> RefinedTable:
    rows, dim = reader.shape
    books = [in_metric(stage.values(survey.scale), survey.metric) for stage in stages]
    codes = np.zeros((rows, len(stages)), dtype=np.uint8)

    def code(bounds: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray, float]:
        own = depths[slice(*bounds)]
        points = in_metric(torch.from_numpy(reader.read_rows(*bounds)) - survey.centre, survey.metric)
        weights = torch.from_numpy(survey.weights[slice(*bounds)])
        found = np.zeros((len(own), len(stages)), dtype=np.uint8)
        loss = 0.0
        for depth in np.unique(own[own >= 0]):
            members = np.flatnonzero(own == depth)
            at = torch.from_numpy(members)
            best, distance = search_codes(points[at], books[:depth])
            found[members, :depth] = best.numpy()
            loss += float((distance * weights[at]).to(torch.float64).sum())
        return bounds, found, loss

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
    firsts = np.cumsum([0, *sizes])
    entries, dim = int(firsts[-1]), reader.shape[1]
    normal = torch.zeros(entries * entries, dtype=torch.float64)
    right = torch.zeros(entries, dim, dtype=torch.float64)
    for start, stop in chunk_bounds(*reader.shape):
        rest = (torch.from_numpy(reader.read_rows(start, stop)) - survey.centre).to(torch.float64)
        weights = torch.from_numpy(survey.weights[start:stop]).to(torch.float64)
        depth = torch.from_numpy(depths[start:stop].astype(np.int64))
        named = torch.from_numpy(coded.codes[start:stop].astype(np.int64)) + torch.from_numpy(firsts[:-1])
        for stage in range(len(sizes)):
            deep = (depth > stage).nonzero().squeeze(1)
            right.index_add_(0, named[deep, stage], rest[deep] * weights[deep].unsqueeze(1))
            for other in range(stage + 1):
                normal.index_add_(0, named[deep, stage] * entries + named[deep, other], weights[deep])
    matrix = normal.reshape(entries, entries)
    matrix = matrix + matrix.T - torch.diag(matrix.diagonal())
    ridge = _RIDGE * float(matrix.diagonal().mean()) + 1e-30
    current = torch.cat([stage.values(survey.scale) for stage in coded.stages]).to(torch.float64)
    matrix = matrix + ridge * torch.eye(entries, dtype=torch.float64)
    solved = torch.cholesky_solve(right + ridge * current, torch.linalg.cholesky(matrix)).to(torch.float32)
    return tuple(
        _round_entries(stage, solved[firsts[n] : firsts[n + 1]], survey.scale) for n, stage in enumerate(coded.stages)
    )


def _round_entries(stage: Stage, entries: Tensor, scale: float) -> Stage:
    units = (entries / (scale * 2.0**-stage.shift)).round_().clamp_(-LARGEST_ENTRY, LARGEST_ENTRY)
    return Stage(units.to(torch.int8), stage.shift, stage.reach)
