"""Rows as symmetric int8 with one fp16 scale each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class Int8Rows:
    """value = code * scale, codes in -127..127."""

    name: str = "int8"

    def parts(self, rows: int, dim: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Codes of rows x dim and scales of rows."""
        return {"rows": (torch.int8, (rows, dim)), "scale": (torch.float16, (rows,))}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Codes are rounded against the scale as fp16 holds it: off by at most half of it, or 2**-25 for tiny rows.

        Values beyond 127 times the largest fp16, 8.3 million, become that.
        """
        largest = rows.abs().amax(dim=1)
        scale = (largest / 127).clamp_(max=_LARGEST_FP16).to(torch.float16)
        # Small scales have few bits: one that was rounded down so far that the row's largest value would be cut takes
        # the next fp16, whose bits, read as an integer, are one more.
        cut = (largest > 127.5 * scale.to(torch.float32)) & (scale < _LARGEST_FP16)
        scale = (scale.view(torch.int16) + cut.to(torch.int16)).view(torch.float16)
        wide = scale.to(torch.float32).unsqueeze(1)
        codes = torch.where(wide > 0, rows / wide, torch.zeros_like(rows)).round_().clamp_(-127, 127)
        return {"rows": codes.to(torch.int8), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor], numbers: Tensor, dim: int) -> Tensor:
        """One product per value."""
        return parts["rows"][numbers].to(torch.float32) * parts["scale"][numbers].to(torch.float32).unsqueeze(1)


INT8 = Int8Rows()
