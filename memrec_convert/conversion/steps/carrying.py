"""Yesterday's plan, stage lists, codebooks and codes taken over, as far as they still serve.

Every table keeps its form, and its levels keep their ids. Rows keep their codes unless new ones are clearly nearer. A
table whose codebooks have aged has them refitted; where even then a fresh fit of a sample loses clearly less, the whole
is converted anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.clicklog.profiles.row_map import read_row_map
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress, Subject, TableSite
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.ageing import (
    AgeingSample,
    estimate_fresh,
    measure_fresh,
    refine_whole,
    refit,
    sample_ageing,
)
from memrec_convert.conversion.steps.assembly import frame_of, make_module
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.conversion.steps.outcome import Candidate, TakenOver, TakenTable
from memrec_convert.conversion.steps.sizing import make_counter
from memrec_convert.conversion.steps.weighting import choose_source, weigh_tables
from memrec_convert.conversion.steps.yesterday import Yesterday, find_distances
from memrec_convert.distill.columns import Column, gather
from memrec_convert.distill.curves import estimate_kept
from memrec_convert.distill.held import HeldCodes, exchange_levels, hold_codes
from memrec_convert.distill.refine import ROUNDS, WIDE_BEAM, RefinedTable
from memrec_convert.distill.rows import RowReader, is_large, read_chunks
from memrec_convert.distill.stages import Stage, split_codebook
from memrec_convert.distill.streamed import BEAM, CodedRows, code_rows, depths_of
from memrec_convert.distill.survey import Survey
from memrec_convert.distill.weights import TableWeights
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import join_replaced, keep_rows
from memrec_convert.encoding.index import choose_index
from memrec_convert.encoding.spec import count_row_bytes
from memrec_convert.lookup import CompressedModule
from memrec_convert.parallel import ordered_map

MOST_LOST = 0.05
"""A fresh fit of a sample may lose this share less before it is preferred."""

MOST_DOUBTED = 0.02
"""What another round of fitting may gain before a fresh fit is made, to judge by."""

MOST_TRIMMED = 0.02
"""Up to this share of the budget, levels give up rows for what has grown overnight."""

MOST_AT_ONCE = 2
"""Tables that are carried over side by side: each takes a few hundred megabytes for its samples."""

NAME = "yesterday's plan"


@dataclass(frozen=True)
class Carried:
    """What was found, and the candidate that came of it: None where `told.reason` says why there is none."""

    told: TakenOver
    candidate: Candidate | None
    fitted: Fitted

    def beside(self, fitted: Fitted) -> list[Candidate]:
        """The candidate, if there is one, with what its kept tables lose by the fit that the others come from."""
        if self.candidate is None:
            return []
        specs = zip(fitted.fits, self.candidate.specs, strict=True)
        kept = sum(
            fit.curves.kept.get(spec.codec) or estimate_kept(fit.sample, fit.survey, spec.codec)
            for fit, spec in specs
            if spec.form == "kept"
        )
        return [replace(self.candidate, distortion=self.candidate.distortion + kept)]

    def settle(
        self, ranked: Sequence[Candidate], find_harm: Callable[[Candidate, Candidate], str]
    ) -> tuple[list[Candidate], TakenOver]:
        """The candidates, best first, with this one before all unless another is clearly better; and what to tell.

        find_harm: why the second of two candidates is better than the first; "" where it is not.
        """
        own = next((one for one in ranked if one.name == NAME), None)
        if own is None:
            return list(ranked), self.told
        best, here = (one.distortion if one.divergence is None else one.divergence for one in (ranked[0], own))
        if here > best * (1 + MOST_LOST):
            does = "loses" if own.divergence is None else "diverges"
            return list(ranked), replace(self.told, reason=f"a fresh conversion {does} {1 - best / here:.1%} less")
        others = [one for one in ranked if one is not own]
        reason = find_harm(own, others[0]) if others and others[0].modules else ""
        if reason:
            return [others[0], own, *others[1:]], replace(self.told, reason=reason)
        return [own, *others], self.told


def carry_over(
    subject: Subject,
    like: Yesterday,
    options: Options,
    describe: Callable[[str], Metadata],
    budget_bytes: int,
    *,
    progress: Progress,
    watch: Stopwatch,
) -> Carried:
    """The subject's tables as `like` has them, within the budget.

    `describe` gives the metadata of files whose weights come from a source. The fit has weights and no curves.
    """
    origins = _read_origins(subject, like)
    source, fault = choose_source(subject, options.weights)
    with watch.stage("weights"):
        weights = tuple(weigh_tables(subject, source, options, progress))
    fitted = Fitted(source, weights, (), fault)
    reason = _find_hindrance(subject, like)
    if reason:
        return Carried(TakenOver(str(like.path), (), reason), None, fitted)
    count = make_counter(subject, describe(source), oov=options.oov)
    placed = [_place_rows(like.tables[site.name], site.rows, origins.get(site.name)) for site in subject.sites]
    placed = _fit_budget(placed, weights, count, budget_bytes)
    found = list[_CarriedTable]()
    tables = list(zip(subject.sites, placed, weights, strict=True))

    def carry(one: tuple[TableSite, _PlacedRows, TableWeights]) -> _CarriedTable:
        return _carry_table(subject, *one, options)

    with watch.stage("carry over"):
        progress("carry over", 0, len(tables))
        for one in ordered_map(carry, tables, workers=min(options.workers, MOST_AT_ONCE)):
            found.append(one)
            progress("carry over", len(found), len(tables))
    modules = tuple(one.module for one in found)
    nbytes = count([module.spec for module in modules])
    told = TakenOver(str(like.path), tuple(one.told for one in found))
    if nbytes > budget_bytes:
        reason = f"it would take {nbytes} bytes, and the budget is {budget_bytes}"
    elif told.loss > told.fresh_loss * (1 + MOST_LOST):
        reason = f"a fresh fit of a sample loses {1 - told.fresh_loss / told.loss:.1%} less"
    loss = sum(one.loss for one in found)
    candidate = None if reason else Candidate(NAME, modules, nbytes, loss, planned=loss)
    return Carried(replace(told, reason=reason), candidate, fitted)


def _find_hindrance(subject: Subject, like: Yesterday) -> str:
    """Why the tables of an artifact cannot be taken over; "" where they can."""
    for site in subject.sites:
        table = like.tables.get(site.name)
        if table is None:
            return f"it has no table {site.name}"
        if table.spec.dim != site.dim:
            return f"the rows of its table {site.name} have {table.spec.dim} numbers, and today's have {site.dim}"
        if table.spec.hashing is not None:
            return f"its table {site.name} has hashed tokens, which are always fitted anew"
    gone = set(like.tables) - {site.name for site in subject.sites}
    return f"its table {min(gone)} is gone" if gone else ""


def _read_origins(subject: Subject, like: Yesterday) -> dict[str, np.ndarray]:
    """Which rows the rows of renumbered tables were."""
    if like.row_map is None:
        return {}
    sites = [site for site in subject.sites if site.name in like.tables]
    return read_row_map(like.row_map, {site.name: (like.tables[site.name].spec.rows, site.rows) for site in sites})


@dataclass(frozen=True)
class _CarriedTable:
    module: CompressedModule
    told: TakenTable
    loss: float = 0.0


def _carry_table(
    subject: Subject, site: TableSite, placed: _PlacedRows, weights: TableWeights, options: Options
) -> _CarriedTable:
    before, (spec, levels) = placed.before, placed.as_spec()
    told = TakenTable(site.name, before.spec.rows, site.rows, renumbered=placed.count_renumbered())
    if spec.form == "kept":
        return _CarriedTable(make_module(site, spec, keep_rows(spec, read_chunks(site.reader)), oov=options.oov), told)

    survey, stages = _read_books(subject, site, before, spec, weights)
    apart = find_distances(subject, site, survey, workers=options.workers)
    shared: dict[str, Any] = {"whole": apart.squared, "workers": options.workers, "origins": placed.origins}
    held = hold_codes(site.reader, survey, before, placed.depths, **shared)
    levels = exchange_levels(spec, levels, survey.values)
    place = _Place(site.reader, spec, levels, options)
    values, survey = survey, replace(survey, values=subject.scratch.column(site.rows, np.float32))
    coded = place.code(survey, stages, held if place.is_large else held.over(before))
    learned, judged = sample_ageing(site.reader, values, survey, levels, seed=options.seed, workers=options.workers)
    loss, refitted = judged.loss if place.is_large else coded.loss, False
    fresh = place.estimate_fresh(survey, stages, learned, judged)
    if loss > fresh * (1 + MOST_DOUBTED):
        fresh = place.measure_fresh(survey, learned, judged, apart.widest)
    if loss > fresh * (1 + MOST_LOST):
        moved, better, after = place.refit(survey, stages, learned, judged)
        if after < loss:
            survey, stages, loss, refitted = moved, better, after, True
            coded = place.code(survey, stages, held.over(_with_books(before, survey, stages)))
    tensors = join_replaced(spec, **frame_of(survey, stages), base=coded.base, levels=coded.levels)
    with_codes = int(np.count_nonzero(depths_of(spec, levels) > 0))
    told = replace(told, coded=with_codes, kept=coded.kept, refitted=refitted, loss=loss, fresh_loss=fresh)
    return _CarriedTable(make_module(site, spec, tensors, oov=options.oov), told, coded.loss)


def _read_books(
    subject: Subject, site: TableSite, before: CompressedModule, spec: TableSpec, weights: TableWeights
) -> tuple[Survey, tuple[Stage, ...]]:
    """Yesterday's centre and scale with today's weights, and yesterday's codebooks."""
    frame, values = before.get_buffer("frame"), subject.scratch.column(site.rows, np.float32)
    stages: tuple[Stage, ...] = ()
    if spec.stages:
        stages = split_codebook(before.get_buffer("codebook"), before.spec.stages, before.spec.shifts)
    survey = Survey(frame[1:].clone(), weights.metric, weights.rows, values, 127 * float(frame[0]))
    return survey, stages[: len(spec.stages)]


