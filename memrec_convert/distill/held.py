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
"""Rows that lose hardly more than this share of the rows of their size and depth does are not coded anew at all.

Rows that have moved are among those rows: where more than the other quarter has, codes seem to serve that do not, and
the table is refitted for what it loses."""

CLEARLY = 2.0
"""A row takes the place of another in a level where it is worth so many times as much."""

_SAMPLED, _LEAST_SAMPLED = 16, 1 << 15
"""One row of so many, the first ones of each chunk, tells what rows lose for their size; more of small tables."""

_OCTAVES, _MIDDLE = 128, 64

_MOST = 2
"""Where more than one row in so many of a chunk has an old code, all are looked up."""


@dataclass(frozen=True)
class HeldCodes:
    """The codes of a table as it was, `table`, and how deep each row's was, int8 [rows] of those that are still there.

    origins: int64 [rows], which row of it each one was, where that is another number; rows without one have depth 0.
    limits: float32 [depths, octaves], the squared distance up to which a row's old code serves, as a share of that
    from the centre; by the octave that the latter is in.
    whole: float32 [rows], today's rows' squared distances from the centre, where they are known.
    """

    table: CompressedTable
    depths: np.ndarray
    limits: np.ndarray
    origins: np.ndarray | None = None
    whole: Column | None = None

    def over(self, table: CompressedTable) -> HeldCodes:
        """The same codes over another centre and codebooks, with which none is known to serve: all rows are coded."""
        return replace(self, table=table, limits=np.full_like(self.limits, -1), whole=None)

    def find(self, start: int, chunk: Tensor, survey: Survey, depths: Tensor) -> Found:
        """The old codes of rows start, start + 1, ... (float32 [n, dim]); `depths` (int8 [n]) are those wanted now."""
        whole = self._measure_whole(start, chunk, survey)
        codes = torch.zeros(len(chunk), len(self.table.spec.stages), dtype=torch.uint8)
        away, known = torch.zeros(len(chunk)), torch.zeros(len(chunk), dtype=torch.bool)
        own = torch.from_numpy(self.depths[start : start + len(chunk)])
        known[: len(own)] = (own > 0) & (own == depths[: len(own)])
        rows, serves = known.nonzero().squeeze(1), known.clone()
        if _MOST * len(rows) > len(own):  # to pick them would take longer than to ask for all
            codes[: len(own)], away[: len(own)] = self._compare(torch.arange(len(own)) + start, chunk, own, survey)
        elif len(rows):
            codes[rows], away[rows] = self._compare(rows + start, chunk[rows], own[rows], survey)
        here = slice(len(own))
        serves[here] &= away[here] <= torch.from_numpy(self.limits)[own.long(), _octave_of(whole[here])] * whole[here]
        return Found(codes, away, known, serves, whole)

    def _measure_whole(self, start: int, chunk: Tensor, survey: Survey) -> Tensor:
        if self.whole is None:
            return measure_rows(chunk, centre=survey.centre, metric=survey.metric)[0]
        return torch.from_numpy(self.whole[start : start + len(chunk)])

    def _compare(self, numbers: Tensor, rows: Tensor, depths: Tensor, survey: Survey) -> tuple[Tensor, Tensor]:
        """Old codes of rows by their numbers, and how far the rows (the first len(numbers) of these) are from them."""
        ids = self._number(numbers)
        return self.read_codes(ids, depths), self._distances(ids, rows[: len(ids)], survey.metric)

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
            return measure_rows(self.table.read_rows(ids), others=rows, metric=metric)[0]


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

    def take_served(self, stages: int) -> tuple[Tensor, Tensor]:
        """Codes uint8 [n, stages] and squared distances of rows whose old code serves; of others zeros, and `whole`."""
        codes, others = self.codes[:, :stages].clone(), (~self.serves).nonzero().squeeze(1)
        codes[others] = 0
        return codes, torch.where(self.serves, self.away, self.whole)

    def choose(self, rows: Tensor, codes: Tensor, squared: Tensor) -> tuple[Tensor, Tensor, int]:
        """New codes and squared distances of rows (int64 [m]), or old ones that are hardly farther away.

        And how many rows of all have the code that they had.
        """
        old, away, known = self.codes[rows, : codes.shape[1]], self.away[rows], self.known[rows]
        stays = known & (away <= (1 + TOLERANCE) * squared)
        codes = torch.where(stays.unsqueeze(1), old, codes)
        kept = int(self.serves.sum()) + int((known & (codes == old).all(dim=1)).sum())
        return codes, torch.where(stays, away, squared), kept


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
    whole: Column,
    workers: int,
    origins: np.ndarray | None = None,
) -> HeldCodes:
    """The codes of `table` for rows of which some have moved, with limits from a part of the rows.

    depths int8 [rows], those of the rows that are still there; `origins` and `whole` as `HeldCodes` has them.
    """
    limits = np.full((len(table.spec.stages) + 1, _OCTAVES), -1, dtype=np.float32)
    held = HeldCodes(table, depths, limits, origins, whole)
    step = max(1, min(_SAMPLED, len(depths) // _LEAST_SAMPLED))

    def measure(part: slice) -> tuple[np.ndarray, np.ndarray]:
        rows, there = torch.from_numpy(reader.read_rows(part.start, part.stop)), torch.from_numpy(whole[part])
        away = held._distances(held._number(torch.arange(part.start, part.stop)), rows, survey.metric)
        return (away / there.clamp(min=1e-30)).numpy(), _octave_of(there).numpy()

    parts = [
        slice(start, start + -(-(stop - start) // step))
        for start, stop in chunk_bounds(len(depths), dim=table.spec.dim)
    ]
    found = list(ordered_map(measure, parts, workers=workers))
    if not found:
        return held
    share, octave = (np.concatenate(one) for one in zip(*found, strict=True))
    depth = np.concatenate([depths[part] for part in parts]).astype(np.int64)
    kind = np.where(depth > 0, depth * _OCTAVES + octave, 0)  # those without a code have no limit
    for one in np.flatnonzero(np.bincount(kind, minlength=1)[1:]) + 1:
        limits.flat[one] = SLACK * np.quantile(share[kind == one], SERVING)
    return held


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
        rivals, theirs = _find_rivals(levels, values, order[: position + 1], CLEARLY * float(worth.min()))
        if not len(rivals):
            continue
        beaten = np.flatnonzero(theirs[0] > CLEARLY * worth)
        weakest = beaten[np.argsort(worth[beaten], kind="stable")]
        pairs = min(len(rivals), len(weakest))
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
