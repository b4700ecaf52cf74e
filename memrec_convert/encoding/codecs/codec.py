"""The interface of a row codec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class RowCodec(Protocol):
    """Holds rows of `dim` floats as one or more tensors, each with one entry per row."""

    @property
    def name(self) -> str:
        """The name under which specs and reports know it."""
        ...

    def parts(self, rows: int, dim: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Per part its dtype and shape, for `rows` rows."""
        ...

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """The parts that hold `rows` (float32 [n, dim])."""
        ...

    def decode(self, parts: Mapping[str, Tensor], numbers: Tensor, dim: int) -> Tensor:
        """The rows with these numbers (int64 [n]) as float32 [n, dim]."""
        ...