@dataclass(frozen=True)
class _Place:
    """A table's rows, with the form and the levels (int8 [rows]) that they are to have.

    Large tables are judged on a sample; of small ones all rows are coded and judged, as they are in any conversion.
    """

    reader: RowReader
    spec: TableSpec
    levels: np.ndarray
    options: Options

    @property
    def is_large(self) -> bool:
        return is_large(self.reader.shape)

    def code(self, survey: Survey, stages: Sequence[Stage], held: HeldCodes) -> CodedRows:
        return code_rows(
            self.reader,
            survey,
            stages,
            self.spec,
            self.levels,
            workers=self.options.workers,
            held=held,
            lost=survey.values,
            beam=BEAM if self.is_large else WIDE_BEAM,
        ).finish()

    def estimate_fresh(
        self, survey: Survey, stages: Sequence[Stage], learned: AgeingSample, judged: AgeingSample
    ) -> float:
        if self.is_large or not stages:
            return estimate_fresh(learned, judged, survey, self.spec, stages)
        return self._refine(survey, stages, rounds=1).loss + self._stored(survey)

    def measure_fresh(self, survey: Survey, learned: AgeingSample, judged: AgeingSample, widest: float) -> float:
        if self.is_large:
            seed = self.options.seed
            return measure_fresh(learned, judged, self.spec, survey.metric, widest=widest, seed=seed)
        fresh = (learned, widest, self.options.seed)
        return self._stored(survey) + self._refine(survey, (), fresh=fresh).loss

    def refit(
        self, survey: Survey, stages: Sequence[Stage], learned: AgeingSample, judged: AgeingSample
    ) -> tuple[Survey, tuple[Stage, ...], float]:
        if self.is_large or not stages:
            return refit(learned, judged, survey, self.spec, stages)
        better = self._refine(survey, stages)
        return survey, better.stages, better.loss + self._stored(survey)

    def _refine(
        self,
        survey: Survey,
        stages: Sequence[Stage],
        *,
        rounds: int = ROUNDS,
        fresh: tuple[AgeingSample, float, int] | None = None,
    ) -> RefinedTable:
        shared: dict[str, Any] = {"workers": self.options.workers, "rounds": rounds, "fresh": fresh}
        return refine_whole(self.reader, survey, self.spec, self.levels, stages, **shared)

    def _stored(self, survey: Survey) -> float:
        """What stored rows lose, whichever codebooks the others have."""
        stored = depths_of(self.spec, self.levels) < 0
        return float(survey.values[:][stored].sum(dtype=np.float64))


