"""Rows that are sums of int8 tokens: codes of every depth, int8 rows, and the mean row, all in one gather.

A row is float32(sum of tokens) * scale + centre. A stored int8 row is a sum of one token, with a centre of -0 so that
the addition changes no bit; the mean row is a sum of none. Token 0 of the pool is zero: it fills up shorter sums.
Sums are of numbers below 2^15 times powers of two, so float32 holds each of them exactly, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.exports.onnx_graph.levels import Places, pick_places
from memrec_convert.lookup import CompressedTable

WORD_BITS, WORD_BYTES = 64, 8


@dataclass(frozen=True)
class Field:
    """One stage of one table's codes: its first bit among all packed codes, its mask, and its first token."""

    first_bit: int = 0
    mask: int = 0
    token: int = 0


@dataclass(frozen=True)
class Stored:
    """Int8 rows in a level: which ids have one (bool [n, tables]), its token and its scale [n, tables]."""

    hit: str
    token: str
    scale: str


def look_up_sums(graph: Graph, tables: Sequence[CompressedTable], ids: str, places: Places | None) -> str:
    """Rows float32 [n, tables, dim] of ids int64 [n, tables]; not to be used for ids that take another form."""
    dim = tables[0].spec.dim
    pool = graph.pool(f"tokens {dim}")
    pool.add(graph.zero_token(dim))
    stored = _find_stored(graph, tables, places) if places is not None else []
    base_stages = max(1 if stored else 0, *(_count_base(table) for table in tables))
    base = _read_base(graph, tables, ids, base_stages) if base_stages else ""
    for level in stored:
        alone = graph.op("Mul", graph.unsqueeze(level.token, 2), graph.ints(1, *[0] * (base_stages - 1)))
        base = graph.op("Where", graph.unsqueeze(level.hit, 2), alone, base)
    more, more_stages = _read_levels(graph, tables, places) if places is not None else ("", 0)
    parts = [part for part in (base, more) if part]
    centres = graph.const(np.stack([_centre(table) for table in tables]))
    if not parts:
        return graph.op("Expand", centres, _grid(graph, ids, 1))
    entries = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=2)
    tokens = graph.cast(graph.op("Gather", pool.name, entries), "float32")
    total = _sum_tokens(graph, tokens, [_multipliers(table, base_stages, more_stages) for table in tables])
    scaled = graph.op("Mul", total, _read_scales(graph, tables, ids, stored))
    for level in stored:
        nothing = graph.const(np.array(-0.0, dtype=np.float32))
        centres = graph.op("Where", graph.unsqueeze(level.hit, 2), nothing, centres)
    return graph.op("Add", scaled, centres)


def _count_base(table: CompressedTable) -> int:
    """Tokens that every id sums before those of its level."""
    return table.spec.base_depth if table.spec.form == "replaced" else 1


def _centre(table: CompressedTable) -> np.ndarray:
    if table.spec.form == "kept":
        return np.full(table.spec.dim, -0.0, dtype=np.float32)
    centre: np.ndarray = table.get_buffer("frame")[1:].numpy()
    return centre


def _read_base(graph: Graph, tables: Sequence[CompressedTable], ids: str, stages: int) -> str:
    """Tokens int64 [n, tables, stages]: of the base's codes, or the row itself where int8 rows are kept."""
    fields, bits, steps = [], [], []
    for table in tables:
        spec, kept = table.spec, table.spec.form == "kept"
        bits.append(spec.base_bits())
        steps.append([int(kept)] + [0] * (stages - 1))
        own = [Field()] * stages
        if kept:
            own[0] = Field(token=graph.pool(f"tokens {spec.dim}").add(table.get_buffer("rows")))
        elif spec.base_bits():
            own[: spec.base_depth] = _list_fields(graph, table, "base", 0, spec.base_depth)
        fields.append(own)
    tokens = _unpack(graph, ids, bits, fields)
    if not np.any(steps):
        return tokens
    return graph.op("Add", tokens, graph.op("Mul", graph.unsqueeze(ids, 2), graph.const(np.array(steps, np.int64))))


