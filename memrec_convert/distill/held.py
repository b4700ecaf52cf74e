"""Codes and levels that rows had before, which they keep as long as those serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.columns import Column, gather, slices
from memrec_convert.distill.rows import RowReader, chunk_bounds
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding.bits import read_fields
from memrec_convert.encoding.index import find_places
from memrec_convert.encoding.spec import TableSpec, count_row_bytes
from memrec_convert.kernels.encoder import measure_rows
from memrec_convert.lookup import CompressedTable
from memrec_convert.parallel import ordered_map

TOLERANCE = 0.02
"""A row that was coded anew keeps its old code unless the new one lessens its squared distance by more than this."""

SERVING, SLACK = 0.75, 1.2
"""Rows that lose hardly more than this share of the rows of their size and depth does are not coded anew at all."""

CLEARLY = 2.0
"""A row takes the place of another in a level where it is worth so many times as much."""

_SAMPLED, _LEAST_SAMPLED = 16, 1 << 15
"""One row of so many tells what rows lose for their size; more of small tables."""

_OCTAVES, _MIDDLE = 128, 64


@dataclass(frozen=True)
class HeldCodes:
    """The codes of a table as it was, `table`, and how deep each row's was, int8 [rows] of those that are still there.

    origins: int64 [rows], which row of it each one was, where that is another number; rows without one have depth 0.
    limits: float32 [depths, octaves], the squared distance up to which a row's old code serves, as a share of that
    from the centre; by the octave that the latter is in.
    """

    table: CompressedTable
    depths: np.ndarray
    limits: np.ndarray
    origins: np.ndarray | None = None

    def over(self, table: CompressedTable) -> HeldCodes:
        """The same codes over other codebooks, with which none is known to serve: every row is coded, and compared."""
        return replace(self, table=table, limits=np.full_like(self.limits, -1))

    def find(self, start: int, chunk: Tensor, survey: Survey, depths: Tensor) -> Found:
        """The old codes of rows start, start + 1, ... (float32 [n, dim]); `depths` (int8 [n]) are those wanted now."""
        whole = measure_rows(chunk, centre=survey.centre, metric=survey.metric)[0]
        codes = torch.zeros(len(chunk), len(self.table.spec.stages), dtype=torch.uint8)
        away, known = torch.zeros(len(chunk)), torch.zeros(len(chunk), dtype=torch.bool)
        own = torch.from_numpy(self.depths[start : start + len(chunk)])
        known[: len(own)] = (own > 0) & (own == depths[: len(own)])
        rows, serves, limits = known.nonzero().squeeze(1), known.clone(), torch.from_numpy(self.limits)
        if len(rows) == len(chunk):
            ids = self._number(rows + start)
            codes, away = self.read_codes(ids, own), self._distances(ids, chunk, survey.metric)
            serves = away <= limits[own.long(), _octave_of(whole)] * whole
        elif len(rows):
            ids, own, there = self._number(rows + start), own[rows], whole[rows]
            codes[rows], away[rows] = self.read_codes(ids, own), self._distances(ids, chunk[rows], survey.metric)
            serves[rows] = away[rows] <= limits[own.long(), _octave_of(there)] * there
        return Found(codes, away, known, serves, whole)

    def _number(self, rows: Tensor) -> Tensor:
        """The numbers that rows had, int64 [n]."""
        return rows if self.origins is None else torch.from_numpy(self.origins)[rows].clamp(min=0)

    def read_codes(self, ids: Tensor, depths: Tensor) -> Tensor:
        """uint8 [n, stages], zeros beyond a row's depth (int8 [n])."""
        table, spec = self.table, self.table.spec
        codes = torch.zeros(len(ids), len(spec.stages), dtype=torch.uint8)
        if spec.base_depth:
            codes[:, : spec.base_depth] = self._read("base", ids, spec.base_bits(), spec.stage_bits[: spec.base_depth])
        for number, level in enumerate(spec.levels):
            if level.kind != "codes":
                continue
            deep = (depths == level.depth).nonzero().squeeze(1)
            places = find_places(level.index, table.get_buffer(f"level{number}_index"), ids[deep])
            deep, places = deep[places >= 0], places[places >= 0]
            bits = spec.stage_bits[spec.base_depth : level.depth]
            own = self._read(f"level{number}_codes", places, spec.level_bits(level), bits)
            codes[deep, spec.base_depth : level.depth] = own
        return codes

    def _read(self, name: str, entries: Tensor, entry_bits: int, bits: Sequence[int]) -> Tensor:
        packed = self.table.get_buffer(name).numpy()
        return torch.from_numpy(read_fields(packed, entries.numpy(), entry_bits=entry_bits, bits=bits).astype(np.uint8))

    def _distances(self, ids: Tensor, rows: Tensor, metric: Tensor) -> Tensor:
        """The squared distance of rows from what their old codes stand for, float32 [n]."""
        with torch.no_grad():
            return measure_rows(self.table.read_rows(ids).sub_(rows), metric=metric)[0]


