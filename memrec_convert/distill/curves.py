"""Rate curves: what each way of holding a table costs in logit**2, per class of rows. All that the planner needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.columns import IN_MEMORY, Scratch, gather
from memrec_convert.distill.rows import RowReader, is_large, read_chunks
from memrec_convert.distill.stages import FittedList, SampleRows, Stage, fit_lists
from memrec_convert.distill.survey import Sample, Survey, ValueClasses, draw_sample, group_by_value
from memrec_convert.encoding.codecs import CODECS, FINE_CODECS
from memrec_convert.kernels.encoder import measure_rows
from memrec_convert.parallel import ALONE, Crew
from memrec_convert.planning.curves import ListCurve, TableCurves

SAMPLE_ROWS = 32_768
FINE_SAMPLE_ROWS = 1024
"""Of the sample, those on which fine codecs are measured: their encoder searches."""
FP16_END = 65_504.0
KMEANS_ITERATIONS = 10
CHOOSING_ITERATIONS, CHOOSING_ROWS = 5, 16_384
"""Of a large table's lists, until one is chosen: about enough to tell them apart."""
CHOOSING_FROM = 4 * CHOOSING_ROWS
"""Rows of a table from which fitting the chosen list once more is the lesser part of it. Weights from a log span orders
of magnitude, so half of the sample tells lists apart less surely: there MANY_ROWS take the place of this."""
MANY_ROWS = 8 * SAMPLE_ROWS
"""Rows of a table whose sample is a small part of it anyway."""


@dataclass(frozen=True)
class TableFit:
    """What a table's form is chosen by, and the chosen list fitted to."""

    survey: Survey
    classes: ValueClasses
    sample: Sample
    curves: TableCurves


def measure_table(
    name: str,
    reader: RowReader,
    survey: Survey,
    *,
    replaceable: bool,
    seed: int,
    fine: bool = False,
    sample_rows: int = SAMPLE_ROWS,
    scratch: Scratch = IN_MEMORY,
    workers: int = 1,
    crew: Crew = ALONE,
    label: str = "",
) -> TableFit:
    """Draws the sample and measures every form that needs no codebook; a table that is not replaceable only as kept.

    fine: whether a budget may reach the codecs between codes and int8 rows.

    What a table with many rows loses as kept comes from the sample too.
    """
    rows, dim = reader.shape
    classes = group_by_value(survey.values, scratch=scratch)
    sample = draw_sample(reader, survey, size=sample_rows, seed=seed, workers=workers, crew=crew, label=label)
    at_zero = measure_rows(sample.rows.residual, metric=survey.metric)[0]
    stored = {}
    for codec in ("int8",) if replaceable else ():
        distances = torch.stack([at_zero, codec_distance(sample.rows.residual + survey.centre, survey.metric, codec)])
        stored[codec] = _sum_by_class(distances, sample, _class_of(sample, classes), classes)[1]
    coarse = [codec for codec in CODECS if codec not in FINE_CODECS]
    if has_many_rows(reader.shape):
        kept = {codec: estimate_kept(sample, survey, codec) for codec in coarse}
    else:
        kept = {codec: _kept_distortion(reader, survey, codec) for codec in coarse}
    if fine and replaceable:
        stored |= _measure_fine(_thin_out(sample, FINE_SAMPLE_ROWS), survey, classes)
        kept |= {codec: float(stored[codec].sum()) for codec in FINE_CODECS}
    alone = (ListCurve((), classes.energy[None]),) if replaceable else ()  # the empty list is the mean row
    return TableFit(survey, classes, sample, TableCurves(name, rows, dim, classes.rows, alone, stored, kept))


def group_lists(rows: int, lists: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], ...]]:
    """The lists that a table of so many rows could fill, those that begin alike together."""
    useful = sorted(sizes for sizes in lists if sizes and sum(sizes) <= 2 * rows)
    return [tuple(group) for _, group in itertools.groupby(useful, key=lambda sizes: sizes[0])]


def measure_lists(
    fit: TableFit, lists: Sequence[tuple[int, ...]], *, seed: int, logged: bool = True
) -> tuple[tuple[ListCurve, tuple[Stage, ...]], ...]:
    """What these lists of stages would cost, fitted on the table's sample, and the stages.

    logged: whether the rows' weights come from a log.

    Of a large table they are fitted on a part of the sample, and there are no stages: they would not be the best.
    """
    choosing = _is_chosen_first(fit, logged)
    sample = _thin_out(fit.sample, CHOOSING_ROWS) if choosing else fit.sample
    number = _class_of(sample, fit.classes)
    fitted = _fit_lists(sample, fit.survey, lists, CHOOSING_ITERATIONS if choosing else KMEANS_ITERATIONS, seed)
    curves = ((one, _sum_by_class(one.distances, sample, number, fit.classes)) for one in fitted)
    return tuple((ListCurve(one.sizes, curve), () if choosing else one.stages) for one, curve in curves)