def _read_levels(graph: Graph, tables: Sequence[CompressedTable], places: Places) -> tuple[str, int]:
    """Tokens int64 [n, tables, stages] that levels of codes add, token 0 where an id is in none; and the stages."""
    depths = [
        level.depth - table.spec.base_depth for table in tables for level in table.spec.levels if level.kind == "codes"
    ]
    total, stages = "", max(depths, default=0)
    for number in (0, 1) if stages else ():
        picked = pick_places(graph, tables, places, number, lambda level: level.kind == "codes")
        if picked is None:
            continue
        bits, fields = [], []
        for table in tables:
            spec, own = table.spec, [Field()] * stages
            level = spec.levels[number] if number < len(spec.levels) else None
            coded = level is not None and level.kind == "codes"
            bits.append(spec.level_bits(level) if coded and level is not None else 0)
            if coded and level is not None:
                first, last = spec.base_depth, level.depth
                own[: last - first] = _list_fields(graph, table, f"level{number}_codes", first, last)
            fields.append(own)
        tokens = _unpack(graph, picked.place, bits, fields)
        tokens = graph.op("Mul", tokens, graph.unsqueeze(graph.cast(picked.hit, "int64"), 2))
        total = graph.op("Add", total, tokens) if total else tokens
    return total, stages


def _list_fields(graph: Graph, table: CompressedTable, part: str, first: int, last: int) -> list[Field]:
    """The fields of stages first..last-1, which lie side by side in an entry of this tensor."""
    spec = table.spec
    position = _add_codes(graph, table.get_buffer(part))
    codebook = graph.pool(f"tokens {spec.dim}").add(table.get_buffer("codebook"))
    fields = []
    for stage in range(first, last):
        fields.append(Field(position, spec.stages[stage] - 1, codebook + spec.first_entries[stage]))
        position += spec.stage_bits[stage]
    return fields


def _unpack(graph: Graph, entries: str, bits: Sequence[int], fields: Sequence[Sequence[Field]]) -> str:
    """Tokens int64 [n, tables, stages] of entries int64 [n, tables]; `bits` of an entry, and fields, per table.

    Stages of which no table has more than 64 bits are read as one word, and shifted apart.
    """
    tokens = np.array([[field.token for field in row] for row in fields], dtype=np.int64)
    if not any(field.mask for row in fields for field in row):
        return graph.op("Expand", graph.const(tokens), _grid(graph, entries, len(tokens[0])))
    start = graph.op("Mul", entries, graph.ints(*bits))
    codes = []
    for first, last in _cut_stages(fields):
        part = np.array([[field.first_bit for field in row[first:last]] for row in fields])
        masks = np.array([[field.mask for field in row[first:last]] for row in fields], dtype=np.uint64)
        lowest = np.where(masks > 0, part, 1 << 62).min(axis=1)
        lowest = np.where(masks.any(axis=1), lowest, 0)
        shifts = np.where(masks > 0, part - lowest[:, None], 0).astype(np.uint64)
        word = graph.unsqueeze(_read_words(graph, graph.op("Add", start, graph.ints(*lowest.tolist()))), 2)
        shifted = graph.op("BitShift", word, graph.const(shifts), direction="RIGHT")
        codes.append(graph.op("BitwiseAnd", shifted, graph.const(masks)))
    joined = codes[0] if len(codes) == 1 else graph.op("Concat", *codes, axis=2)
    return graph.op("Add", graph.cast(joined, "int64"), graph.const(tokens))


def _grid(graph: Graph, entries: str, stages: int) -> str:
    """The shape [n, tables, stages], of entries [n, tables]."""
    return graph.op("Concat", graph.op("Shape", entries), graph.ints(stages), axis=0)


def _cut_stages(fields: Sequence[Sequence[Field]]) -> list[tuple[int, int]]:
    """Ranges of stages, as long as 64 bits allow in every table."""
    widths = np.array([[field.mask.bit_length() for field in row] for row in fields])
    cuts, first = [], 0
    for stage in range(widths.shape[1]):
        if widths[:, first : stage + 1].sum(axis=1).max() > WORD_BITS:
            cuts.append((first, stage))
            first = stage
    return [*cuts, (first, widths.shape[1])]


def _read_words(graph: Graph, bit: str) -> str:
    """64 bits of the packed codes from a bit on, uint64; the next word gives what this one lacks, maybe nothing.

    A shift by all 64 bits is not defined: two make up for it.
    """
    wide = graph.cast(bit, "uint64")
    at = graph.cast(graph.op("BitShift", wide, graph.const(np.uint64(6)), direction="RIGHT"), "int64")
    low = graph.op("BitwiseAnd", wide, graph.const(np.uint64(63)))
    here = graph.op("BitShift", graph.op("Gather", "codes", at), low, direction="RIGHT")
    after = graph.op("Gather", "codes", graph.op("Add", at, graph.ints(1)))
    after = graph.op("BitShift", after, graph.const(np.uint64(1)), direction="LEFT")
    rest = graph.op("BitwiseXor", low, graph.const(np.uint64(63)))
    return graph.op("BitwiseOr", here, graph.op("BitShift", after, rest, direction="LEFT"))


