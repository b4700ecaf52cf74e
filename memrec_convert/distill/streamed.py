"""Large tables coded in few passes, holding a chunk of rows at a time: what a pass keeps is no larger than the file.

The ids that levels may take are the most valuable ones, by the survey; they alone are coded to a level's depth before
the plan is settled. Codebooks are refined on the sample that they were fitted on. One last pass codes every row to the
depth that it got, and packs the codes as it goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.columns import Column, slices
from memrec_convert.distill.curves import TableFit, codec_distance
from memrec_convert.distill.held import HeldCodes
from memrec_convert.distill.refine import refine_table
from memrec_convert.distill.rows import CHUNKS_PER_RANGE, RowReader, TensorRows, chunk_bounds
from memrec_convert.distill.stages import Stage, books_in_metric, count_search_work, encode_rows
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding.bits import pack_codes
from memrec_convert.encoding.build import LevelContent
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.spec import TableSpec
from memrec_convert.kernels.encoder import search_codes
from memrec_convert.parallel import Job, Pass

MOST_CANDIDATES = 1 << 25
"""Ids of all tables together that may get into a level: each is held with what it loses there, some 16 bytes."""

BEAM = 4
"""Partial codes kept in the search: for tens of millions of rows, a wider one takes most of the time of all."""

SPARSE = 32
"""Where fewer than one row in so many is wanted, rows are read one by one."""

CANDIDATES_PER_MEMBER = 1.5
LEAST_CANDIDATES = 1 << 16
_VALUE_BITS = 14
"""Values are ordered by the upper bits of their float32: 512 steps per octave."""


def depths_of(spec: TableSpec, levels: np.ndarray) -> np.ndarray:
    """The number of tokens of each row, int8 [rows], by its level (int8 [rows], -1: the base); -1 for stored rows."""
    by_level = [spec.base_depth, *(level.depth if level.kind == "codes" else -1 for level in spec.levels)]
    depths: np.ndarray = np.array(by_level, dtype=np.int8)[levels + 1]
    return depths


@dataclass(frozen=True)
class CodedRows:
    """All rows of a table under a spec: packed base codes (uint8), what each level holds, and the summed loss.

    kept: rows whose code is the one that they had before.
    """

    base: np.ndarray
    levels: tuple[LevelContent, ...]
    loss: float
    kept: int


def rank_ids(values: Column, *, wanted: int, most: int) -> np.ndarray:
    """The ids of the most valuable rows, int32 or int64, rising: some more than `wanted`, at most `most` of them.

    Rows that lose nothing at depth 0 are never among them.
    """
    limit = min(max(int(CANDIDATES_PER_MEMBER * wanted), LEAST_CANDIDATES), most)
    histogram = np.zeros(1 << (32 - _VALUE_BITS), dtype=np.int64)
    for part in slices(len(values)):
        histogram += np.bincount(_rank_of(values[part]), minlength=len(histogram))
    histogram[0] = 0
    above = np.cumsum(histogram[::-1])[::-1]  # rows at this rank or a higher one
    taken = int(np.searchsorted(-above, -limit))  # the lowest rank that is taken whole
    spare = limit - int(above[taken]) if taken < len(above) else limit
    found = []
    for part in slices(len(values)):
        rank = _rank_of(values[part])
        own = rank >= max(taken, 1)
        if taken > 1 and spare:
            partly = np.flatnonzero(rank == taken - 1)[:spare]
            own[partly] = True
            spare -= len(partly)
        found.append((np.flatnonzero(own) + part.start).astype(np.int32 if len(values) < 1 << 31 else np.int64))
    return np.concatenate(found)


def _rank_of(values: np.ndarray) -> np.ndarray:
    rank: np.ndarray = (np.ascontiguousarray(values).view(np.uint32) >> _VALUE_BITS).astype(np.int64)
    return rank


def measure_levels(
    reader: RowReader,
    survey: Survey,
    stages: Sequence[Stage],
    levels: Sequence[int | str],
    ids: np.ndarray,
    *,
    workers: int,
    label: str = "",
) -> Job[np.ndarray]:
    """What each of these rising ids loses at each level, float32 [levels, ids]; a level as in `code_table`.

    `label` names the pass to a crew, here and below.
    """
    rows, dim = reader.shape
    deepest = max((level for level in levels if isinstance(level, int)), default=0)
    bounds = chunk_bounds(rows, dim)
    starts = np.searchsorted(ids, [start for start, _ in bounds] + [rows])

    def measure(number: int) -> tuple[Tensor, np.ndarray]:
        part = bounds[number]
        own = ids[starts[number] : starts[number + 1]].astype(np.int64)
        numbers = own - part[0]
        if not len(numbers):
            return torch.zeros(len(levels), 0), np.zeros(0, dtype=np.float32)
        if len(own) * SPARSE < part[1] - part[0]:
            chunk = torch.from_numpy(reader.read_ids(own))
        else:
            chunk = torch.from_numpy(reader.read_rows(*part)[numbers])
        _, distances = encode_rows(chunk, survey.metric, stages[:deepest], scale=survey.scale, centre=survey.centre)
        wanted = [
            distances[level] if isinstance(level, int) else codec_distance(chunk, survey.metric, level)
            for level in levels
        ]
        return torch.stack(wanted), survey.weights[slice(*part)][numbers]

    def join(found: Iterator[tuple[Tensor, np.ndarray]]) -> np.ndarray:
        losses = np.empty((len(levels), len(ids)), dtype=np.float32)
        for low, (distances, weights) in zip(starts, found, strict=False):
            losses[:, low : low + len(weights)] = distances.numpy() * weights
        return losses

    costs = np.diff(starts) * count_search_work([stage.size for stage in stages[:deepest]], dim)[-1]
    shared: dict[str, Any] = {"workers": workers, "block": CHUNKS_PER_RANGE, "costs": costs.tolist()}
    return Job(Pass(label, measure, range(len(bounds)), **shared), join)


def refine_on_sample(fit: TableFit, stages: Sequence[Stage], depths: np.ndarray, *, workers: int) -> tuple[Stage, ...]:
    """Codebooks improved for the depths (int8 [rows], -1: not coded) that the rows of the fit's sample have."""
    sample, survey = fit.sample, fit.survey
    own = replace(survey, weights=sample.rows.weights.numpy(), values=np.zeros(len(sample.numbers), dtype=np.float32))
    rows = TensorRows(sample.rows.residual + survey.centre)
    return refine_table(rows, own, stages, depths[sample.numbers], workers=workers).stages


