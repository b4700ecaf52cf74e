"""Random tables in every form, and a slow decoder that shares no code with the package's."""

from __future__ import annotations

from dataclasses import dataclass

import mmh3
import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec
from memrec_convert.encoding.build import build_kept, build_replaced
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.index import KEY_BITS, MOST_KEYS_PER_BUCKET, IndexSpec
from memrec_convert.lookup import HashGroup

BASES = ("codes", "mean", "hashed", "weighted", "fp32-hashed")


@dataclass(frozen=True)
class RandomTable:
    """A replaced table with everything that went into it."""

    spec: TableSpec
    tensors: dict[str, Tensor]
    group: HashGroup | None
    centre: np.ndarray
    scale: np.float32
    codebook: np.ndarray
    codes: np.ndarray
    levels: np.ndarray
    rows: np.ndarray


def random_index(draw: np.random.Generator, rows: int, count: int) -> IndexSpec:
    """Any layout that can hold `count` of `rows` ids."""
    layouts = [IndexSpec("bitmap", rows, count)]
    for bits in KEY_BITS:
        spec = IndexSpec("keys", rows, count, bits)
        if bits <= spec.mixed_bits and count <= MOST_KEYS_PER_BUCKET * spec.buckets:
            layouts.append(spec)
    return layouts[int(draw.integers(len(layouts)))]


def random_hashing(draw: np.random.Generator, dim: int, base: str) -> HashSpec | None:
    """The hashed group of a base form, None for the others."""
    if base in ("codes", "mean"):
        return None
    weighted = base == "weighted"
    return HashSpec(
        f"dim{dim}",
        dim,
        int(draw.integers(1, 50)),
        int(draw.integers(1, 5)),
        blocks=int(draw.integers(1, 4)) if weighted else 0,
        k_weights=int(draw.integers(1, 17)) if weighted else 0,
        token_codec="fp32" if base == "fp32-hashed" else "int8",
    )


