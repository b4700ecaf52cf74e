"""From a plan to a model: every table coded, its tensors built, the new modules put where the old ones stood."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.artifact.writer import DENSE_DTYPES
from memrec_convert.conversion.subject import Subject, TableSite
from memrec_convert.distill.curves import TableFit
from memrec_convert.distill.finish import CodedTable, code_table
from memrec_convert.distill.refine import refine_table
from memrec_convert.distill.rows import RowReader, read_chunks
from memrec_convert.encoding import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedModule,
    CompressedTable,
    HashGroup,
    TableSpec,
)
from memrec_convert.encoding.build import build_kept, build_replaced
from memrec_convert.planning.membership import LevelCandidates, Membership, assign_levels
from memrec_convert.planning.search import CountFile, TablePlan


@dataclass
class CodeStore:
    """Codes of whole tables, kept between candidates that share a table and its stage list."""

    workers: int
    coded: dict[tuple[int, tuple[int, ...]], CodedTable] = field(default_factory=dict)

    def code(self, number: int, site: TableSite, fit: TableFit, sizes: tuple[int, ...]) -> CodedTable:
        """Codes and losses of a table at every depth of a list, and as stored int8 rows last."""
        key = (number, sizes)
        if key not in self.coded:
            stages = fit.lists[sizes].stages if sizes else ()
            levels = [*range(len(stages) + 1), "int8"]
            self.coded[key] = code_table(site.reader, fit.survey, stages, levels, workers=self.workers)
        return self.coded[key]


def assign_members(
    subject: Subject,
    fits: Sequence[TableFit],
    plan: TablePlan,
    store: CodeStore,
    budget_bytes: int,
    count_file: CountFile,
) -> Membership | None:
    """The level of every id under a plan, to the last bytes of the budget; None where not even empty levels fit."""
    candidates = []
    for number, (site, fit, choice) in enumerate(zip(subject.sites, fits, plan.choices, strict=True)):
        if choice.kept:
            losses, shifts = np.zeros((1, 0), dtype=np.float32), tuple[int, ...]()
        else:
            coded = store.code(number, site, fit, choice.sizes)
            wanted = [choice.base_depth, *(-1 if level.codec else level.depth for level in choice.levels)]
            losses, shifts = coded.losses[wanted], tuple(stage.shift for stage in coded.stages)
        candidates.append(LevelCandidates(choice, site.rows, site.dim, shifts, losses))
    return assign_levels(candidates, budget_bytes, count_file, price=plan.price)


def build_tables(
    subject: Subject, fits: Sequence[TableFit], members: Membership, store: CodeStore, *, oov: str
) -> tuple[list[CompressedModule], float]:
    """The compressed module of every site, its codes refined for the depths that the plan gave; and the distortion."""
    modules, distortion = list[CompressedModule](), 0.0
    for number, (site, fit, spec) in enumerate(zip(subject.sites, fits, members.specs, strict=True)):
        choice = members.choices[number]
        if spec.form == "kept":
            tensors = build_kept(spec, read_all(site.reader))
            distortion += choice.distortion
        else:
            coded = store.code(number, site, fit, choice.sizes)
            levels = members.levels[number]
            of_rows = [n for n, level in enumerate(spec.levels) if level.kind == "rows"]
            stored = np.flatnonzero(np.isin(levels, of_rows))
            refined = refine_table(
                site.reader, fit.survey, coded.stages[: len(spec.stages)], _depths(spec, levels), workers=store.workers
            )
            codebook = torch.cat([stage.codebook for stage in refined.stages]) if refined.stages else None
            tensors = build_replaced(
                spec, centre=fit.survey.centre, scale=fit.survey.scale, codebook=codebook, codes=refined.codes,
                levels=levels, read_rows=partial(gather_rows, site.reader),
            )  # fmt: skip
            distortion += refined.loss + float(coded.losses[-1][stored].sum(dtype=np.float64))
        modules.append(make_module(site, spec, tensors, oov=oov))
    return modules, distortion


def _depths(spec: TableSpec, levels: np.ndarray) -> np.ndarray:
    """The number of tokens of each row, int8 [rows]; -1 for stored rows."""
    by_level = [spec.base_depth, *(level.depth if level.kind == "codes" else -1 for level in spec.levels)]
    depths: np.ndarray = np.array(by_level, dtype=np.int8)[levels + 1]
    return depths


def make_module(
    site: TableSite, spec: TableSpec, tensors: Mapping[str, Tensor], *, oov: str, group: HashGroup | None = None
) -> CompressedModule:
    """The module that stands where `site` stood, filled."""
    module: CompressedModule
    if site.pooling:
        module = CompressedEmbeddingBag(
            spec, mode=site.pooling, include_last_offset=site.include_last_offset, name=site.name, oov=oov,
            padding_idx=site.padding_idx, group=group,
        )  # fmt: skip
    else:
        module = CompressedEmbedding(spec, name=site.name, oov=oov, padding_idx=site.padding_idx, group=group)
    module.fill(tensors)
    return module


def replace_tables(subject: Subject, modules: Sequence[CompressedModule]) -> nn.Module:
    """A copy of the model with these modules in the tables' places; the original's rows are not copied."""
    memo = {id(site.module): module for site, module in zip(subject.sites, modules, strict=True)}
    for site, module in zip(subject.sites, modules, strict=True):
        for path in site.paths[1:]:
            memo[id(subject.model.get_submodule(path))] = module
    model: nn.Module = copy.deepcopy(subject.model, memo)
    return model.eval().requires_grad_(False)


def round_dense(model: nn.Module, dense: str) -> None:
    """Rounds the dense part to the precision that it will be stored in, so that what is measured is what is written."""
    narrow = DENSE_DTYPES[dense]
    if narrow is None:
        return
    modules = model.named_modules(remove_duplicate=False)
    tables = tuple(f"{path}." for path, module in modules if isinstance(module, CompressedTable | HashGroup))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.float32 and not name.startswith(tables):
                tensor.copy_(tensor.to(narrow))


def read_all(reader: RowReader) -> Tensor:
    """All rows, float32 [rows, dim]."""
    return torch.cat([chunk for _, chunk in read_chunks(reader)])


def gather_rows(reader: RowReader, ids: np.ndarray) -> Tensor:
    """The rows of these ids (any order), read chunk by chunk."""
    rows = torch.empty(len(ids), reader.shape[1])
    for start, chunk in read_chunks(reader):
        inside = np.flatnonzero((ids >= start) & (ids < start + len(chunk)))
        if len(inside):
            rows[torch.from_numpy(inside)] = chunk[torch.from_numpy(ids[inside] - start)]
    return rows