def code_rows(
    reader: RowReader,
    survey: Survey,
    stages: Sequence[Stage],
    spec: TableSpec,
    levels: np.ndarray,
    *,
    workers: int,
    held: HeldCodes | None = None,
    lost: Column | None = None,
    beam: int = BEAM,
    label: str = "",
) -> Job[CodedRows]:
    """Every row coded as its level (int8 [rows], -1: the base) asks, in one pass.

    held: codes that rows had before, which they keep where those still serve. `lost` (float32 [rows]) takes what each
    row loses.
    """
    rows, dim = reader.shape
    books = books_in_metric(stages, survey.metric, scale=survey.scale)

    def code(bounds: tuple[int, int]) -> _Chunk:
        chunk = torch.from_numpy(reader.read_rows(*bounds))
        own = levels[slice(*bounds)], survey.weights[slice(*bounds)]
        before = None if held is None else (held, bounds[0])
        return _code_chunk(chunk, survey, books, spec, *own, before=before, beam=beam)

    bounds = chunk_bounds(rows, dim)

    def join(found: Iterator[_Chunk]) -> CodedRows:
        base = np.zeros(spec.tensors()["base"][1] if spec.base_bits() else 0, dtype=np.uint8)
        members = [_Held() for _ in spec.levels]
        loss, kept = 0.0, 0
        for (start, stop), chunk in zip(bounds, found, strict=True):
            first = start * spec.base_bits() // 8  # chunks begin at multiples of 8 rows, so at whole bytes
            base[first : first + len(chunk.base)] = chunk.base
            loss += float(chunk.lost.sum(dtype=np.float64))
            kept += chunk.kept
            if lost is not None:
                lost[start:stop] = chunk.lost
            for one, (numbers, codes, parts) in zip(members, chunk.members, strict=True):
                one.add(numbers + start, codes, parts)
        return CodedRows(base, tuple(one.joined() for one in members), loss, kept)

    per_row = count_search_work([stage.size for stage in stages], dim, beam=beam)
    costs = [float(per_row[depths_of(spec, levels[slice(*part)]) + 1].sum()) for part in bounds]
    shared: dict[str, Any] = {"workers": workers, "block": CHUNKS_PER_RANGE, "classes": (_Chunk,), "costs": costs}
    return Job(Pass(label, code, bounds, **shared), join)


