"""The tensors of a spec, from codes, levels and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding.bits import pack_codes
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.index import build_index, order_ids
from memrec_convert.encoding.spec import TableSpec

ReadRows = Callable[[np.ndarray], Tensor]
"""Rows (float32 [n, dim]) of these ids (int64 [n])."""


@dataclass(frozen=True)
class LevelContent:
    """A level's ids (rising), their codes beyond the base (uint8 [n, stages]), and the parts of their stored rows."""

    ids: np.ndarray
    codes: np.ndarray
    parts: Mapping[str, Tensor] = field(default_factory=dict)


def build_kept(spec: TableSpec, rows: Tensor) -> dict[str, Tensor]:
    """The tensors of a kept table; rows float32 [rows, dim]."""
    return CODECS[spec.codec].encode(rows)


def keep_rows(spec: TableSpec, chunks: Iterable[tuple[int, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a kept table, from chunks of rows, (first row, float32 [n, dim]), that together are the table."""
    codec = CODECS[spec.codec]
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in spec.tensors().items()}
    for start, rows in chunks:
        for name, part in codec.encode(rows).items():
            tensors[name][start : start + len(rows)] = part
    return tensors


def build_replaced(
    spec: TableSpec,
    *,
    centre: Tensor,
    scale: float,
    codebook: Tensor | None,
    codes: np.ndarray,
    levels: np.ndarray,
    read_rows: ReadRows,
) -> dict[str, Tensor]:
    """The tensors of a replaced table.

    centre float32 [dim]; codebook int8 [entries, dim]; codes uint8 [rows, >= depth]; levels int8 [rows] numbers the
    level of the spec that each id is in, -1 for none.
    """
    contents = []
    for number, level in enumerate(spec.levels):
        ids = np.flatnonzero(levels == number).astype(np.int64)
        stored = level.kind == "rows"
        parts = CODECS[level.codec].encode(read_rows(ids)) if stored else {}
        contents.append(LevelContent(ids, codes[ids, spec.base_depth : level.depth], parts))
    base = pack_codes(codes[:, : spec.base_depth], spec.stage_bits[: spec.base_depth]) if spec.base_bits() else codes
    return join_replaced(spec, centre=centre, scale=scale, codebook=codebook, base=base, levels=contents)


def join_replaced(
    spec: TableSpec,
    *,
    centre: Tensor,
    scale: float,
    codebook: Tensor | None,
    base: np.ndarray,
    levels: Sequence[LevelContent],
) -> dict[str, Tensor]:
    """The tensors of a replaced table whose base codes are packed (uint8) and whose levels are gathered already."""
    tensors = _build_frame(spec, centre, scale, codebook)
    if spec.base_bits():
        tensors["base"] = torch.from_numpy(base)
    for number, (level, content) in enumerate(zip(spec.levels, levels, strict=True)):
        ids = order_ids(level.index, content.ids)
        tensors[f"level{number}_index"] = torch.from_numpy(build_index(level.index, ids))
        order = np.searchsorted(content.ids, ids)
        if level.kind == "codes":
            packed = pack_codes(content.codes[order], spec.stage_bits[spec.base_depth : level.depth])
            tensors[f"level{number}_codes"] = torch.from_numpy(packed)
        else:
            at = torch.from_numpy(order)
            tensors |= {f"level{number}_{name}": part[at] for name, part in content.parts.items()}
    return tensors


def _build_frame(spec: TableSpec, centre: Tensor, scale: float, codebook: Tensor | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {"frame": torch.cat([torch.tensor([scale]), centre]).to(torch.float32)}
    if spec.stages:
        assert codebook is not None
        tensors["codebook"] = codebook[: sum(spec.stages)].contiguous()
    return tensors
