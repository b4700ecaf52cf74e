"""How well yesterday's codebooks and levels still serve a table, beside what a fresh fit of a sample would do.

Fits see the sample that a conversion from nothing draws. Both are judged on rows that are drawn by what they lose now,
and that stand for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.columns import gather
from memrec_convert.distill.curves import KMEANS_ITERATIONS, SAMPLE_ROWS, codec_distance
from memrec_convert.distill.held import finest_first
from memrec_convert.distill.refine import ROUNDS, WIDE_BEAM, RefinedTable, refine_table
from memrec_convert.distill.rows import RowReader, TensorRows
from memrec_convert.distill.stages import SampleRows, Stage, books_in_metric, encode_rows, fit_lists
from memrec_convert.distill.streamed import BEAM, depths_of
from memrec_convert.distill.survey import Survey, draw_sample
from memrec_convert.encoding.spec import TableSpec
from memrec_convert.kernels.encoder import search_codes

JUDGED_ROWS = 8192
"""Rows of a table that are judged on."""


@dataclass(frozen=True)
class AgeingSample:
    """Rows that stand for a table as it is held now.

    rows        what the centre leaves of them (float32 [n, dim]), and what each counts (float32 [n])
    stands_for  how many rows of the table each is for, float32 [n]
    levels      int8 [n], the level of each, -1 for the base
    lost        float64 [n], what each loses now, with all that it stands for
    """

    rows: SampleRows
    stands_for: Tensor
    levels: np.ndarray
    lost: np.ndarray

    @property
    def loss(self) -> float:
        """What all of them lose now."""
        return float(self.lost.sum())


def sample_ageing(
    reader: RowReader, values: Survey, lost: Survey, levels: np.ndarray, *, seed: int, workers: int
) -> tuple[AgeingSample, AgeingSample]:
    """Rows to fit on and rows to judge by; levels int8 [rows].

    Two surveys of the same table: by the values of one a fit's sample is drawn, those of the other are what rows lose.
    """

    def draw(survey: Survey, size: int, seed: int) -> AgeingSample:
        found = draw_sample(reader, survey, size=size, seed=seed, workers=workers)
        own = gather(lost.values, found.numbers).astype(np.float64) * found.stands_for.numpy()
        return AgeingSample(found.rows, found.stands_for, levels[found.numbers], own)

    return draw(values, SAMPLE_ROWS, seed), draw(lost, JUDGED_ROWS, seed + 1)


def estimate_fresh(
    learned: AgeingSample, judged: AgeingSample, survey: Survey, spec: TableSpec, stages: Sequence[Stage]
) -> float:
    """About what `measure_fresh` finds, with yesterday's codebooks, improved once for today's rows.

    Fits end where another round gains little, so codebooks that gain little are about as good as fresh ones.
    """
    shift, own, stand_in = _about_base(learned, survey, spec)
    better = _refine(own, stand_in, stages, depths_of(spec, learned.levels), rounds=1) if stages else tuple(stages)
    return _measure_best(judged.rows.residual - shift, judged, stand_in, better, spec)


def measure_fresh(
    learned: AgeingSample, judged: AgeingSample, spec: TableSpec, metric: Tensor, *, widest: float, seed: int
) -> float:
    """What the judged rows would lose with a centre and codebooks of the spec's stages that are fitted to the others.

    Ids are in the levels that they are in, or in levels as full that are filled with whom they serve best today,
    whichever loses less. widest: the largest |entry| of any row less the centre.
    """
    shift, own, survey = _about_mean(learned, metric, widest)
    stages = _fit_stages(own, survey, spec, seed)
    if stages:
        stages = _refine(own, survey, stages, depths_of(spec, learned.levels))
    return _measure_best(judged.rows.residual - shift, judged, survey, stages, spec)


def refine_whole(
    reader: RowReader,
    survey: Survey,
    spec: TableSpec,
    levels: np.ndarray,
    stages: Sequence[Stage],
    *,
    workers: int,
    rounds: int = ROUNDS,
    fresh: tuple[AgeingSample, float, int] | None = None,
) -> RefinedTable:
    """Codebooks improved over all rows of a small table, and what its rows that have no row stored then lose.

    fresh: a sample, the largest |entry| and a seed, to start from codebooks and a centre fitted to that instead.
    """
    if fresh is not None:
        learned, widest, seed = fresh
        shift, own, stand_in = _about_mean(learned, survey.metric, widest)
        stages = _fit_stages(own, stand_in, spec, seed)
        survey = replace(survey, centre=survey.centre + shift, widest=widest)
    depths = depths_of(spec, levels)
    return refine_table(reader, survey, stages, depths, workers=workers, rounds=rounds, last_beam=WIDE_BEAM)


def _about_mean(learned: AgeingSample, metric: Tensor, widest: float) -> tuple[Tensor, SampleRows, Survey]:
    """The mean of a sample's rows, the rows without it, and the survey of those."""
    shift = _mean(learned.rows)
    own = SampleRows(learned.rows.residual - shift, learned.rows.weights)
    return shift, own, _stand_in(own, metric, widest)


