"""Drop-in modules: what stands where an nn.EmbeddingBag or nn.Embedding was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memrec_convert.encoding.spec import TableSpec, table_spec_from_json
from memrec_convert.encoding.table import OOV_CHOICES, CompressedTable, HashGroup
from memrec_convert.kernels.reference import pool_bags


class CompressedEmbedding(CompressedTable):
    """Called as nn.Embedding: ids of any shape -> rows of that shape and dim."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 or int32 [...] -> float32 [..., dim]."""
        rows = self.lookup(ids.reshape(-1))
        if self.padding_idx is not None:
            rows = rows.masked_fill((ids.reshape(-1) == self.padding_idx).unsqueeze(1), 0.0)
        return rows.reshape(*ids.shape, self.spec.dim)


class CompressedEmbeddingBag(CompressedTable):
    """Called as nn.EmbeddingBag: ids [n] with offsets [b], or ids [b, length] -> pooled rows [b, dim]."""

    def __init__(
        self,
        spec: TableSpec,
        *,
        mode: str = "sum",
        include_last_offset: bool = False,
        name: str = "",
        oov: str = "error",
        padding_idx: int | None = None,
        group: HashGroup | None = None,
    ) -> None:
        super().__init__(spec, name=name, oov=oov, padding_idx=padding_idx, group=group)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sum or mean per bag; offsets are starts (with the end too where include_last_offset), sorted, from 0."""
        if per_sample_weights is not None and self.mode != "sum":
            raise ValueError(
                f"table {self.name or '?'}: per-sample weights go with sums, this bag takes the {self.mode}"
            )
        if per_sample_weights is not None and per_sample_weights.shape != ids.shape:
            raise ValueError(
                f"table {self.name or '?'}: per-sample weights of shape {list(per_sample_weights.shape)} for ids of "
                f"shape {list(ids.shape)}; each id needs its own"
            )
        if ids.dim() not in (1, 2):
            raise ValueError(f"table {self.name or '?'}: ids have {ids.dim()} dimensions, expected 1 or 2")
        if ids.dim() == 2:
            if offsets is not None:
                raise ValueError(
                    f"table {self.name or '?'}: ids of two dimensions have their bags; offsets are too much"
                )
            bags, length = ids.shape
            offsets = torch.arange(bags, device=ids.device) * length
            ids = ids.reshape(-1)
            per_sample_weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        elif offsets is None:
            raise ValueError(f"table {self.name or '?'}: ids of one dimension need offsets")
        else:
            offsets = self._check_offsets(offsets, len(ids))
        rows = self.lookup(ids)
        counted = None if self.padding_idx is None else ids != self.padding_idx
        single = len(offsets) == len(ids) and bool((offsets == torch.arange(len(ids), device=ids.device)).all())
        if single and per_sample_weights is None and counted is None:
            return rows
        return pool_bags(rows, offsets, weights=per_sample_weights, mode=self.mode, counted=counted)

    def _check_offsets(self, offsets: Tensor, ids: int) -> Tensor:
        name = self.name or "?"
        if offsets.dim() != 1 or offsets.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"table {name}: offsets are {offsets.dtype} {list(offsets.shape)}, expected int64 or int32 [bags]"
            )
        offsets = offsets.to(torch.int64)
        if self.include_last_offset:
            if len(offsets) == 0 or int(offsets[-1]) != ids:
                raise ValueError(f"table {name}: the last offset must be the number of ids, {ids}")
            offsets = offsets[:-1]
        if len(offsets) == 0:
            if ids:
                raise ValueError(f"table {name}: {ids} ids, and no bag to hold them")
            return offsets
        if int(offsets[0]) != 0 or bool((offsets[1:] < offsets[:-1]).any()) or int(offsets[-1]) > ids:
            raise ValueError(f"table {name}: offsets must rise from 0 and stay within the {ids} ids")
        return offsets


CompressedModule = CompressedEmbedding | CompressedEmbeddingBag


def describe_table(
    spec: TableSpec,
    *,
    name: str,
    oov: str,
    mode: str = "",
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> dict[str, Any]:
    """All that it takes to build an empty module, as plain values; `mode` "" is an nn.Embedding's place."""
    plain: dict[str, Any] = {"name": name, "oov": oov} | spec.to_json()
    if padding_idx is not None:
        plain["padding_idx"] = padding_idx
    if mode:
        plain["mode"] = mode
    if include_last_offset:
        plain["include_last_offset"] = True
    return plain


def describe_module(module: CompressedModule) -> dict[str, Any]:
    """`describe_table` of a module that exists."""
    mode, with_end = "", False
    if isinstance(module, CompressedEmbeddingBag):
        mode, with_end = module.mode, module.include_last_offset
    return describe_table(
        module.spec, name=module.name, oov=module.oov, padding_idx=module.padding_idx,
        mode=mode, include_last_offset=with_end,
    )  # fmt: skip


def build_module(plain: Mapping[str, Any], groups: dict[str, HashGroup]) -> CompressedModule:
    """The empty module that `describe_module` described; groups are made once and shared through `groups`."""
    spec = table_spec_from_json(plain)
    group = None
    if spec.hashing is not None:
        group = groups.get(spec.hashing.group) or groups.setdefault(spec.hashing.group, HashGroup(spec.hashing))
        if group.spec != spec.hashing:
            raise ValueError(f"two tables describe the group {spec.hashing.group!r} differently")
    if plain["oov"] not in OOV_CHOICES:
        raise ValueError(f"oov {plain['oov']!r} is unknown")
    name, oov, padding_idx = str(plain["name"]), str(plain["oov"]), plain.get("padding_idx")
    if padding_idx is not None and not (isinstance(padding_idx, int) and 0 <= padding_idx < spec.rows):
        raise ValueError(f"padding_idx {padding_idx!r} is no row")
    if "mode" not in plain:
        return CompressedEmbedding(spec, name=name, oov=oov, padding_idx=padding_idx, group=group)
    if plain["mode"] not in ("sum", "mean"):
        raise ValueError(f"mode {plain['mode']!r} is unknown")
    return CompressedEmbeddingBag(
        spec, mode=plain["mode"], include_last_offset=bool(plain.get("include_last_offset", False)), name=name,
        oov=oov, padding_idx=padding_idx, group=group,
    )  # fmt: skip
