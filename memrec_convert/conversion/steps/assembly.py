"""From a plan to a model: every table coded, its tensors built, the new modules put where the old ones stood."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.artifact.dense import round_tensor
from memrec_convert.conversion.inputs.subject import Subject, TableSite
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.fitting import Fitted, fit_chosen
from memrec_convert.distill.curves import TableFit, has_many_rows
from memrec_convert.distill.finish import CodedTable, code_table
from memrec_convert.distill.refine import BEAM, WIDE_BEAM, find_centre, measure_mean_row, move_centre, refine_table
from memrec_convert.distill.rows import RowReader, TensorRows, gather_rows, is_large, read_chunks
from memrec_convert.distill.stages import Stage, split_codebook
from memrec_convert.distill.streamed import (
    MOST_CANDIDATES,
    code_rows,
    depths_of,
    measure_levels,
    rank_ids,
    refine_on_sample,
)
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import build_replaced, join_replaced, keep_rows
from memrec_convert.lookup import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedModule,
    CompressedWeight,
    HashGroup,
    find_tables,
    hasten,
    hold_table,
    own_state,
)
from memrec_convert.lookup.copying import copy_model
from memrec_convert.parallel import even_out, ordered_map
from memrec_convert.planning.forms import FormChoice
from memrec_convert.planning.membership import LevelCandidates, Membership, assign_levels
from memrec_convert.planning.search import CountFile, TablePlan, plan_tables


@dataclass(frozen=True)
class Search:
    """The search for a plan within a budget: what plans are made from, and codes that several of them share.

    count gives the exact bytes of a file; refine: whether codes improve with the codebooks once the depths are known.
    """

    subject: Subject
    fitted: Fitted
    budget_bytes: int
    options: Options
    count: CountFile
    refine: bool = True
    coded: dict[tuple[int, tuple[int, ...]], CodedTable] = field(default_factory=dict)
    stored: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    def plan(self, methods: str, count: CountFile | None = None) -> TablePlan:
        """The plan that loses least within the budget; BudgetTooSmallError where there is none."""
        curves = [fit.curves for fit in self.fitted.fits]
        return plan_tables(curves, self.budget_bytes, count or self.count, methods=methods, memo=self.fitted.forms)

    def stages(self, number: int, sizes: tuple[int, ...]) -> tuple[Stage, ...]:
        """The codebooks of a table's list, as `fit_chosen` has fitted them."""
        return self.fitted.stages[number, sizes] if sizes else ()

    def code(self, number: int, sizes: tuple[int, ...]) -> CodedTable:
        """Codes and losses of a table at every depth of a list, and as stored int8 rows last."""
        key, fit = (number, sizes), self.fitted.fits[number]
        if key not in self.coded:
            stages = self.stages(number, sizes)
            levels = [*range(len(stages) + 1), "int8"]

            def make() -> CodedTable:
                reader = self.subject.sites[number].reader
                return code_table(reader, fit.survey, stages, levels, workers=self.options.workers)

            self.coded[key] = self.subject.work.recall(f"codes of {number} {sizes}", make, (CodedTable, Stage))
        return self.coded[key]

    def weigh_stored(self, number: int, codec: str, coded: CodedTable) -> np.ndarray:
        """What each row of a table loses as a stored row, float32 [rows]; `coded` is the table by any list."""
        if codec == "int8":
            last: np.ndarray = coded.losses[-1]
            return last
        key, fit = (number, codec), self.fitted.fits[number]
        if key not in self.stored:

            def make() -> np.ndarray:
                reader = self.subject.sites[number].reader
                losses: np.ndarray = code_table(reader, fit.survey, (), [codec], workers=self.options.workers).losses[0]
                return losses

            self.stored[key] = self.subject.work.recall(f"{codec} rows of {number}", make, ())
        return self.stored[key]


def assign_members(
    search: Search, plan: TablePlan, count: CountFile | None = None, *, hashed: bool = False
) -> Membership | None:
    """The level of every id under a plan, to the last bytes of the budget; None where not even empty levels fit.

    Once it is known which ids stay at the mean row, that is their own mean, and all ids are placed anew; not where
    hashed tokens will stand beside it, which are fitted around the centre of the table.
    """
    found = [
        _assign(search, choices, plan.price, count or search.count, moved=not hashed)
        for choices in (plan.choices, plan.between)
        if choices
    ]
    fitting = [members for members in found if members is not None]
    return min(fitting, key=lambda one: sum(choice.distortion for choice in one.choices), default=None)