def _fit_stages(rows: SampleRows, survey: Survey, spec: TableSpec, seed: int) -> tuple[Stage, ...]:
    """The spec's codebooks from nothing."""
    if not spec.stages:
        return ()
    fitted = fit_lists(rows, survey.metric, [spec.stages], scale=survey.scale, iterations=KMEANS_ITERATIONS, seed=seed)
    return next(iter(fitted)).stages


def refit(
    learned: AgeingSample, judged: AgeingSample, survey: Survey, spec: TableSpec, stages: Sequence[Stage]
) -> tuple[Survey, tuple[Stage, ...], float]:
    """Yesterday's codebooks, improved for today's rows, and the centre, where rows without a code lie at it.

    With what the judged rows would then lose.
    """
    shift, own, stand_in = _about_base(learned, survey, spec)
    better = _refine(own, stand_in, stages, depths_of(spec, learned.levels)) if stages else tuple(stages)
    loss = _measure(judged.rows.residual - shift, judged, stand_in, better, spec)
    return replace(survey, centre=survey.centre + shift), better, loss


def _about_base(learned: AgeingSample, survey: Survey, spec: TableSpec) -> tuple[Tensor, SampleRows, Survey]:
    """The mean of a sample's rows where rows without a code lie at it, else zero; the rows without it; their survey."""
    shift = torch.zeros_like(survey.centre) if spec.base_depth else _mean(learned.rows)
    own = SampleRows(learned.rows.residual - shift, learned.rows.weights)
    return shift, own, _stand_in(own, survey.metric, survey.widest)


def _mean(rows: SampleRows) -> Tensor:
    weights = rows.weights.to(torch.float64)
    total = (rows.residual * weights.unsqueeze(1)).sum(0) / weights.sum().clamp(min=1e-30)
    return total.to(torch.float32)


def _stand_in(rows: SampleRows, metric: Tensor, widest: float) -> Survey:
    """The survey of a sample about zero."""
    weights = rows.weights.numpy()
    return Survey(torch.zeros(rows.residual.shape[1]), metric, weights, np.zeros_like(weights), widest)


def _refine(
    rows: SampleRows, survey: Survey, stages: Sequence[Stage], depths: np.ndarray, rounds: int = ROUNDS
) -> tuple[Stage, ...]:
    return refine_table(TensorRows(rows.residual), survey, stages, depths, workers=1, rounds=rounds).stages


def _measure(residual: Tensor, judged: AgeingSample, survey: Survey, stages: Sequence[Stage], spec: TableSpec) -> float:
    """What the judged rows lose at their levels; stored rows lose what they do now."""
    books, depths = books_in_metric(stages, survey.metric, scale=survey.scale), depths_of(spec, judged.levels)
    _, squared = search_codes(residual, books, metric=survey.metric, depths=torch.from_numpy(depths), beam=BEAM)
    coded = float((squared * judged.rows.weights).to(torch.float64).sum())
    return coded + float(judged.lost[depths < 0].sum())


def _measure_best(
    residual: Tensor, judged: AgeingSample, survey: Survey, stages: Sequence[Stage], spec: TableSpec
) -> float:
    """What the judged rows lose at their levels, or in levels filled anew where that is less."""
    as_placed = _measure(residual, judged, survey, stages, spec)
    return min(as_placed, _measure_placed_anew(residual, judged, survey, stages, spec)) if spec.levels else as_placed


def _measure_placed_anew(
    residual: Tensor, sample: AgeingSample, survey: Survey, stages: Sequence[Stage], spec: TableSpec
) -> float:
    """The loss where the finest level takes whom it serves best, then the other, each for as many rows as it has."""
    _, distances = encode_rows(residual, survey.metric, stages, scale=survey.scale)
    weights, stands_for = sample.rows.weights.numpy(), sample.stands_for.numpy().astype(np.float64)
    least = (distances[spec.base_depth].numpy() * weights).astype(np.float64)
    base = least.copy()
    free = np.ones(len(base), dtype=bool)
    for number in finest_first(spec):
        level = spec.levels[number]
        away = (
            distances[level.depth]
            if level.kind == "codes"
            else codec_distance(sample.rows.residual, survey.metric, level.codec)
        )
        own = (away.numpy() * weights).astype(np.float64)
        gain = np.where(free, (base - own) / stands_for, -np.inf)
        best = np.argsort(-gain, kind="stable")
        room = stands_for[sample.levels == number].sum()  # of a sample; the level's own count is another number
        taken = best[(np.cumsum(stands_for[best]) <= room) & (gain[best] > 0)]
        least[taken], free[taken] = own[taken], False
    return float(least.sum())