@dataclass(frozen=True)
class _PlacedRows:
    """Today's rows in yesterday's levels, int8 [rows], -1 for the base; and which row each one was, as in `HeldCodes`.

    depths: int8, those of the rows that were there: of the first ones, or of all, 0 for new ones, with `origins`.
    """

    before: CompressedModule
    levels: np.ndarray
    depths: np.ndarray
    origins: np.ndarray | None

    def as_spec(self) -> tuple[TableSpec, np.ndarray]:
        """The spec of a table that may have grown or shrunk, and the levels by their numbers in it."""
        spec, rows = self.before.spec, len(self.levels)
        if spec.form == "kept":
            return replace(spec, rows=rows), self.levels
        counts = self.count_levels()
        here = [number for number, count in enumerate(counts) if count]
        renumbered = np.array([-1, *(here.index(n) if n in here else -1 for n in range(len(counts)))], dtype=np.int8)
        kept = tuple(replace(spec.levels[number], index=choose_index(rows, counts[number])) for number in here)
        deepest = max([spec.base_depth, *(level.depth for level in kept)])
        spec = replace(spec, rows=rows, levels=kept, stages=spec.stages[:deepest], shifts=spec.shifts[:deepest])
        return spec, renumbered[self.levels + 1]

    def count_levels(self) -> list[int]:
        """The rows of each level."""
        return [int(np.count_nonzero(self.levels == number)) for number in range(len(self.before.spec.levels))]

    def count_renumbered(self) -> int:
        """The rows that had another number."""
        if self.origins is None:
            return 0
        return int(np.count_nonzero((self.origins >= 0) & (self.origins != np.arange(len(self.origins)))))

    def without(self, number: int, ids: int, worth: Column) -> _PlacedRows:
        """A level's least worthy ids at the base."""
        members, levels = np.flatnonzero(self.levels == number), self.levels.copy()
        levels[members[np.argsort(gather(worth, members), kind="stable")[:ids]]] = -1
        return replace(self, levels=levels)


