"""The tensors of every table, its codes refined for the depths that a plan gave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from memrec_convert.conversion.inputs.subject import TableSite
from memrec_convert.conversion.steps.assembly import frame_of, make_module, split_frame
from memrec_convert.conversion.steps.coding.search import Search
from memrec_convert.distill.curves import TableFit, has_many_rows
from memrec_convert.distill.refine import BEAM, ROUNDS, WIDE_BEAM, move_centre, refine_table
from memrec_convert.distill.rows import RowReader, TensorRows, gather_rows, is_large, read_chunks
from memrec_convert.distill.stages import Stage, count_search_work
from memrec_convert.distill.streamed import code_rows, depths_of, refine_on_sample
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import build_replaced, join_replaced, keep_rows
from memrec_convert.lookup import CompressedModule, HashGroup
from memrec_convert.parallel import Job, Pass, even_out, ordered_map
from memrec_convert.planning.forms import FormChoice
from memrec_convert.planning.membership import Membership

_Finished: TypeAlias = tuple[dict[str, Tensor], float]
"""A table's tensors, and its distortion."""


def build_tables(
    search: Search, members: Membership, groups: Mapping[str, HashGroup] | None = None
) -> tuple[list[CompressedModule], float]:
    """The compressed module of every site, its codes refined for the depths that the plan gave; and the distortion.

    `groups` are the hashed tokens of the specs that have some; the distortion counts the mean row in their place.
    """
    sites, specs, workers = search.subject.sites, members.specs, search.options.workers
    refined = _refine_large(search, members)
    kept = [number for number, spec in enumerate(specs) if spec.form == "kept"]
    small = [number for number in range(len(specs)) if number not in refined and number not in kept]

    def keep(number: int) -> _Finished:
        return keep_rows(specs[number], read_chunks(sites[number].reader)), members.choices[number].distortion

    # A large table has all threads.
    workers = 1 if refined else workers
    finished = dict(zip(kept, ordered_map(keep, kept, workers=workers), strict=True))
    jobs = [(sites[number].rows, _code_large(search, members, number, stages)) for number, stages in refined.items()]
    jobs += [
        (sum(sites[number].rows for number in own), _build_small(search, members, own, workers))
        for own in search.split(small)
    ]
    for found in search.finish(jobs):
        finished |= found
    modules, losses = list[CompressedModule](), [finished[number][1] for number in range(len(specs))]
    for number, (site, spec) in enumerate(zip(sites, specs, strict=True)):
        group = groups[spec.hashing.group] if groups and spec.hashing else None
        tensors, _ = finished.pop(number)
        modules.append(make_module(site, spec, tensors, oov=search.options.oov, group=group))
    return modules, sum(losses)


def _name_finished(search: Search, members: Membership, number: int) -> str:
    """What the tensors of a finished table depend on beside its fit."""
    digest = hashlib.blake2b(np.ascontiguousarray(members.levels[number]).data, digest_size=16).hexdigest()
    own = f"tensors of {number} {members.specs[number].to_json()} {members.choices[number].sizes} {digest}"
    return own if search.refine else f"plain {own}"


def _build_small(
    search: Search, members: Membership, numbers: Sequence[int], workers: int
) -> Job[dict[int, _Finished]]:
    """Several small tables, of each of which all rows are refined together."""

    def build(number: int) -> _Finished:
        spec, levels = members.specs[number], members.levels[number]
        return _build_replaced(search, number, spec, members.choices[number], levels)

    costs = []
    for number in numbers:
        sizes, dim = members.choices[number].sizes, search.subject.sites[number].dim
        depths = depths_of(members.specs[number], members.levels[number])
        often = ROUNDS * count_search_work(sizes, dim, beam=BEAM)
        costs.append(float((often + count_search_work(sizes, dim, beam=WIDE_BEAM))[depths + 1].sum()))
    names = [_name_finished(search, members, number) for number in numbers]
    digest = hashlib.blake2b(repr(names).encode(), digest_size=16).hexdigest()
    work = Pass(f"small tables {digest}", build, numbers, workers=even_out(workers, len(numbers)), costs=costs)
    return Job(work, lambda found: dict(zip(numbers, found, strict=True)))