def _add_codes(graph: Graph, packed: torch.Tensor) -> int:
    """The first bit of packed codes in the pool, which holds them as whole words; their slack covers a word behind."""
    words = torch.nn.functional.pad(packed, (0, -len(packed) % WORD_BYTES)).view(torch.int64).numpy().view(np.uint64)
    return WORD_BITS * graph.pool("codes").add(packed, torch.from_numpy(words))


def _multipliers(table: CompressedTable, base_stages: int, more_stages: int) -> list[float]:
    """What each token of a sum counts, in units of the scale: 2^-shift of its stage."""
    spec = table.spec
    shifts = [2.0**-shift for shift in spec.shifts]
    base, more = shifts[: spec.base_depth], shifts[spec.base_depth :][:more_stages]
    return [*base, *[1.0] * (base_stages - len(base)), *more, *[1.0] * (more_stages - len(more))]


def _sum_tokens(graph: Graph, tokens: str, multipliers: Sequence[Sequence[float]]) -> str:
    """float32 [n, tables, dim] of tokens [n, tables, stages, dim]."""
    weights = np.array(multipliers, dtype=np.float32)
    if weights.shape[1] == 1 and np.all(weights == 1):
        return graph.op("Squeeze", tokens, graph.ints(2))
    if np.all(weights == 1):
        return graph.op("ReduceSum", tokens, graph.ints(2), keepdims=0)
    return graph.op("Squeeze", graph.op("MatMul", graph.const(weights[:, None]), tokens), graph.ints(2))


def _read_scales(graph: Graph, tables: Sequence[CompressedTable], ids: str, stored: Sequence[Stored]) -> str:
    """The scale of each sum, float32 [n, tables, 1] or [tables, 1]."""
    kept = np.array([table.spec.form == "kept" for table in tables])
    own = [1.0 if table.spec.form == "kept" else float(table.get_buffer("frame")[0]) for table in tables]
    scale = graph.const(np.array(own, dtype=np.float32))
    if kept.any():
        starts = [
            graph.pool("scales").add(t.get_buffer("scale")) if k else 0 for t, k in zip(tables, kept, strict=True)
        ]
        at = graph.op("Add", graph.op("Mul", ids, graph.ints(*map(int, kept))), graph.ints(*starts))
        scale = graph.op("Where", graph.const(kept), graph.op("Gather", row_scales(graph), at), scale)
    for level in stored:
        scale = graph.op("Where", level.hit, level.scale, scale)
    return graph.unsqueeze(scale, -1)


def row_scales(graph: Graph) -> str:
    """The scales of all int8 rows, float32; widened once."""
    made = graph.made("scales")
    if made is not None:
        return made
    with graph.once():
        return graph.keep("scales", graph.cast("scales", "float32"))


def _find_stored(graph: Graph, tables: Sequence[CompressedTable], places: Places) -> list[Stored]:
    """The int8 rows among the levels of these tables, by the number of the level.

    A stored row takes the first place of a sum, whose token counts 2^-shift: its scale makes up for that.
    """
    found = []
    for number in (0, 1):
        picked = pick_places(graph, tables, places, number, lambda level: level.codec == "int8")
        if picked is None:
            continue
        tokens, scales, factors = [], [], []
        for table in tables:
            spec, has = table.spec, picked.has(table)
            dim = f"tokens {spec.dim}"
            tokens.append(graph.pool(dim).add(table.get_buffer(f"level{number}_rows")) if has else 0)
            scales.append(graph.pool("scales").add(table.get_buffer(f"level{number}_scale")) if has else 0)
            factors.append(2.0 ** spec.shifts[0] if spec.base_depth else 1.0)
        at = graph.op("Add", picked.place, graph.ints(*scales))
        scale = graph.op("Gather", row_scales(graph), at)
        if any(factor != 1 for factor in factors):
            scale = graph.op("Mul", scale, graph.const(np.array(factors, dtype=np.float32)))
        found.append(Stored(picked.hit, graph.op("Add", picked.place, graph.ints(*tokens)), scale))
    return found