def random_spec(
    draw: np.random.Generator, base: str, kinds: tuple[str, ...], dim: int = 0
) -> tuple[TableSpec, np.ndarray]:
    """A spec with this base and levels of these kinds ("codes" or a codec's name), and the level of each row.

    Rows are `dim` wide, or a few numbers where it is 0.
    """
    rows, dim = int(draw.integers(20, 400)), dim or int(draw.integers(1, 6))
    depth = int(draw.integers(1, 4)) if base == "codes" else 0
    stages = depth + sum(kind == "codes" for kind in kinds) * int(draw.integers(1, 4))
    levels = np.full(rows, -1, dtype=np.int8)
    order = draw.permutation(rows)
    specs = []
    for number, kind in enumerate(kinds):
        count = int(draw.integers(1, rows // 2))
        members = order[number * (rows // 2) :][:count]
        levels[members] = number
        index = random_index(draw, rows, count)
        if kind == "codes":
            specs.append(LevelSpec("codes", index, depth=int(draw.integers(depth + 1, stages + 1))))
        else:
            specs.append(LevelSpec("rows", index, codec=kind))
    hashing = random_hashing(draw, dim, base)
    spec = TableSpec(
        rows,
        dim,
        "replaced",
        stages=tuple(int(1 << draw.integers(1, 9)) for _ in range(stages)),
        shifts=_draw_shifts(draw, stages),
        base_depth=depth,
        hashing=hashing,
        hash_seed=int(draw.integers(2**32)) if hashing else 0,
        levels=tuple(specs),
    )
    return spec, levels


def random_group(draw: np.random.Generator, spec: HashSpec) -> HashGroup:
    """A group with random tokens and weights."""
    group = HashGroup(spec)
    shape = (spec.rows, spec.dim)
    tokens = draw.integers(-127, 128, shape).astype(np.int8) if spec.token_codec == "int8" else draw.normal(size=shape)
    group.get_buffer("tokens").copy_(torch.from_numpy(tokens))
    group.get_buffer("scale").fill_(0.0123)
    if spec.k_weights:
        group.get_buffer("weights").copy_(torch.from_numpy(draw.normal(1, 0.5, spec.blocks * 16)))
    return group


def random_table(seed: int, base: str, kinds: tuple[str, ...], dim: int = 0) -> RandomTable:
    """A table of a random spec with random contents."""
    draw = np.random.default_rng(seed)
    spec, levels = random_spec(draw, base, kinds, dim)
    codebook = draw.integers(-127, 128, (sum(spec.stages), spec.dim)).astype(np.int8)
    codes = np.stack(
        [draw.integers(0, size, spec.rows) for size in spec.stages] or [np.zeros(spec.rows)], axis=1
    ).astype(np.uint8)
    rows = draw.normal(size=(spec.rows, spec.dim)).astype(np.float32)
    centre, scale = draw.normal(size=spec.dim).astype(np.float32), np.float32(draw.uniform(0.001, 0.1))
    tensors = build_replaced(
        spec,
        centre=torch.from_numpy(centre),
        scale=float(scale),
        codebook=torch.from_numpy(codebook),
        codes=codes,
        levels=levels,
        read_rows=lambda ids: torch.from_numpy(rows[ids]),
    )
    group = None if spec.hashing is None else random_group(draw, spec.hashing)
    return RandomTable(spec, tensors, group, centre, scale, codebook, codes, levels, rows)


def random_kept(seed: int, codec: str, *, rows: int = 30, dim: int = 4) -> tuple[TableSpec, dict[str, Tensor], Tensor]:
    """A kept table: its spec, its tensors, and the rows that it stands for after rounding."""
    original = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    spec = TableSpec(rows, dim, "kept", codec=codec)
    tensors = build_kept(spec, original)
    return spec, tensors, CODECS[codec].decode(tensors, torch.arange(rows), dim)


def decode_slowly(table: RandomTable, key: int) -> np.ndarray:
    """One row after the written description: the level's row, or centre plus a scaled sum of tokens."""
    spec, number = table.spec, int(table.levels[key])
    depth = spec.base_depth
    if number >= 0 and spec.levels[number].kind == "rows":
        codec, row = CODECS[spec.levels[number].codec], torch.from_numpy(table.rows[key : key + 1])
        return codec.decode(codec.encode(row), torch.tensor([0]), row.shape[1])[0].numpy()
    if number >= 0:
        depth = spec.levels[number].depth
    elif table.group is not None:
        return (hash_slowly(table.group, key, spec.hash_seed) + table.centre).astype(np.float32)
    if depth == 0:
        return table.centre
    out = np.zeros(spec.dim, dtype=np.float32)
    for d in range(spec.dim):
        acc, before, first = 0, 0, 0
        for stage in range(depth):
            step = spec.shifts[stage] - before if stage else 0
            acc = (acc << step) + int(table.codebook[first + int(table.codes[key, stage]), d])
            before, first = spec.shifts[stage], first + spec.stages[stage]
        factor = table.scale * np.float32(2.0**-before)
        out[d] = np.float32(np.float32(acc) * factor) + table.centre[d]
    return out


def hash_slowly(group: HashGroup, key: int, seed: int) -> np.ndarray:
    """alpha times the sum of the hashed tokens, from mmh3 and Python's integers."""
    spec, tokens = group.spec, group.get_buffer("tokens").numpy()
    h1, h2 = mmh3.hash64(key.to_bytes(8, "little", signed=True), seed, x64arch=True, signed=False)
    picked = [tokens[((((h1 + j * h2) % 2**64) >> 32) * spec.rows) >> 32] for j in range(spec.k)]
    if spec.token_codec == "int8":
        total = sum(row.astype(np.int64) for row in picked).astype(np.float32) * group.get_buffer("scale").numpy()[0]
    else:
        total = picked[0]
        for row in picked[1:]:
            total = (total + row).astype(np.float32)
    if not spec.k_weights:
        return total
    weights = group.get_buffer("weights").numpy().astype(np.float32)
    block = ((h1 % 2**32) * spec.blocks) >> 32
    alpha = weights[16 * block + h2 % 16]
    for lane in range(1, spec.k_weights):
        alpha = np.float32(alpha + weights[16 * block + (h2 >> (4 * lane)) % 16])
    return (total * alpha).astype(np.float32)


def _draw_shifts(draw: np.random.Generator, stages: int) -> tuple[int, ...]:
    """Rising shifts from 0 to 7, drawn again until no sum of entries can leave int16."""
    while True:
        shifts = sorted(int(shift) for shift in draw.integers(0, 8, stages))
        if sum(127 << (shifts[-1] - shift) for shift in shifts) <= 32767:
            return tuple(shifts)