@dataclass(frozen=True)
class Found:
    """Old codes uint8 [n, stages] and squared distances float32 [n]; which are of the wanted depth, and which serve.

    whole: float32 [n], the squared distances from the centre.
    """

    codes: Tensor
    away: Tensor
    known: Tensor
    serves: Tensor
    whole: Tensor

    def settle(self, codes: Tensor, distances: Tensor) -> int:
        """Puts old codes in the place of new ones that are hardly nearer; returns how many rows have what they had."""
        old = self.codes[:, : codes.shape[1]]
        kept = self.serves | (self.known & (self.away <= (1 + TOLERANCE) * distances))
        codes[kept], distances[kept] = old[kept], self.away[kept]
        return int((self.known & (codes == old).all(dim=1)).sum())


def _octave_of(squared: Tensor) -> Tensor:
    """The octave that each squared distance is in, int64 [n]."""
    exponent = torch.frexp(squared).exponent.to(torch.int64)
    return (exponent + _MIDDLE).clamp(0, _OCTAVES - 1)


def hold_codes(
    reader: RowReader,
    survey: Survey,
    table: CompressedTable,
    depths: np.ndarray,
    *,
    workers: int,
    origins: np.ndarray | None = None,
) -> tuple[HeldCodes, float]:
    """The codes of `table` for rows of which some have moved, and the largest |entry| of any row less the centre.

    depths int8 [rows], those of the rows that are still there; `origins` as `HeldCodes` has them. The survey's values
    become what each row is worth.
    """
    held = HeldCodes(table, depths, np.full((len(table.spec.stages) + 1, _OCTAVES), -1, dtype=np.float32), origins)
    step = max(1, min(_SAMPLED, len(depths) // _LEAST_SAMPLED))

    def measure(bounds: tuple[int, int]) -> tuple[Tensor, float, np.ndarray, np.ndarray]:
        chunk = torch.from_numpy(reader.read_rows(*bounds))
        whole, largest = measure_rows(chunk, centre=survey.centre, metric=survey.metric)
        rows = chunk[: max(0, len(depths) - bounds[0]) : step]
        at = torch.arange(len(rows)) * step
        away = held._distances(held._number(at + bounds[0]), rows, survey.metric) if len(rows) else torch.zeros(0)
        return whole, largest, (away / whole[at].clamp(min=1e-30)).numpy(), _octave_of(whole[at]).numpy()

    widest, found, bounds = 0.0, list[tuple[np.ndarray, np.ndarray, np.ndarray]](), chunk_bounds(*reader.shape)
    for part, (whole, largest, share, octave) in zip(
        bounds, ordered_map(measure, bounds, workers=workers), strict=True
    ):
        survey.values[slice(*part)] = whole.numpy() * survey.weights[slice(*part)]
        widest = max(widest, largest)
        found.append((depths[slice(*part)][::step], octave, share))
    depth, octave, share = (np.concatenate(one) for one in zip(*found, strict=True))
    for deep, high in np.unique(np.stack([depth, octave])[:, depth > 0], axis=1).T:
        held.limits[deep, high] = SLACK * np.quantile(share[(depth == deep) & (octave == high)], SERVING)
    return held, widest


def finest_first(spec: TableSpec) -> list[int]:
    """The numbers of a spec's levels, from the one that holds rows best: stored rows by their bytes, codes by depth."""

    def fineness(number: int) -> tuple[int, int]:
        level = spec.levels[number]
        stored = count_row_bytes(level.codec, spec.dim) if level.kind == "rows" else 0
        return stored, level.depth

    return sorted(range(len(spec.levels)), key=fineness, reverse=True)


def exchange_levels(spec: TableSpec, levels: np.ndarray, values: Column) -> np.ndarray:
    """The levels (int8 [rows], -1: the base) with rows that have become worth clearly more in the places of others.

    Each level stays as full as it was: from the deepest on, its least valuable ids change places with more valuable
    ones outside.
    """
    levels = levels.copy()
    order = finest_first(spec)
    for position, number in enumerate(order):
        members = np.flatnonzero(levels == number)
        worth = gather(values, members)
        weakest = np.argsort(worth, kind="stable")
        rivals, theirs = _find_rivals(levels, values, order[: position + 1], CLEARLY * float(worth.min()))
        pairs = min(len(rivals), len(members))
        clear = theirs[:pairs] > CLEARLY * worth[weakest[:pairs]]
        changed = pairs if clear.all() else int(np.argmin(clear))
        down, up = members[weakest[:changed]], rivals[:changed]
        levels[down], levels[up] = levels[up], number
    return levels


def _find_rivals(
    levels: np.ndarray, values: Column, passed: Sequence[int], least: float
) -> tuple[np.ndarray, np.ndarray]:
    """The ids outside the passed levels that are worth more than `least`, and their worth, the greatest first."""
    found = list[np.ndarray]()
    for part in slices(len(levels)):
        own = (values[part] > least) & ~np.isin(levels[part], passed)
        found.append(np.flatnonzero(own) + part.start)
    ids = np.concatenate(found)
    worth = gather(values, ids)
    order = np.argsort(-worth, kind="stable")
    return ids[order], worth[order]
