"""Drop-in modules: what stands where an nn.EmbeddingBag or nn.Embedding was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memrec_convert.choices import Oov, values_of
from memrec_convert.encoding.description import describe_table
from memrec_convert.encoding.spec import TableSpec, table_spec_from_json
from memrec_convert.kernels.reference import pool_bags
from memrec_convert.lookup.table import CompressedTable, HashGroup
from memrec_convert.lookup.tracing import embed, must_trace


class CompressedEmbedding(CompressedTable):
    """Called as nn.Embedding: ids of any shape -> rows of that shape and dim."""

    def __init__(
        self,
        spec: TableSpec,
        *,
        name: str = "",
        oov: str = "error",
        padding_idx: int | None = None,
        group: HashGroup | None = None,
    ) -> None:
        super().__init__(spec, name=name, oov=oov, padding_idx=padding_idx, group=group)
        self.describe()

    def describe(self) -> None:
        """Sets `description` to all that `build_module` needs."""
        self.description = json.dumps(describe_module(self))

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 or int32 [...] -> float32 [..., dim]."""
        if must_trace(ids) and self.decoder is None:
            return embed(self, ids, None, None)
        return self.look_up(ids)

    def look_up(self, ids: Tensor) -> Tensor:
        """`forward` of a call that nothing traces."""
        kernel = self.kernel() if ids.is_cpu else None
        if kernel is None:
            rows = self.lookup(ids.reshape(-1))
            if self.padding_idx is not None:
                rows = rows.masked_fill((ids.reshape(-1) == self.padding_idx).unsqueeze(1), 0.0)
        else:
            self.check_dtype(ids)
            rows = kernel.look_up_grid(ids.reshape(-1, 1))
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
        self.describe()

    def describe(self) -> None:
        """Sets `description` to all that `build_module` needs."""
        self.description = json.dumps(describe_module(self))

    def forward(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sum or mean per bag; offsets are starts (with the end too where include_last_offset), sorted, from 0."""
        if must_trace(ids) and self.decoder is None:
            return embed(self, ids, offsets, per_sample_weights)
        return self.pool(ids, offsets, per_sample_weights)

    def pool(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """`forward` of a call that nothing traces."""
        flat, starts, weights = self.read_bags(ids, offsets, per_sample_weights)
        bags = len(flat) if starts is None else len(starts)
        learning = weights is not None and weights.requires_grad and torch.is_grad_enabled()
        kernel = self.kernel() if flat.is_cpu and not learning else None
        if kernel is None:
            if starts is None and self.padding_idx is None:
                return self.lookup(flat)
            return self.lookup_bags(flat, torch.arange(bags, device=flat.device) if starts is None else starts, weights)
        if bags == 0 and len(flat):
            raise ValueError(f"table {self.name or '?'}: {len(flat)} ids, and no bag to hold them")
        return kernel.look_up_bags([(flat, starts, weights)], bags)

    def read_bags(
        self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ids [n], starts [bags] (None where each id is a bag of its own) and weights float32 [n]; values unchecked."""
        name = self.name or "?"
        self.check_dtype(ids)
        if weights is not None:
            if self.mode != "sum":
                raise ValueError(f"table {name}: per-sample weights go with sums, this bag takes the {self.mode}")
            if weights.shape != ids.shape or not weights.is_floating_point():
                raise ValueError(
                    f"table {name}: per-sample weights are {weights.dtype} {list(weights.shape)} for ids of shape "
                    f"{list(ids.shape)}; each id needs its own, a floating-point number"
                )
            weights = weights.reshape(-1).to(torch.float32).contiguous()
        if ids.dim() == 2:
            if offsets is not None:
                raise ValueError(f"table {name}: ids of two dimensions have their bags; offsets are too much")
            bags, length = ids.shape
            single = length == 1 and weights is None
            return ids.reshape(-1), None if single else torch.arange(bags, device=ids.device) * length, weights
        if ids.dim() != 1:
            raise ValueError(f"table {name}: ids have {ids.dim()} dimensions, expected 1 or 2")
        if offsets is None:
            raise ValueError(f"table {name}: ids of one dimension need offsets")
        starts, end = self._drop_end(offsets, len(ids))
        return ids[:end], starts, None if weights is None else weights[:end]

    def lookup_bags(self, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Bags of the rows of `lookup`, float32 [bags, dim], pooled in torch: what the kernel equals to the bit.

        ids [n] of any bags; offsets [bags], where each begins; weights float32 [n] per id. ValueError where they do not
        go together or a weight is NaN.
        """
        single = len(offsets) == len(ids) and bool((offsets == torch.arange(len(ids), device=ids.device)).all())
        if not single:
            self._check_offsets(offsets, len(ids))
        if weights is not None and bool(weights.isnan().any()):
            at = int(weights.isnan().nonzero()[0])
            raise ValueError(f"table {self.name or '?'}: the per-sample weight of id number {at} is NaN")
        rows = self.lookup(ids)
        counted = None if self.padding_idx is None else ids != self.padding_idx
        if single and weights is None and counted is None:
            return rows
        return pool_bags(rows, offsets.to(torch.int64), weights=weights, mode=self.mode, counted=counted)

    def _drop_end(self, offsets: Tensor, ids: int) -> tuple[Tensor, int]:
        """Starts alone, and how many ids are in bags: where the module says so the last offset, as in torch."""
        name = self.name or "?"
        if offsets.dim() != 1 or offsets.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"table {name}: offsets are {offsets.dtype} {list(offsets.shape)}, expected int64 or int32 [bags]"
            )
        if self.include_last_offset:
            end = int(offsets[-1]) if len(offsets) else -1
            if not 0 <= end <= ids or (end < ids and self.mode == "mean"):  # torch's mean counts the ids behind it
                raise ValueError(f"table {name}: the last offset must be the number of ids, {ids}, or less for sums")
            offsets, ids = offsets[:-1], end
        return offsets.contiguous(), ids

    def _check_offsets(self, offsets: Tensor, ids: int) -> None:
        name = self.name or "?"
        if len(offsets) == 0:
            if ids:
                raise ValueError(f"table {name}: {ids} ids, and no bag to hold them")
            return
        wrong = (offsets < 0) | (offsets > ids)
        wrong[1:] |= offsets[1:] < offsets[:-1]
        wrong[0] |= offsets[0] != 0
        if bool(wrong.any()):
            raise ValueError(
                f"table {name}: offsets must rise from 0 and stay within the {ids} ids; the one of bag "
                f"{int(wrong.nonzero()[0])} does not"
            )


CompressedModule = CompressedEmbedding | CompressedEmbeddingBag


def describe_module(module: CompressedModule) -> dict[str, Any]:
    """`describe_table` of a module that exists."""
    mode, with_end = "", False
    if isinstance(module, CompressedEmbeddingBag):
        mode, with_end = module.mode, module.include_last_offset
    return describe_table(
        module.spec,
        name=module.name,
        oov=module.oov,
        padding_idx=module.padding_idx,
        mode=mode,
        include_last_offset=with_end,
    )


def build_module(plain: Mapping[str, Any], groups: dict[str, HashGroup]) -> CompressedModule:
    """The empty module that `describe_module` described; groups are made once and shared through `groups`."""
    spec = table_spec_from_json(plain)
    group = None
    if spec.hashing is not None:
        group = groups.get(spec.hashing.group) or groups.setdefault(spec.hashing.group, HashGroup(spec.hashing))
        if group.spec != spec.hashing:
            raise ValueError(f"two tables describe the group {spec.hashing.group!r} differently")
    if plain["oov"] not in values_of(Oov):
        raise ValueError(f"oov {plain['oov']!r} is unknown")
    name, oov, padding_idx = str(plain["name"]), str(plain["oov"]), plain.get("padding_idx")
    if padding_idx is not None and not (isinstance(padding_idx, int) and 0 <= padding_idx < spec.rows):
        raise ValueError(f"padding_idx {padding_idx!r} is no row")
    if "mode" not in plain:
        return CompressedEmbedding(spec, name=name, oov=oov, padding_idx=padding_idx, group=group)
    if plain["mode"] not in ("sum", "mean"):
        raise ValueError(f"mode {plain['mode']!r} is unknown")
    return CompressedEmbeddingBag(
        spec,
        mode=plain["mode"],
        include_last_offset=bool(plain.get("include_last_offset", False)),
        name=name,
        oov=oov,
        padding_idx=padding_idx,
        group=group,
    )