def _place_rows(before: CompressedModule, rows: int, origins: np.ndarray | None) -> _PlacedRows:
    levels = np.full(rows, -1, dtype=np.int8)
    if before.spec.form == "kept":
        return _PlacedRows(before, levels, levels, origins)
    held = before.forms_of_rows().numpy() - 1
    if origins is None:
        shared = min(rows, before.spec.rows)
        levels[:shared] = held[:shared]
        return _PlacedRows(before, levels, depths_of(before.spec, levels[:shared]), None)
    levels[origins >= 0] = held[origins[origins >= 0]]
    depths = np.where(origins >= 0, depths_of(before.spec, levels), 0).astype(np.int8)
    return _PlacedRows(before, levels, depths, origins)


def _fit_budget(
    placed: Sequence[_PlacedRows],
    weights: Sequence[TableWeights],
    count: Callable[[Sequence[TableSpec]], int],
    budget_bytes: int,
) -> list[_PlacedRows]:
    """The rows in levels that fit: what metadata or new rows have grown by is taken from the fullest level."""
    found = list(placed)
    while 0 < (over := count([one.as_spec()[0] for one in found]) - budget_bytes) <= MOST_TRIMMED * budget_bytes:
        fullest = [(max(one.count_levels(), default=0), -number) for number, one in enumerate(found)]
        members, number = max(fullest)
        if members == 0:
            break
        one = found[-number]
        level = one.count_levels().index(members)
        each = max(1, _row_bytes(one.before.spec, level))
        found[-number] = one.without(level, -(-over // each), weights[-number].rows)
    return found


def _row_bytes(spec: TableSpec, number: int) -> int:
    """About what an id of a level takes, without its place in the index."""
    level = spec.levels[number]
    return count_row_bytes(level.codec, spec.dim) if level.kind == "rows" else -(-spec.level_bits(level) // 8)


def _with_books(before: CompressedModule, survey: Survey, stages: Sequence[Stage]) -> CompressedModule:
    """Yesterday's codes over these codebooks."""
    frame = frame_of(survey, stages)
    table = copy.deepcopy(before)
    table.fill({"frame": torch.cat([torch.tensor([frame["scale"]]), frame["centre"]])})
    if frame["codebook"] is not None:
        book = table.get_buffer("codebook").clone()
        book[: len(frame["codebook"])] = frame["codebook"]
        table.fill({"codebook": book})
    return table