def _assign(
    search: Search, choices: Sequence[FormChoice], price: float, count: CountFile, *, moved: bool
) -> Membership | None:
    sites, workers = search.subject.sites, search.options.workers
    candidates = _list_candidates(search, choices)
    members = assign_levels(candidates, search.budget_bytes, count, price=price, workers=workers)
    if members is None or not moved:
        return members
    changed = list(candidates)
    for number, one in enumerate(candidates):
        if one.choice.levels and not one.choice.base_depth and one.ids is None:
            reader, survey = sites[number].reader, search.fitted.fits[number].survey
            centre = find_centre(reader, survey, members.levels[number] < 0)
            if centre is not None:
                losses = np.stack([measure_mean_row(reader, survey, centre), *one.losses[1:]])
                changed[number] = replace(one, losses=losses)
    if all(one is other for one, other in zip(changed, candidates, strict=True)):
        return members
    return assign_levels(changed, search.budget_bytes, count, price=price, workers=workers)


def _list_candidates(search: Search, choices: Sequence[FormChoice]) -> list[LevelCandidates]:
    """Per table what its rows lose in the levels of the form that is chosen for it."""
    candidates, sites = list[LevelCandidates](), search.subject.sites
    chosen = [(number, choice.sizes) for number, choice in enumerate(choices) if not choice.kept]
    fit_chosen(search.subject, search.fitted, chosen, search.options)
    most = MOST_CANDIDATES // max(1, sum(is_large(site.reader.shape) for site in sites))
    for number, (site, choice) in enumerate(zip(sites, choices, strict=True)):
        if choice.kept:
            losses, shifts = np.zeros((1, 0), dtype=np.float32), tuple[int, ...]()
            candidates.append(LevelCandidates(choice, site.rows, site.dim, shifts, losses))
        elif is_large(site.reader.shape):
            candidates.append(_find_candidates(search, number, choice, most=most))
        else:
            coded = search.code(number, choice.sizes)
            shifts = tuple(stage.shift for stage in coded.stages)
            of_levels = [
                search.weigh_stored(number, level.codec, coded) if level.codec else coded.losses[level.depth]
                for level in choice.levels
            ]
            losses = np.stack([coded.losses[choice.base_depth], *of_levels])
            candidates.append(LevelCandidates(choice, site.rows, site.dim, shifts, losses))
    return candidates


def _find_candidates(search: Search, number: int, choice: FormChoice, *, most: int) -> LevelCandidates:
    """The ids of a large table that the plan's levels may take, and what they lose there."""
    site, fit = search.subject.sites[number], search.fitted.fits[number]
    stages = search.stages(number, choice.sizes)
    levels = [choice.base_depth, *(level.codec or level.depth for level in choice.levels)]
    ids, losses = np.zeros(0, dtype=np.int64), np.zeros((len(levels), 0), dtype=np.float32)
    if choice.levels:
        ids = rank_ids(fit.survey.values, wanted=sum(choice.counts), most=most)

        name = f"levels of {number} {choice.sizes} {levels} {len(ids)}"

        def make() -> np.ndarray:
            shared: dict[str, Any] = {"workers": search.options.workers, "crew": search.subject.crew, "label": name}
            return measure_levels(site.reader, fit.survey, stages, levels, ids, **shared)

        losses = search.subject.work.recall(name, make, ())
    return LevelCandidates(choice, site.rows, site.dim, tuple(stage.shift for stage in stages), losses, ids)


def build_tables(
    search: Search, members: Membership, groups: Mapping[str, HashGroup] | None = None
) -> tuple[list[CompressedModule], float]:
    """The compressed module of every site, its codes refined for the depths that the plan gave; and the distortion.

    `groups` are the hashed tokens of the specs that have some; the distortion counts the mean row in their place.
    """
    refined, specs = _refine_large(search, members), members.specs

    def build(number: int) -> tuple[CompressedModule, float]:
        site, spec = search.subject.sites[number], specs[number]
        choice, levels = members.choices[number], members.levels[number]
        if spec.form == "kept":
            tensors, loss = keep_rows(spec, read_chunks(site.reader)), choice.distortion
        else:
            name = ("" if search.refine else "plain ") + _name_finished(number, spec, choice, levels)
            if number in refined:
                make = partial(_code_large, search, number, spec, refined[number], levels, name)
            else:
                make = partial(_build_replaced, search, number, spec, choice, levels)
            tensors, loss = search.subject.work.recall(name, make, ())
        group = groups[spec.hashing.group] if groups and spec.hashing else None
        return make_module(site, spec, tensors, oov=search.options.oov, group=group), loss

    # Ranks take one step at a time, and a large table has all threads.
    alone = search.subject.crew.size == 1 and not refined
    workers = even_out(search.options.workers, len(specs)) if alone else 1
    built = list(ordered_map(build, range(len(specs)), workers=workers))
    return [module for module, _ in built], sum(loss for _, loss in built)