def _build_replaced(search: Search, number: int, spec: TableSpec, choice: FormChoice, levels: np.ndarray) -> _Finished:
    """Tensors and distortion of a small table that is replaced."""
    site, fit = search.subject.sites[number], search.fitted.fits[number]
    coded = search.code(number, choice.sizes)
    survey, stages = fit.survey, coded.stages[: len(spec.stages)]
    if not spec.base_depth and spec.hashing is None:  # hashed tokens were fitted around the centre as it is
        survey, stages = move_centre(site.reader, survey, stages, depths_of(spec, levels))
    if not search.refine:
        return _build(spec, survey, stages, coded.codes, levels, site.reader), choice.distortion
    tensors, loss = _refine(site.reader, survey, spec, stages, levels, workers=search.options.workers)
    for n, level in enumerate(spec.levels):
        if level.kind == "rows":
            stored = search.weigh_stored(number, level.codec, coded)
            loss += float(stored[np.flatnonzero(levels == n)].sum(dtype=np.float64))
    return tensors, loss


def _refine_large(search: Search, members: Membership) -> dict[int, tuple[Stage, ...]]:
    """The codebooks of every large table that is replaced, refined on its sample for the depths that the plan gave."""
    subject, sites = search.subject, search.subject.sites
    specs = {n: spec for n, spec in enumerate(members.specs) if spec.form != "kept" and is_large(sites[n].reader.shape)}
    stages = {n: search.stages(n, members.choices[n].sizes)[: len(spec.stages)] for n, spec in specs.items()}
    if not search.refine or not specs:
        return stages

    def refine(number: int) -> tuple[Stage, ...]:
        depths = depths_of(specs[number], members.levels[number])
        return refine_on_sample(search.fitted.fits[number], stages[number], depths, workers=1)

    costs = []
    for number, own in stages.items():
        depths = depths_of(specs[number], members.levels[number])[search.fitted.fits[number].sample.numbers]
        work = count_search_work([stage.size for stage in own], sites[number].dim, beam=BEAM)
        costs.append(float(work[depths + 1].sum()))
    shared: dict[str, Any] = {"workers": even_out(search.options.workers, len(specs)), "costs": costs}
    name = f"refined {[_name_finished(search, members, number) for number in specs]}"
    found = subject.crew.map(name, refine, list(specs), classes=(Stage,), **shared)
    return dict(zip(specs, found, strict=True))


def _code_large(search: Search, members: Membership, number: int, stages: Sequence[Stage]) -> Job[dict[int, _Finished]]:
    """A large table: one pass over the rows."""
    site, survey = search.subject.sites[number], search.fitted.fits[number].survey
    spec, levels = members.specs[number], members.levels[number]
    label = _name_finished(search, members, number)
    coding = code_rows(site.reader, survey, stages, spec, levels, workers=search.options.workers, label=label)

    def join(found: Iterator[Any]) -> dict[int, _Finished]:
        coded = coding.join(found)
        tensors = join_replaced(spec, **frame_of(survey, stages), base=coded.base, levels=coded.levels)
        return {number: (tensors, coded.loss)}

    return Job(coding.work, join)


def _refine(
    reader: RowReader,
    survey: Survey,
    spec: TableSpec,
    stages: Sequence[Stage],
    levels: np.ndarray,
    *,
    workers: int,
    beam: int = BEAM,
) -> tuple[dict[str, Tensor], float]:
    """Tensors and loss of a table whose codes and codebooks are refined over all its rows."""
    depths, last_beam = depths_of(spec, levels), BEAM if has_many_rows(reader.shape) else WIDE_BEAM
    refined = refine_table(reader, survey, stages, depths, workers=workers, beam=beam, last_beam=last_beam)
    return _build(spec, survey, refined.stages, refined.codes, levels, reader), refined.loss


def _build(
    spec: TableSpec, survey: Survey, stages: Sequence[Stage], codes: np.ndarray, levels: np.ndarray, reader: RowReader
) -> dict[str, Tensor]:
    frame, read = frame_of(survey, stages), partial(gather_rows, reader)
    return build_replaced(spec, **frame, codes=codes, levels=levels, read_rows=read)


def code_anew(
    site: TableSite,
    fit: TableFit,
    spec: TableSpec,
    frame: CompressedModule,
    rows: Tensor,
    levels: np.ndarray,
    *,
    oov: str,
    workers: int,
) -> CompressedModule:
    """A module of other rows (float32 [rows, dim]) than those that were fitted.

    Centre and codebooks start from those of `frame`; levels int8 [rows] numbers the level of the spec of each id.
    """
    stages = split_frame(frame)[: len(spec.stages)]
    survey = replace(fit.survey, centre=frame.get_buffer("frame")[1:].clone())
    tensors, _ = _refine(TensorRows(rows), survey, spec, stages, levels, workers=workers, beam=WIDE_BEAM)
    return make_module(site, spec, tensors, oov=oov)
