"""From coded tables to a model: the module of each, and the new modules put where the old ones stood."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from memrec_convert.artifact.dense import round_tensor
from memrec_convert.conversion.inputs.subject import Subject, TableSite
from memrec_convert.distill.stages import Stage, split_codebook
from memrec_convert.distill.survey import Survey
from memrec_convert.encoding import TableSpec
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