def count_list_work(fit: TableFit, lists: Sequence[tuple[int, ...]], *, logged: bool = True) -> int:
    """About how much `measure_lists` has to do, in a unit of its own; lists share what they begin with."""
    rows = len(fit.sample.numbers)
    brief = min(rows, CHOOSING_ROWS) * CHOOSING_ITERATIONS
    per_entry = brief if _is_chosen_first(fit, logged) else rows * KMEANS_ITERATIONS
    begun = {sizes[: end + 1] for sizes in lists for end in range(len(sizes))}
    return per_entry * fit.curves.dim * sum(sizes[-1] for sizes in begun)


def _is_chosen_first(fit: TableFit, logged: bool) -> bool:
    return has_many_rows((fit.curves.rows, fit.curves.dim)) or (not logged and fit.curves.rows >= CHOOSING_FROM)


def has_many_rows(shape: tuple[int, ...]) -> bool:
    """Whether a table of (rows, dim) has so many rows that its sample is a small part of it."""
    return shape[0] >= MANY_ROWS or is_large(shape)


def fit_stages(fit: TableFit, sizes: tuple[int, ...], *, seed: int) -> tuple[Stage, ...]:
    """The stages of a list, fitted on the table's sample."""
    return next(_fit_lists(fit.sample, fit.survey, [sizes], KMEANS_ITERATIONS, seed)).stages


def _fit_lists(
    sample: Sample, survey: Survey, lists: Sequence[tuple[int, ...]], iterations: int, seed: int
) -> Iterator[FittedList]:
    return fit_lists(sample.rows, survey.metric, lists, scale=survey.scale, iterations=iterations, seed=seed)


def _class_of(sample: Sample, classes: ValueClasses) -> Tensor:
    """The class of each row of the sample, int64 [n]."""
    return torch.from_numpy(gather(classes.number, sample.numbers).astype(np.int64))


def _thin_out(sample: Sample, most: int) -> Sample:
    """Every second row, or third, or so on, of those of a sample: at most so many, which stand for more each."""
    step = -(-len(sample.numbers) // most) or 1
    part = slice(None, None, step)
    rows = SampleRows(sample.rows.residual[part].contiguous(), sample.rows.weights[part] * step)
    return Sample(sample.numbers[part], rows, sample.stands_for[part] * step)


def _measure_fine(sample: Sample, survey: Survey, classes: ValueClasses) -> dict[str, np.ndarray]:
    """Per fine codec the distortion of stored rows by class."""
    rows, number, found = sample.rows.residual + survey.centre, _class_of(sample, classes), {}
    at_zero = measure_rows(sample.rows.residual, metric=survey.metric)[0]
    for codec in FINE_CODECS:
        distances = torch.stack([at_zero, codec_distance(rows, survey.metric, codec)])
        found[codec] = np.nan_to_num(_sum_by_class(distances, sample, number, classes)[1], nan=math.inf)
    return found


def _sum_by_class(distances: Tensor, sample: Sample, number: Tensor, classes: ValueClasses) -> np.ndarray:
    """Weighted distances [depth + 1, n] summed per class, scaled so that depth 0 meets the class's exact energy."""
    weighted = (distances * sample.rows.weights).to(torch.float64)
    sums = torch.zeros(len(distances), len(classes.rows), dtype=torch.float64).index_add_(1, number, weighted).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(sums[0] > 0, sums / sums[0], _overall_share(sums)[:, None])
    scaled: np.ndarray = share * classes.energy
    return scaled


def _overall_share(sums: np.ndarray) -> np.ndarray:
    total = sums.sum(axis=1)
    return total / total[0] if total[0] > 0 else np.zeros(len(total))


def codec_distance(rows: Tensor, metric: Tensor, codec: str) -> Tensor:
    """Squared distance of each row (float32 [n, dim]) from itself as the codec holds it, float32 [n]."""
    parts = CODECS[codec].encode(rows)
    return measure_rows(CODECS[codec].decode(parts, torch.arange(len(rows)), rows.shape[1]) - rows, metric=metric)[0]


def _kept_distortion(reader: RowReader, survey: Survey, codec: str) -> float:
    if codec == "fp32":
        return 0.0
    total = 0.0
    for start, chunk in read_chunks(reader):
        weights = torch.from_numpy(survey.weights[start : start + len(chunk)])
        total += float((weights * codec_distance(chunk, survey.metric, codec)).to(torch.float64).sum())
    return total if math.isfinite(total) else math.inf  # fp16 has an end


def estimate_kept(sample: Sample, survey: Survey, codec: str) -> float:
    """The same from the sample, whose weights stand for the whole table."""
    if codec == "fp32":
        return 0.0
    distances = codec_distance(sample.rows.residual + survey.centre, survey.metric, codec)
    total = float((distances * sample.rows.weights).to(torch.float64).sum())
    if codec == "fp16" and survey.widest + float(survey.centre.abs().max()) > FP16_END:
        return math.inf  # rows outside the sample may be beyond it
    return total if math.isfinite(total) else math.inf
