"""int4 rows with greedy clipping (Guan et al., "Post-Training 4-bit Quantization on Embedding Tables", 1911.02079)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding.bits import pack_codes, packed_bytes, read_codes
from memrec_convert.lab.held import HeldTable, number_shapes
from memrec_convert.lab.rivals.rival import Option
from memrec_convert.lab.view import TableView

LEVELS = 15
STEPS = 60
STEP_SHARE = 1 / 100
"""A clip moves by this share of the row's range: at most STEPS / 100 of it in all."""


@dataclass(frozen=True)
class Int4Rows:
    """Whole tables at four bits a number; each row has its own fp16 scale and shift, its range clipped greedily."""

    name: str = "int4 rows (greedy clipping)"

    def options(self, view: TableView) -> list[Option]:
        """The table as a whole."""
        shapes = number_shapes(range=(HALF, view.count, 2)) | {
            "codes": (torch.uint8, (packed_bytes(view.count, 4 * view.dim),))
        }
        sample = view.sample.rows.residual + view.survey.centre
        codes, ranges = clip_greedily(sample)
        distortion = view.estimate(view.distances(sample - (codes * ranges[:, 1:] + ranges[:, :1])))
        return [Option("int4 rows", shapes, distortion, lambda: make_int4(view))]


@dataclass(frozen=True)
class HalfRows:
    """Numbers as fp16."""

    def shapes(self, rows: int, width: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """One tensor."""
        return {"rows": (torch.float16, (rows, width))}

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Rounded to the nearest."""
        return {"rows": values.to(torch.float16)}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Exact."""
        return parts["rows"].to(torch.float32)


HALF = HalfRows()


def make_int4(view: TableView) -> HeldTable:
    """All rows of the table."""
    packed, ranges = [], []
    for piece in view.chunks():
        codes, bounds = clip_greedily(view.rows[piece])
        packed.append(codes.numpy().astype(np.uint8))
        ranges.append(bounds)
    codes_of_all = pack_codes(np.concatenate(packed), [4] * view.dim)
    return HeldTable({"range": (HALF, torch.cat(ranges))}, {"codes": torch.from_numpy(codes_of_all)}, decode_int4)


def decode_int4(numbers: Mapping[str, Tensor], fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """shift + scale * code."""
    dim = (len(fixed["codes"]) - 8) * 2 // len(numbers["range"])
    columns = [
        read_codes(fixed["codes"], ids, entry_bits=4 * dim, first_bit=4 * column, bits=4) for column in range(dim)
    ]
    ranges = numbers["range"][ids]
    return torch.stack(columns, dim=1).to(torch.float32) * ranges[:, 1:] + ranges[:, :1]


def clip_greedily(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes 0..15 (float32 [n, dim]) and (shift, scale) as fp16 holds them (float32 [n, 2]).

    From the full range inwards: at each step whichever end hurts less moves; the best range met is kept.
    """
    low, high = rows.amin(dim=1), rows.amax(dim=1)
    step = (high - low) * STEP_SHARE
    best_low, best_high, least = low, high, _clip_error(rows, low, high)
    for _ in range(STEPS):
        from_left, from_right = _clip_error(rows, low + step, high), _clip_error(rows, low, high - step)
        left = from_left < from_right
        low, high = torch.where(left, low + step, low), torch.where(left, high, high - step)
        error = torch.minimum(from_left, from_right)
        better = error < least
        best_low, best_high = torch.where(better, low, best_low), torch.where(better, high, best_high)
        least = torch.minimum(error, least)
    ranges = _as_fp16(best_low, best_high)
    return _encode(rows, ranges), ranges


def _as_fp16(low: Tensor, high: Tensor) -> Tensor:
    return torch.stack([low, (high - low) / LEVELS], dim=1).to(torch.float16).to(torch.float32)


def _encode(rows: Tensor, ranges: Tensor) -> Tensor:
    scale = ranges[:, 1:]
    return torch.where(scale > 0, (rows - ranges[:, :1]) / scale, 0.0).round_().clamp_(0, LEVELS)


def _clip_error(rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
    ranges = _as_fp16(low, high)
    return (_encode(rows, ranges) * ranges[:, 1:] + ranges[:, :1] - rows).square().sum(dim=1)
