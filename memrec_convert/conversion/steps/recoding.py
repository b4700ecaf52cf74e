"""Fine-tuning in which coded rows move by themselves, and are coded anew at the end.

Codes that stay can only move together, with their codebooks. So in training a coded row is a row, and what it has
become is coded by the same stages; which ids go to which level is decided anew, within the same bytes. Where most
rows of a table are coded to its greatest depth, and none is stored, these move together besides, by a linear map: the
others would be moved by what these need.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.conversion.inputs.subject import Progress, Subject, TableSite
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.assembly import make_module, split_frame, swap_tables, table_at
from memrec_convert.conversion.steps.coding.building import code_anew
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.conversion.steps.outcome import Candidate
from memrec_convert.conversion.steps.teaching import make_mark, teach
from memrec_convert.distill.finish import code_table
from memrec_convert.distill.rows import TensorRows, is_large, read_chunks
from memrec_convert.encoding import LevelSpec, TableSpec
from memrec_convert.encoding.index import order_ids
from memrec_convert.finetune.loop import FineTuning
from memrec_convert.finetune.stored_rows import MOST_TRAINED
from memrec_convert.finetune.trainable import Gait
from memrec_convert.lookup import CompressedModule
from memrec_convert.parallel import even_out, ordered_map
from memrec_convert.planning.forms import FormChoice
from memrec_convert.planning.membership import LevelCandidates, Membership, assign_levels
from memrec_convert.planning.search import CountFile

ROWS_AT_ONCE = 1 << 16

PACE, PACE_FALL = 0.9, 0.4
"""Rows coded in b bits per dim move PACE * b**-PACE_FALL times as fast as others, with b within the bounds below."""
LEAST_PACED, MOST_PACED = 0.2, 2.0


@dataclass(frozen=True)
class Taught:
    """What came of fine-tuning: the model, the candidate that it is of, and how it went.

    before   the model as it was, where another one took its place
    mapped   paths of the tables whose rows went through a map: those held alike, each in one module
    """

    model: nn.Module
    candidate: Candidate
    told: FineTuning | None = None
    before: nn.Module | None = None
    mapped: tuple[str, ...] = ()

    def has_gained(self) -> bool:
        """Whether a trained state was kept."""
        return self.told is not None and self.told.best_step > 0


def teach_rows(
    subject: Subject,
    fitted: Fitted,
    chosen: Candidate,
    model: nn.Module,
    options: Options,
    budget_bytes: int,
    count: CountFile,
    *,
    progress: Progress,
) -> Taught:
    """Fine-tunes a candidate's model, within the budget; `count` gives the exact bytes of a file.

    Where tables are too large to be held as rows, their codebooks train alone. Where coding the trained rows leaves
    nothing of the gain on the hold-out, the model is given back as it came.
    """
    members, mapped = chosen.members, _find_mapped(subject, chosen)
    loose = {} if members is None else _loosen_all(subject, model, members, options)
    if members is None or not loose:
        return Taught(model, chosen, teach(subject, model, options, progress=progress), mapped=mapped)
    gaits: dict[nn.Module, Gait] = {
        module: _find_gait(spec, members.levels[number])
        for number, module in loose.items()
        for spec in [table_at(model, subject.sites[number]).spec]
        if not _is_even(spec)
    }
    student, mark = swap_tables(subject, model, loose), make_mark(subject, options)
    told = replace(teach(subject, student, options, progress=progress, gaits=gaits, mark=mark), start={})
    if told.best_step == 0:
        return Taught(model, chosen, told, mapped=mapped)
    moved = _find_moved(subject, fitted, members, model, student, loose, options)
    placed = moved.place_anew(budget_bytes, count, price=chosen.price) or members
    modules = moved.code(placed)
    coded = swap_tables(subject, student, modules)
    found = mark(coded)
    assert told.came is not None
    doubt = found.doubt(told.came)
    if doubt:
        refused = f"once coded anew, {doubt}" if found.score > told.came.score else ""
        told = replace(told, best_step=0, recoded=told.history[0][1], refused=refused)
        return Taught(model, chosen, told, mapped=mapped)
    every = tuple(modules.get(number, module) for number, module in enumerate(chosen.modules))
    chosen = replace(chosen, modules=every, nbytes=placed.nbytes, members=placed)
    return Taught(coded, chosen, replace(told, recoded=found.score), model, mapped)


@dataclass(frozen=True)
class _Moved:
    """Tables whose rows have moved by themselves, by number.

    rows     float32 [rows, dim], as training left them; those that were one mean row are the original's
    frames   where centre and codebooks are taken from
    """

    subject: Subject
    fitted: Fitted
    members: Membership
    rows: Mapping[int, Tensor]
    frames: Mapping[int, CompressedModule]
    options: Options

    def place_anew(self, budget_bytes: int, count: CountFile, *, price: float) -> Membership | None:
        """The level of every id by what the rows lose now; None where levels of other tables stay, or nothing fits."""
        candidates = list[LevelCandidates]()
        for number, (site, choice) in enumerate(zip(self.subject.sites, self.members.choices, strict=True)):
            spec, losses = self.members.specs[number], np.zeros((1, 0), dtype=np.float32)
            if choice.levels or spec.hashing:
                if number not in self.rows:
                    return None
                losses = self._weigh(number, choice)
            candidates.append(LevelCandidates(choice, site.rows, site.dim, spec.shifts, losses))
        return assign_levels(candidates, budget_bytes, count, price=price, workers=self.options.workers)

    def _weigh(self, number: int, choice: FormChoice) -> np.ndarray:
        frame = self.frames[number]
        survey = replace(self.fitted.fits[number].survey, centre=frame.get_buffer("frame")[1:].clone())
        wanted = [choice.base_depth, *(level.codec or level.depth for level in choice.levels)]
        rows = TensorRows(self.rows[number])
        return code_table(rows, survey, split_frame(frame), wanted, workers=self.options.workers).losses

    def code(self, members: Membership) -> dict[int, CompressedModule]:
        """The tables coded anew, with the levels of `members`; several side by side."""

        def code(number: int) -> CompressedModule:
            return code_anew(
                self.subject.sites[number],
                self.fitted.fits[number],
                members.specs[number],
                self.frames[number],
                self.rows[number],
                members.levels[number],
                oov=self.options.oov,
                workers=self.options.workers,
            )

        workers = even_out(self.options.workers, len(self.rows))
        return dict(zip(self.rows, ordered_map(code, self.rows, workers=workers), strict=True))


def _find_moved(
    subject: Subject,
    fitted: Fitted,
    members: Membership,
    model: nn.Module,
    student: nn.Module,
    numbers: Collection[int],
    options: Options,
) -> _Moved:
    """The tables of these numbers, of a model before its training and of a student with rows in their place."""
    rows, frames = dict[int, Tensor](), dict[int, CompressedModule]()
    for number in numbers:
        site = subject.sites[number]
        before, trained = table_at(model, site), table_at(student, site)
        rows[number] = _decode(trained, torch.arange(site.rows))
        frames[number] = trained if trained.spec.form == before.spec.form else before
        if not before.spec.base_depth:
            for start, chunk in read_chunks(site.reader):
                mean = torch.from_numpy(members.levels[number][start : start + len(chunk)] < 0)
                rows[number][start : start + len(chunk)][mean] = chunk[mean]
    return _Moved(subject, fitted, members, rows, frames, options)


def _find_mapped(subject: Subject, chosen: Candidate) -> tuple[str, ...]:
    """Paths of the tables whose rows `teach_rows` sends through a map."""
    paths = list[str]()
    for number, (site, module) in enumerate(zip(subject.sites, chosen.modules, strict=True)):
        spec = module.spec
        mapped = spec.form == "kept" and spec.rows * spec.dim <= MOST_TRAINED
        if chosen.members is not None and _can_move(site, spec):
            mapped = _is_even(spec) or bool(_find_gait(spec, chosen.members.levels[number]).mapped.any())
        if len(site.paths) == 1 and mapped:
            paths.extend(site.paths)
    return tuple(paths)


def _is_even(spec: TableSpec) -> bool:
    """Whether all rows that have a code have one of the same depth."""
    return not any(level.kind == "codes" for level in spec.levels)


def _find_gait(spec: TableSpec, levels: np.ndarray) -> Gait:
    """How rows move that are coded to several depths: the coarser, the faster.

    The deepest are mapped where they are most of the table and no row is stored.
    """
    depths = [spec.base_depth, *(level.depth if level.kind == "codes" else None for level in spec.levels)]
    bits = [MOST_PACED if depth is None else sum(spec.stage_bits[:depth]) / spec.dim for depth in depths]
    paces = torch.tensor([PACE * min(max(own, LEAST_PACED), MOST_PACED) ** -PACE_FALL for own in bits]).unsqueeze(1)
    deepest, counts = int(np.argmax(bits)), np.bincount(levels + 1, minlength=len(depths))
    mapped = torch.arange(len(depths)) == deepest
    mapped &= None not in depths and 2 * int(counts[deepest]) > len(levels)
    if not spec.base_depth:
        return Gait(paces[1:], mapped[1:])
    numbers = torch.from_numpy(levels + 1).long()
    return Gait(paces[numbers], mapped[numbers])


def _can_move(site: TableSite, spec: TableSpec) -> bool:
    """Whether there are codes, over no hashed base, of few enough rows to be held and trained."""
    coded = spec.base_depth > 0 or any(level.kind == "codes" for level in spec.levels)
    few = spec.rows * spec.dim <= MOST_TRAINED and not is_large(site.reader.shape)
    return spec.form != "kept" and spec.hashing is None and coded and few


def _loosen_all(
    subject: Subject, model: nn.Module, members: Membership, options: Options
) -> dict[int, CompressedModule]:
    """By number, the tables whose rows can move by themselves, as rows."""
    modules = [table_at(model, site) for site in subject.sites]
    return {
        number: _loosen(site, module, members.levels[number], options.oov)
        for number, (site, module) in enumerate(zip(subject.sites, modules, strict=True))
        if _can_move(site, module.spec)
    }


def _loosen(site: TableSite, module: CompressedModule, levels: np.ndarray, oov: str) -> CompressedModule:
    """The same table with fp32 rows in place of codes: of all ids where the base is coded, else of those in levels."""
    spec = module.spec
    if spec.base_depth:
        rows = {"rows": _decode(module, torch.arange(spec.rows))}
        return make_module(site, TableSpec(spec.rows, spec.dim, "kept", codec="fp32"), rows, oov=oov)
    tensors = {name: tensor.clone() for name, tensor in module.named_buffers(recurse=False)}
    changed = list[LevelSpec]()
    for number, level in enumerate(spec.levels):
        if level.kind == "codes":
            ids = order_ids(level.index, np.flatnonzero(levels == number).astype(np.int64))
            del tensors[f"level{number}_codes"]
            tensors[f"level{number}_rows"] = _decode(module, torch.from_numpy(ids))
        changed.append(LevelSpec("rows", level.index, codec="fp32") if level.kind == "codes" else level)
    return make_module(site, replace(spec, levels=tuple(changed)), tensors, oov=oov)


@torch.no_grad()
def _decode(module: CompressedModule, ids: Tensor) -> Tensor:
    return torch.cat([module.read_rows(part) for part in torch.split(ids, ROWS_AT_ONCE)])
