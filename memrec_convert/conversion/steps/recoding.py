"""Fine-tuning in which coded rows move by themselves, and are coded anew at the end.

Codes that stay can only move together, with their codebooks. So in training a coded row is a row, and what it has
become is coded as it was before, at the same depth, in the same bytes. Where all rows of a table are coded to the same
depth they move together besides, by a linear map; where depths differ, rows coded coarsely would be moved by what the
others need.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.conversion.inputs.subject import Progress, Subject, TableSite
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.assembly import code_anew, make_module, swap_tables, table_at
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.conversion.steps.outcome import Candidate
from memrec_convert.conversion.steps.teaching import make_mark, teach
from memrec_convert.distill.rows import is_large
from memrec_convert.encoding import LevelSpec, TableSpec
from memrec_convert.encoding.index import order_ids
from memrec_convert.finetune.loop import FineTuning
from memrec_convert.finetune.stored_rows import MOST_TRAINED
from memrec_convert.lookup import CompressedModule

ROWS_AT_ONCE = 1 << 16


def teach_rows(
    subject: Subject, fitted: Fitted, chosen: Candidate, model: nn.Module, options: Options, *, progress: Progress
) -> tuple[nn.Module, FineTuning]:
    """Fine-tunes a candidate's model; gives it back trained, or another one of the same specs, and how it went.

    Where tables are too large to be held as rows, their codebooks train alone. Where coding the trained rows leaves
    nothing of the gain on the hold-out, the model is given back as it came.
    """
    members = chosen.members
    if members is None:
        return model, teach(subject, model, options, progress=progress)
    loose: dict[int, CompressedModule] = {}
    apart = list[CompressedModule]()
    for number, (site, levels) in enumerate(zip(subject.sites, members.levels, strict=True)):
        module = table_at(model, site)
        if _can_move(site, module.spec):
            loose[number] = _loosen(site, module, levels, options.oov)
            if not _is_even(module.spec):
                apart.append(loose[number])
    if not loose:
        return model, teach(subject, model, options, progress=progress)
    start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    student = swap_tables(subject, model, loose)
    mark = make_mark(subject, options)
    told = replace(teach(subject, student, options, progress=progress, apart=apart, mark=mark), start=start)
    if told.best_step == 0:
        return model, told
    modules: dict[int, CompressedModule] = {}
    for number in loose:
        site = subject.sites[number]
        before, trained = table_at(model, site), table_at(student, site)
        modules[number] = code_anew(
            site,
            fitted.fits[number],
            before.spec,
            trained if trained.spec.form == before.spec.form else before,
            _decode(trained, torch.arange(site.rows)),
            members.levels[number],
            oov=options.oov,
            workers=options.workers,
        )
    coded = swap_tables(subject, student, modules)
    found = mark(coded)
    assert told.came is not None
    doubt = found.doubt(told.came)
    if doubt:
        refused = f"once coded anew, {doubt}" if found.score > told.came.score else ""
        return model, replace(told, best_step=0, recoded=told.history[0][1], refused=refused)
    return coded, replace(told, recoded=found.score)


def find_mapped(subject: Subject, chosen: Candidate) -> tuple[str, ...]:
    """Paths of the tables whose rows `teach_rows` sends through a map: those held alike, each in one module."""
    paths = list[str]()
    for site, module in zip(subject.sites, chosen.modules, strict=True):
        spec = module.spec
        kept = spec.form == "kept" and spec.rows * spec.dim <= MOST_TRAINED
        loose = chosen.members is not None and _can_move(site, spec)
        if len(site.paths) == 1 and (kept or (loose and _is_even(spec))):
            paths.extend(site.paths)
    return tuple(paths)


def _is_even(spec: TableSpec) -> bool:
    """Whether all rows that have a code have one of the same depth."""
    return not any(level.kind == "codes" for level in spec.levels)


def _can_move(site: TableSite, spec: TableSpec) -> bool:
    """Whether there are codes, over no hashed base, of few enough rows to be held and trained."""
    coded = spec.base_depth > 0 or any(level.kind == "codes" for level in spec.levels)
    few = spec.rows * spec.dim <= MOST_TRAINED and not is_large(site.reader.shape)
    return spec.form != "kept" and spec.hashing is None and coded and few


def _loosen(site: TableSite, module: CompressedModule, levels: np.ndarray, oov: str) -> CompressedModule:
    """The same table with fp32 rows in place of codes: of all ids where the base is coded, else of those in levels."""
    spec = module.spec
    if spec.base_depth:
        rows = {"rows": _decode(module, torch.arange(spec.rows))}
        return make_module(site, TableSpec(spec.rows, spec.dim, "kept", codec="fp32"), rows, oov=oov)
    tensors = dict(module.named_buffers(recurse=False))
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
