"""Rows as floating-point numbers: fp32 as they were, bf16 and fp16 at half the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FloatRows:
    """Rows in one floating-point type."""

    name: str
    dtype: torch.dtype

    def parts(self, rows: int, dim: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """One tensor of rows x dim."""
        return {"rows": (self.dtype, (rows, dim))}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Rounds to the nearest number of the type."""
        return {"rows": rows.to(self.dtype)}

    def decode(self, parts: Mapping[str, Tensor], numbers: Tensor, dim: int) -> Tensor:
        """Exact: every bf16 or fp16 number is an fp32 number."""
        return parts["rows"][numbers].to(torch.float32)


FP32 = FloatRows("fp32", torch.float32)
BF16 = FloatRows("bf16", torch.bfloat16)
FP16 = FloatRows("fp16", torch.float16)
