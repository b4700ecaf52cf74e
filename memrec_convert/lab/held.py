"""A table as a rival holds it: the tensors of its file, and a module that decodes rows from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.kernels.reference import pool_bags
from memrec_convert.lookup.table import register_buffers

Decode = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensor], Tensor]
"""Rows float32 [n, dim] from the numbers (float32, by name), the fixed tensors (by name) and ids int64 [n]."""


class Storage(Protocol):
    """How a matrix of numbers lies in a file."""

    def shapes(self, rows: int, width: int) -> TensorShapes:
        """Per part its dtype and shape."""
        ...

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """The parts that hold float32 [rows, width]."""
        ...

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """All of them as float32 [rows, width]."""
        ...


@dataclass(frozen=True)
class CodecStorage:
    """Each row in one of the row codecs that hold a value in whole bytes: fp32, bf16, fp16, or int8."""

    codec: str

    def shapes(self, rows: int, width: int) -> TensorShapes:
        """Those of the codec."""
        return CODECS[self.codec].parts(rows, width)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """As the codec rounds."""
        return CODECS[self.codec].encode(values)

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """All rows."""
        rows = parts["rows"]
        return CODECS[self.codec].decode(parts, torch.arange(len(rows)), rows.shape[1])


@dataclass(frozen=True)
class BlockInt8:
    """int8 with one fp32 scale for each of `blocks` equal runs of rows."""

    blocks: int = 1

    def shapes(self, rows: int, width: int) -> TensorShapes:
        """int8 numbers and their scales."""
        return {"rows": (torch.int8, (rows, width)), "scale": (torch.float32, (self.blocks,))}

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Symmetric: the largest entry of a block becomes 127."""
        runs = values.reshape(self.blocks, -1)
        scale = (runs.abs().amax(dim=1) / 127).clamp_(min=1e-30)
        codes = (runs / scale.unsqueeze(1)).round().clamp_(-127, 127).to(torch.int8)
        return {"rows": codes.reshape(values.shape), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """One product per number."""
        runs = parts["rows"].to(torch.float32).reshape(self.blocks, -1) * parts["scale"].unsqueeze(1)
        return runs.reshape(parts["rows"].shape)


Numbers = Mapping[str, tuple[Storage, Tensor]]
"""What a file holds as numbers: by name the storage and the float32 matrix [rows, width] that goes into it."""

FP32 = CodecStorage("fp32")
INT8_ROWS = CodecStorage("int8")


@dataclass(frozen=True)
class HeldTable:
    """numbers: by name the storage and what it shall hold (float32 matrices: what training may move); fixed: tensors
    that stay as they are (codes, indices); decode: rows from the two; of_ids: numbers with a row for each id alone;
    whole: of these the ones that are the rows of all ids.
    """

    numbers: Numbers
    fixed: Mapping[str, Tensor]
    decode: Decode = field(repr=False)
    of_ids: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


class RivalBag(nn.Module):
    """Stands where an nn.EmbeddingBag (sum or mean) stood; its buffers are the tensors of the rival's file."""

    def __init__(self, held: HeldTable, *, mode: str = "sum") -> None:
        super().__init__()
        self.mode = mode
        self.storages = {name: storage for name, (storage, _) in held.numbers.items()}
        self.fixed_names = tuple(held.fixed)
        self.of_ids, self.whole = held.of_ids, held.whole
        self.decode = held.decode
        stored = {
            f"{name}_{part}": tensor
            for name, (storage, values) in held.numbers.items()
            for part, tensor in storage.encode(values).items()
        }
        for name, tensor in (stored | dict(held.fixed)).items():
            register_buffers(self, {name: (tensor.dtype, tuple(tensor.shape))})
            setattr(self, name, tensor.clone())  # rows kept as they are would else be those of the original
        self.trained: dict[str, Tensor] | None = None
        """While numbers are trained: what stands for them."""
        self.values: dict[str, Tensor] = {}
        self.refresh()

    def shapes(self) -> TensorShapes:
        """Dtype and shape of every tensor of the file."""
        return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in self.named_buffers()}

    def refresh(self) -> None:
        """Reads the numbers anew from the buffers."""
        self.values = {name: self.storages[name].decode(self._parts(name)) for name in self.storages}

    def store(self, values: Mapping[str, Tensor]) -> None:
        """Rounds new numbers into the buffers."""
        for name, matrix in values.items():
            for part, tensor in self.storages[name].encode(matrix).items():
                self.get_buffer(f"{name}_{part}").copy_(tensor)
        self.refresh()

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of ids (int64 [n]), float32 [n, dim]."""
        fixed = {name: self.get_buffer(name) for name in self.fixed_names}
        return self.decode(self.values if self.trained is None else self.trained, fixed, ids)

    def forward(self, ids: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """As nn.EmbeddingBag: ids int64 [n], offsets int64 [bags] -> float32 [bags, dim]."""
        rows = self.lookup(ids)
        if per_sample_weights is None and len(offsets) == len(ids) and torch.equal(offsets, torch.arange(len(ids))):
            return rows
        return pool_bags(rows, offsets, weights=per_sample_weights, mode=self.mode, counted=None)

    def _parts(self, name: str) -> dict[str, Tensor]:
        parts = self.storages[name].shapes(1, 1)
        return {part: self.get_buffer(f"{name}_{part}") for part in parts}


def number_shapes(**numbers: tuple[Storage, int, int]) -> TensorShapes:
    """Shapes of the tensors behind numbers given as name=(storage, rows, width)."""
    return {
        f"{name}_{part}": shape
        for name, (storage, rows, width) in numbers.items()
        for part, shape in storage.shapes(rows, width).items()
    }
