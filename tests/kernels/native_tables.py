"""Modules over random tables, and what the kernel gives for them beside what the torch reference gives."""

from __future__ import annotations

import torch
from random_tables import random_kept, random_table
from torch import Tensor

from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag

DIMS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 100, 127, 128, 129, 160, 200, 255, 256)
"""Widths on both sides of every bundle of lanes and its multiples."""
KINDS = (
    (),
    ("codes",),
    ("int8",),
    ("fp32",),
    ("codes", "fp16"),
    ("bf16", "codes"),
    ("codes", "codes"),
    ("int8", "fp32"),
)
CODECS = ("fp32", "bf16", "fp16", "int8")


def make_bag(
    seed: int, *, base: str = "codes", kinds: tuple[str, ...] = ("codes", "int8"), dim: int = 32, **choices: object
) -> CompressedEmbeddingBag:
    """A filled bag over a random table."""
    table = random_table(seed, base, kinds, dim)
    module = CompressedEmbeddingBag(table.spec, name=f"t{seed}", group=table.group, **choices)
    module.fill(table.tensors)
    return module


def make_embedding(
    seed: int, *, base: str = "codes", kinds: tuple[str, ...] = ("codes", "int8"), dim: int = 32, **choices: object
) -> CompressedEmbedding:
    """A filled embedding over a random table."""
    table = random_table(seed, base, kinds, dim)
    module = CompressedEmbedding(table.spec, name=f"t{seed}", group=table.group, **choices)
    module.fill(table.tensors)
    return module


def make_kept(seed: int, codec: str, dim: int, *, rows: int = 300, **choices: object) -> CompressedEmbeddingBag:
    """A filled bag over a kept table."""
    spec, tensors, _ = random_kept(seed, codec, rows=rows, dim=dim)
    module = CompressedEmbeddingBag(spec, name=f"k{seed}", **choices)
    module.fill(tensors)
    return module


def draw_ids(rows: int, count: int, seed: int = 0) -> Tensor:
    """Random ids inside a table, int64 [count]."""
    return torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(seed))


def through_kernel(module: CompressedEmbeddingBag | CompressedEmbedding) -> bool:
    """Whether the module's lookups run in the kernel."""
    return module.kernel() is not None


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two float32 tensors have the same shape and the same bits."""
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


def move_off_alignment(tensor: Tensor, by: int = 1) -> Tensor:
    """A copy whose memory begins `by` bytes behind an aligned address."""
    raw = bytearray(tensor.numel() * tensor.element_size() + 64)
    aligned = -torch.frombuffer(raw, dtype=torch.uint8).data_ptr() % 8
    moved = torch.frombuffer(raw, dtype=tensor.dtype, count=tensor.numel(), offset=aligned + by).view(tensor.shape)
    assert moved.data_ptr() % 8 == by % 8
    return moved.copy_(tensor)