@dataclass(frozen=True)
class _Chunk:
    base: np.ndarray
    members: tuple[tuple[np.ndarray, np.ndarray, Mapping[str, Tensor]], ...]
    lost: np.ndarray
    kept: int


class _Held:
    """What the chunks had for one level."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []
        self.parts: list[Mapping[str, Tensor]] = []

    def add(self, ids: np.ndarray, codes: np.ndarray, parts: Mapping[str, Tensor]) -> None:
        if len(ids):
            self.ids.append(ids)
            self.codes.append(codes)
            self.parts.append(parts)

    def joined(self) -> LevelContent:
        parts = {name: torch.cat([one[name] for one in self.parts]) for name in (self.parts[0] if self.parts else ())}
        return LevelContent(np.concatenate(self.ids), np.concatenate(self.codes), parts)


def _code_chunk(
    chunk: Tensor,
    survey: Survey,
    books: Sequence[Tensor],
    spec: TableSpec,
    levels: np.ndarray,
    weights: np.ndarray,
    *,
    before: tuple[HeldCodes, int] | None,
    beam: int,
) -> _Chunk:
    """The rows of a chunk, coded; before: the codes that they may keep, and the number of the first row."""
    depths = torch.from_numpy(depths_of(spec, levels))
    kept = 0
    if before is None:
        found, distances = _search(chunk, survey, books, depths, beam)
    else:
        old = before[0].find(before[1], chunk, survey, depths)
        found, distances = old.take_served(len(books))
        rest = (~old.serves & (depths > 0)).nonzero().squeeze(1)
        anew = _search(chunk[rest], survey, books, depths[rest], beam)
        found[rest], distances[rest], kept = old.choose(rest, *anew)
    codes, squared = found.numpy(), distances.numpy()
    members = list[tuple[np.ndarray, np.ndarray, Mapping[str, Tensor]]]()
    for number, level in enumerate(spec.levels):
        own = np.flatnonzero(levels == number)
        parts: Mapping[str, Tensor] = {}
        if level.kind == "rows" and len(own):
            stored = chunk[torch.from_numpy(own)]
            parts = CODECS[level.codec].encode(stored)
            squared[own] = codec_distance(stored, survey.metric, level.codec).numpy()
        members.append((own, codes[own, spec.base_depth : max(level.depth, spec.base_depth)], parts))
    packed = np.zeros(0, dtype=np.uint8)
    if spec.base_bits():
        bits = spec.stage_bits[: spec.base_depth]
        packed = pack_codes(np.ascontiguousarray(codes[:, : spec.base_depth]), bits)[
            : -(-len(chunk) * spec.base_bits() // 8)
        ]
    return _Chunk(packed, tuple(members), squared * weights, kept)


def _search(chunk: Tensor, survey: Survey, books: Sequence[Tensor], depths: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    return search_codes(chunk, books, centre=survey.centre, metric=survey.metric, depths=depths, beam=beam)