def _name_finished(number: int, spec: TableSpec, choice: FormChoice, levels: np.ndarray) -> str:
    """What the tensors of a finished table depend on beside its fit."""
    digest = hashlib.blake2b(np.ascontiguousarray(levels).data, digest_size=16).hexdigest()
    return f"tensors of {number} {spec.to_json()} {choice.sizes} {digest}"


def _build_replaced(
    search: Search, number: int, spec: TableSpec, choice: FormChoice, levels: np.ndarray
) -> tuple[dict[str, Tensor], float]:
    """Tensors and distortion of a replaced table."""
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

    names = [_name_finished(n, spec, members.choices[n], members.levels[n]) for n, spec in specs.items()]
    workers = even_out(search.options.workers, len(specs))
    found = subject.crew.map(f"refined {names}", refine, list(specs), workers=workers, classes=(Stage,))
    return dict(zip(specs, found, strict=True))


def _code_large(
    search: Search, number: int, spec: TableSpec, stages: Sequence[Stage], levels: np.ndarray, name: str
) -> tuple[dict[str, Tensor], float]:
    """Tensors and distortion of a large table: one pass over the rows."""
    site, survey = search.subject.sites[number], search.fitted.fits[number].survey
    shared: dict[str, Any] = {"workers": search.options.workers, "crew": search.subject.crew, "label": name}
    coded = code_rows(site.reader, survey, stages, spec, levels, **shared)
    return join_replaced(spec, **frame_of(survey, stages), base=coded.base, levels=coded.levels), coded.loss


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


def split_frame(module: CompressedModule) -> tuple[Stage, ...]:
    """The codebooks of a finished table; none where it has none."""
    spec = module.spec
    return split_codebook(module.get_buffer("codebook"), spec.stages, spec.shifts) if spec.stages else ()


class Frame(TypedDict):
    """What codes are units of, as the builders take it."""

    centre: Tensor
    scale: float
    codebook: Tensor | None


def frame_of(survey: Survey, stages: Sequence[Stage]) -> Frame:
    """Centre, scale and codebook (int8 [entries, dim], None without stages) of what was fitted."""
    codebook = torch.cat([stage.codebook for stage in stages]) if stages else None
    return {"centre": survey.centre, "scale": survey.scale, "codebook": codebook}


def make_module(
    site: TableSite, spec: TableSpec, tensors: Mapping[str, Tensor], *, oov: str, group: HashGroup | None = None
) -> CompressedModule:
    """The module that stands where `site` stood, filled."""
    module: CompressedModule
    if site.pooling:
        module = CompressedEmbeddingBag(
            spec,
            mode=site.pooling,
            include_last_offset=site.include_last_offset,
            name=site.name,
            oov=oov,
            padding_idx=site.padding_idx,
            group=group,
        )
    else:
        module = CompressedEmbedding(spec, name=site.name, oov=oov, padding_idx=site.padding_idx, group=group)
    module.fill(tensors)
    return module


def replace_tables(subject: Subject, modules: Sequence[CompressedModule]) -> nn.Module:
    """A copy of the model with these modules in the tables' places; the original's rows are not copied."""
    return swap_tables(subject, subject.model, dict(enumerate(modules)))


def swap_tables(subject: Subject, model: nn.Module, modules: Mapping[int, CompressedModule]) -> nn.Module:
    """A copy of a model, converted or not, with other tables in the place of some, by number."""
    memo: dict[int, Any] = {id(one): one for one in subject.uncopied}
    for number, module in modules.items():
        site = subject.sites[number]
        for name in site.weights:
            weight = model.get_parameter(name)
            memo[id(weight)] = hold_table(module, weight.dtype)
        for path in () if site.weights else site.paths:
            memo[id(model.get_submodule(path))] = module
    copied = copy_model(model, memo)
    hasten(copied)
    return copied.eval().requires_grad_(False)


def table_at(model: nn.Module, site: TableSite) -> CompressedModule:
    """The table of a converted model that stands for a site."""
    module = model.get_submodule(site.paths[0])
    table: Any = module._parameters["weight"].table if site.weights else module  # type: ignore[union-attr]
    found: CompressedModule = table
    return found


def round_dense(model: nn.Module, dense: str, *, kept: Collection[int] = ()) -> None:
    """Rounds the dense part to the precision that it will be stored in, so that what is measured is what is written.

    Tensors whose id() is in `kept` stay as they are.
    """
    if dense == "fp32":
        return
    tables = {id(buffer) for table in find_tables(model) for buffer in table.buffers()} | set(kept)
    with torch.no_grad():
        for tensor in own_state(model).values():
            if tensor.dtype == torch.float32 and type(tensor) is not CompressedWeight and id(tensor) not in tables:
                tensor.copy_(round_tensor(tensor, dense))
