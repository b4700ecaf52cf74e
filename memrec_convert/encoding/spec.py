"""What a table becomes: its form, its levels, and the tensors that hold it, with their bytes.

A spec says everything about a table's representation but the numbers in it. The planner counts bytes with it, the
module allocates by it, the artifact stores it, so the three cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch

from memrec_convert.encoding.bits import packed_bytes
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.index import KEY_BITS, MOST_KEYS_PER_BUCKET, IndexSpec
from memrec_convert.kernels.hashing import WEIGHT_LANES

MOST_ROWS = 1 << 48
"""Rows of a table, far beyond any: what is more in a file is damage, and 64-bit sums of ids stay safe."""
MOST_HASHED_ROWS = (1 << 31) - 1
"""Tokens or weight blocks of a group: a 32-bit hash times this number stays below 2**63."""
MOST_TOKENS = 64
"""Hashed tokens that one id may sum."""

LARGEST_ENTRY = 127
LARGEST_SUM = 32767
"""Entries of a codebook are int8 without -128, and shifts are such that no sum of them leaves int16."""

TensorShapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class LevelSpec:
    """An indexed level of hot ids: `kind` "codes" (down to `depth` tokens) or "rows" (stored, in `codec`)."""

    kind: str
    index: IndexSpec
    depth: int = 0
    codec: str = ""


@dataclass(frozen=True)
class HashSpec:
    """The hashed encoders of one group: `rows` tokens, k summed; `blocks` of weights, k_weights summed (0: none).

    `token_codec` is "int8" (one fixed-point scale) or "fp32".
    """

    group: str
    dim: int
    rows: int
    k: int
    blocks: int = 0
    k_weights: int = 0
    token_codec: str = "int8"

    def tensors(self) -> TensorShapes:
        """The shared token table, its scale, and the weight table."""
        dtype = torch.int8 if self.token_codec == "int8" else torch.float32
        shapes: TensorShapes = {"tokens": (dtype, (self.rows, self.dim)), "scale": (torch.float32, (1,))}
        if self.k_weights:
            shapes["weights"] = (torch.float16, (self.blocks * WEIGHT_LANES,))
        return shapes


@dataclass(frozen=True)
class TableSpec:
    """The representation of one table of `rows` x `dim`.

    form         "kept" (all rows in `codec`) or "replaced"
    stages       codebook sizes, powers of two, as far as any id uses them
    shifts       per stage: its entries count in units of scale * 2**-shift; never falling
    base_depth   tokens stored for every row; 0 is the centre alone (the mean row)
    hashing      set where ids outside every level take hashed tokens in place of base codes
    levels       at most two, disjoint
    """

    rows: int
    dim: int
    form: str
    codec: str = ""
    stages: tuple[int, ...] = ()
    shifts: tuple[int, ...] = ()
    base_depth: int = 0
    hashing: HashSpec | None = None
    hash_seed: int = 0
    levels: tuple[LevelSpec, ...] = field(default=())

    @property
    def stage_bits(self) -> tuple[int, ...]:
        """Bits of a code at each stage."""
        return tuple(size.bit_length() - 1 for size in self.stages)

    @property
    def first_entries(self) -> tuple[int, ...]:
        """Per stage the number of its first entry in the joint codebook."""
        firsts, total = [], 0
        for size in self.stages:
            firsts.append(total)
            total += size
        return tuple(firsts)

    def base_bits(self) -> int:
        """Bits of the code that every row has."""
        return sum(self.stage_bits[: self.base_depth])

    def level_bits(self, level: LevelSpec) -> int:
        """Bits of the code that an id of this level has beyond the base."""
        return sum(self.stage_bits[self.base_depth : level.depth]) if level.kind == "codes" else 0

    def tensors(self) -> TensorShapes:
        """Name, dtype and shape of every tensor of this table, without those of a shared group."""
        if self.form == "kept":
            return CODECS[self.codec].parts(self.rows, self.dim)
        shapes: TensorShapes = {"frame": (torch.float32, (1 + self.dim,))}
        if self.stages:
            shapes["codebook"] = (torch.int8, (sum(self.stages), self.dim))
        if self.base_bits():
            shapes["base"] = (torch.uint8, (packed_bytes(self.rows, self.base_bits()),))
        for number, level in enumerate(self.levels):
            shapes[f"level{number}_index"] = (torch.uint8, (level.index.nbytes,))
            if level.kind == "codes":
                size = packed_bytes(level.index.count, self.level_bits(level))
                shapes[f"level{number}_codes"] = (torch.uint8, (size,))
            else:
                for part, shape in CODECS[level.codec].parts(level.index.count, self.dim).items():
                    shapes[f"level{number}_{part}"] = shape
        return shapes

    def to_json(self) -> dict[str, Any]:
        """As plain values; `table_spec_from_json` is the way back."""
        if self.form == "kept":
            return {"rows": self.rows, "dim": self.dim, "form": "kept", "codec": self.codec}
        levels = [
            {"kind": level.kind, "count": level.index.count, "index": level.index.kind}
            | ({"key_bits": level.index.key_bits} if level.index.kind == "keys" else {})
            | ({"depth": level.depth} if level.kind == "codes" else {"codec": level.codec})
            for level in self.levels
        ]
        plain: dict[str, Any] = {"rows": self.rows, "dim": self.dim, "form": "replaced", "stages": list(self.stages)}
        plain |= {"shifts": list(self.shifts), "base_depth": self.base_depth, "levels": levels}
        if self.hashing is not None:
            plain |= {"hashing": asdict(self.hashing), "hash_seed": self.hash_seed}
        return plain


def table_spec_from_json(plain: Mapping[str, Any]) -> TableSpec:
    """A spec from what `to_json` gave; ValueError, KeyError or TypeError where it is none or contradicts itself."""
    rows, dim = _whole(plain["rows"], 1, MOST_ROWS), _whole(plain["dim"], 1, MOST_ROWS)
    if plain["form"] == "kept":
        if plain["codec"] not in CODECS:
            raise ValueError(f"row codec {plain['codec']!r} is unknown")
        return TableSpec(rows, dim, "kept", codec=plain["codec"])
    if plain["form"] != "replaced":
        raise ValueError(f"form {plain['form']!r} is unknown")
    stages = tuple(_whole(size, 2, 256) for size in plain["stages"])
    shifts = tuple(_whole(shift, 0, 7) for shift in plain["shifts"])
    base_depth = _whole(plain["base_depth"], 0, len(stages))
    hashing = HashSpec(**plain["hashing"]) if "hashing" in plain else None
    levels = tuple(_level_from_json(level, rows, base_depth, len(stages)) for level in plain["levels"])
    spec = TableSpec(
        rows,
        dim,
        "replaced",
        stages=stages,
        shifts=shifts,
        base_depth=base_depth,
        levels=levels,
        hashing=hashing,
        hash_seed=_whole(plain.get("hash_seed", 0), 0, 2**32 - 1),
    )
    _check(spec)
    return spec


def count_bytes(shapes: Iterable[tuple[torch.dtype, tuple[int, ...]]]) -> int:
    """Bytes of tensors of these dtypes and shapes."""
    total = 0
    for dtype, shape in shapes:
        size = dtype.itemsize
        for length in shape:
            size *= length
        total += size
    return total


@lru_cache(maxsize=256)
def count_row_bytes(codec: str, dim: int) -> int:
    """Bytes of one row that is stored in a row codec."""
    return count_bytes(CODECS[codec].parts(1, dim).values())


def count_table_bytes(specs: Iterable[TableSpec]) -> int:
    """Bytes of the tensors of tables side by side, those of a shared group once."""
    specs = tuple(specs)
    groups = {spec.hashing.group: spec.hashing for spec in specs if spec.hashing is not None}
    shapes = [shape for spec in specs for shape in spec.tensors().values()]
    return count_bytes(shapes) + count_bytes(shape for group in groups.values() for shape in group.tensors().values())


def _level_from_json(plain: Mapping[str, Any], rows: int, base_depth: int, stages: int) -> LevelSpec:
    count = _whole(plain["count"], 1, rows)
    if plain["index"] == "bitmap":
        index = IndexSpec("bitmap", rows, count)
    elif plain["index"] == "keys":
        index = IndexSpec("keys", rows, count, _whole(plain["key_bits"], KEY_BITS[0], KEY_BITS[-1]))
        if index.key_bits > index.mixed_bits:
            raise ValueError(f"keys of {index.key_bits} bits are wider than the ids of {rows} rows")
        if count > MOST_KEYS_PER_BUCKET * index.buckets:
            raise ValueError(f"{count} keys of {index.key_bits} bits are too many for {index.buckets} buckets")
    else:
        raise ValueError(f"index {plain['index']!r} is unknown")
    if plain["kind"] == "codes":
        return LevelSpec("codes", index, depth=_whole(plain["depth"], base_depth + 1, stages))
    if plain["kind"] != "rows" or plain["codec"] not in CODECS:
        raise ValueError(f"level {plain['kind']!r} in codec {plain.get('codec')!r} is unknown")
    return LevelSpec("rows", index, codec=plain["codec"])


def _check(spec: TableSpec) -> None:
    if any(size & (size - 1) for size in spec.stages):
        raise ValueError(f"codebook sizes {list(spec.stages)} are not powers of two")
    if len(spec.shifts) != len(spec.stages) or list(spec.shifts) != sorted(spec.shifts):
        raise ValueError(f"shifts {list(spec.shifts)} do not go with the stages {list(spec.stages)}")
    worst = 0
    for shift, before in zip(spec.shifts, (0, *spec.shifts), strict=False):
        worst = (worst << (shift - before)) + LARGEST_ENTRY
    if worst > LARGEST_SUM:
        raise ValueError(f"sums of tokens with the shifts {list(spec.shifts)} can reach {worst}, beyond int16")
    if len(spec.levels) > 2:
        raise ValueError(f"{len(spec.levels)} levels, where two are the most")
    if spec.hashing is not None:
        hashing = spec.hashing
        if not isinstance(hashing.group, str):
            raise ValueError(f"the hashed group's name {hashing.group!r} is no text")
        for name, least, most in (
            ("dim", 1, MOST_ROWS),
            ("rows", 1, MOST_HASHED_ROWS),
            ("k", 1, MOST_TOKENS),
            ("blocks", 0, MOST_HASHED_ROWS),
            ("k_weights", 0, WEIGHT_LANES),
        ):
            _whole(getattr(hashing, name), least, most)
        if hashing.dim != spec.dim or spec.base_depth or hashing.token_codec not in ("int8", "fp32"):
            raise ValueError("the hashed group does not fit the table")
        if (hashing.k_weights > 0) != (hashing.blocks > 0):
            raise ValueError("the weight table of the hashed group is contradictory")


def _whole(value: object, least: int, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise ValueError(f"{value!r} is not a whole number from {least} to {'any' if most is None else most}")
    return value
