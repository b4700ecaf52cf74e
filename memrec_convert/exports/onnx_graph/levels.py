"""Which place an id has in the levels of its table: bitmaps by running counts, keys by a look at the whole bucket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memrec_convert.encoding.index import LINE_BYTES, MIX_FACTORS, IndexSpec, list_ids, mix_ids
from memrec_convert.encoding.spec import LevelSpec
from memrec_convert.errors import ExportError
from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.lookup import CompressedTable

_ABSENT = -(1 << 30)
KEY_PLANES = 4
IDS_PER_BUCKET = 4
MOST_KEYS = 255
"""In one bucket: its size is a byte, and a lookup compares that many keys."""


@dataclass(frozen=True)
class Places:
    """Places int64 [n, columns], negative where an id is not in the level; `column` is {(table, level): column}."""

    name: str
    column: dict[tuple[int, int], int]


def find_places(graph: Graph, tables: Sequence[CompressedTable], ids: str) -> Places | None:
    """The place of ids (int64 [n, tables], inside) in every level of these tables; None where there is no level."""
    levels = [(t, number) for t, table in enumerate(tables) for number in range(len(table.spec.levels))]
    parts: list[str] = []
    column: dict[tuple[int, int], int] = {}
    for kind, find in (("bitmap", _find_in_bitmaps), ("keys", _find_in_keys)):
        own = [(t, number) for t, number in levels if tables[t].spec.levels[number].index.kind == kind]
        if own:
            asked = take_columns(graph, ids, [t for t, _ in own], len(tables))
            parts.append(find(graph, [_read_level(tables[t], number) for t, number in own], asked))
            column |= {level: len(column) + at for at, level in enumerate(own)}
    if not parts:
        return None
    return Places(parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=1), column)


@dataclass(frozen=True)
class Level:
    """The index of a level, with the name of its table."""

    table: str
    spec: IndexSpec
    index: torch.Tensor


@dataclass(frozen=True)
class Picked:
    """One level per table: which ids are in it (bool [n, tables]), and their places, 0 for the others."""

    hit: str
    place: str
    has: Callable[[CompressedTable], bool]


def pick_places(
    graph: Graph, tables: Sequence[CompressedTable], places: Places, number: int, fits: Callable[[LevelSpec], bool]
) -> Picked | None:
    """Level `number` of those tables where it fits; None where it fits nowhere."""

    def has(table: CompressedTable) -> bool:
        return number < len(table.spec.levels) and fits(table.spec.levels[number])

    held = [has(table) for table in tables]
    if not any(held):
        return None
    columns = [places.column[t, number] if own else 0 for t, own in enumerate(held)]
    place = take_columns(graph, places.name, columns, len(places.column))
    hit = graph.op("GreaterOrEqual", place, graph.ints(0))
    if not all(held):
        hit = graph.op("And", hit, graph.const(np.array(held)))
    return Picked(hit, graph.op("Where", hit, place, graph.ints(0)), has)


def _read_level(table: CompressedTable, number: int) -> Level:
    return Level(table.name, table.spec.levels[number].index, table.get_buffer(f"level{number}_index"))


def take_columns(graph: Graph, value: str, columns: Sequence[int], width: int) -> str:
    """Some columns of a value [n, width, ...], in this order; the value itself where that is what it is."""
    if list(columns) == list(range(width)):
        return value
    return graph.op("Gather", value, graph.ints(*columns), axis=1)


def _find_in_bitmaps(graph: Graph, levels: Sequence[Level], ids: str) -> str:
    """place = ids of the level in bytes before the id's own + set bits before it in that byte (artifact.md, 7.1)."""
    pool = graph.pool("bitmaps")
    starts, firsts = [], []
    for level in levels:
        starts.append(pool.add(level.index, _members(level.index, level.spec.rows)))
        firsts.append(pool.count_before(starts[-1], level.spec.count))
    byte = graph.op("Add", graph.op("Div", ids, graph.ints(8)), graph.ints(*starts))
    bit = graph.op("BitwiseAnd", ids, graph.ints(7))
    held = graph.cast(graph.op("Gather", pool.name, byte), "int64")
    state = graph.op("Add", graph.op("Mul", held, graph.ints(8)), bit)
    inside = graph.op("Gather", graph.const(_bits_before()), state)
    before = graph.op("Gather", _running_counts(graph), byte)
    place = graph.cast(graph.op("Add", inside, before), "int64")
    return graph.op("Sub", place, graph.ints(*firsts)) if any(firsts) else place


def _members(index: torch.Tensor, rows: int) -> torch.Tensor:
    """The bits of a bitmap without its ranks, uint8 [ceil(rows / 8)]."""
    return index.view(-1, LINE_BYTES)[:, 4:].reshape(-1)[: -(-rows // 8)]


def _running_counts(graph: Graph) -> str:
    """Per byte of all bitmaps how many bits are set before it, int32; computed once."""
    made = graph.made("running counts")
    if made is not None:
        return made
    counts = np.array([value.bit_count() for value in range(256)], dtype=np.int32)
    with graph.once():
        held = graph.op("Gather", graph.const(counts), graph.cast("bitmaps", "int32"))
        return graph.keep("running counts", graph.op("CumSum", held, graph.const(np.int64(0)), exclusive=1))


def _bits_before() -> np.ndarray:
    """Of 8 * byte + bit: how many bits of the byte are set before the bit, far below 0 where it is not set; int32."""
    byte, bit = np.arange(256)[:, None], np.arange(8)
    below = np.array([value.bit_count() for value in range(256)])[byte & ((1 << bit) - 1)]
    return np.where(byte >> bit & 1, below, _ABSENT).astype(np.int32).reshape(-1)


def _find_in_keys(graph: Graph, levels: Sequence[Level], ids: str) -> str:
    """The mixed id's bucket, and in it the place whose key is the id's own (artifact.md, 7.2).

    Stored are the sizes of buckets and the keys in planes of four bits. Running sums of the sizes are places in all
    levels together. Buckets are smaller than the artifact's, since each lookup compares its key with as many as the
    largest of them has.
    """
    sizes = [_add_keys(graph, level) for level in levels]
    starts, keys = _bucket_starts(graph), _unpacked_keys(graph)
    mixed = _mix(graph, [level.spec for level in levels], ids)
    bits = [choose_key_bits(level.spec) for level in levels]
    bucket = graph.op("Div", mixed, graph.ints(*(1 << count for count in bits)))
    bucket = graph.op("Add", bucket, graph.ints(*(first for first, _, _ in sizes)))
    key = graph.cast(graph.op("BitwiseAnd", mixed, graph.ints(*((1 << count) - 1 for count in bits))), "int32")
    start, stop = (
        graph.unsqueeze(graph.op("Gather", starts, at), 2) for at in (bucket, graph.op("Add", bucket, graph.ints(1)))
    )
    window = graph.const(np.arange(max(widest for _, _, widest in sizes), dtype=np.int32))
    places = graph.op("Add", start, window)
    equal = graph.op("Equal", graph.op("Gather", keys, places), graph.unsqueeze(key, 2))
    hit = graph.op("And", equal, graph.op("Less", places, stop))
    found = graph.op("Where", hit, places, graph.const(np.array(_ABSENT, dtype=np.int32)))
    place = graph.cast(graph.op("ReduceMax", found, graph.ints(2), keepdims=0), "int64")
    firsts = [first for _, first, _ in sizes]
    return graph.op("Sub", place, graph.ints(*firsts)) if any(firsts) else place


def _add_keys(graph: Graph, level: Level) -> tuple[int, int, int]:
    """Adds a level's keys to the pools: its first bucket, its first place, and the size of its largest bucket."""
    spec, index = level.spec, level.index
    mixed = mix_ids(list_ids(spec, index), spec.mixed_bits)
    bits = choose_key_bits(spec)
    sizes = torch.bincount(mixed >> bits, minlength=1 << (spec.mixed_bits - bits))
    widest, odd = int(sizes.max()), len(mixed) % 2
    if widest > MOST_KEYS:
        raise ExportError(
            f"table {level.table or '?'}: the keys of a level have {widest} ids in one bucket, and a graph looks at "
            f"{MOST_KEYS} at most; convert the source again, with another budget."
        )
    bucket = graph.pool("bucket sizes").add(index, torch.cat([sizes, torch.tensor([odd])]).to(torch.uint8))
    keys = mixed & ((1 << bits) - 1)
    for plane in range(KEY_PLANES):
        nibbles = torch.nn.functional.pad((keys >> (4 * plane)) & 15, (0, odd)).view(-1, 2)
        if graph.key_bits > 4 * plane:
            graph.pool(f"keys {plane}").add(index, (nibbles[:, 0] + 16 * nibbles[:, 1]).to(torch.uint8))
    return bucket, graph.pool("bucket sizes").count_before(bucket, len(mixed) + odd), widest


def choose_key_bits(spec: IndexSpec) -> int:
    """Bits of a level's keys in a graph: as many planes as make it smallest, then buckets of some four ids.

    A bucket's size takes a byte, a key half a byte per plane.
    """

    def count_bytes(bits: int) -> float:
        return (1 << (spec.mixed_bits - bits)) + spec.count * bits / 8

    planes = [bits for bits in range(4, 4 * KEY_PLANES + 1, 4) if bits <= spec.mixed_bits]
    most = min(planes, key=count_bytes)
    fitting = [
        bits
        for bits in range(most, most - 4, -1)
        if bits > 0 and spec.count <= IDS_PER_BUCKET << (spec.mixed_bits - bits)
    ]
    return fitting[0] if fitting else max(1, most - 3)


def widest_keys(tables: Sequence[CompressedTable]) -> int:
    """The most bits of a key in any level of these tables, 0 where there are no keys."""
    indices = [level.index for table in tables for level in table.spec.levels]
    return max((choose_key_bits(index) for index in indices if index.kind == "keys"), default=0)


def _bucket_starts(graph: Graph) -> str:
    """The place where each bucket of all levels begins, int32; computed once."""
    made = graph.made("bucket starts")
    if made is not None:
        return made
    with graph.once():
        sizes = graph.cast("bucket sizes", "int32")
        return graph.keep("bucket starts", graph.op("CumSum", sizes, graph.const(np.int64(0)), exclusive=1))


def _unpacked_keys(graph: Graph) -> str:
    """The keys of all levels in the order of their places, int32, and what no key is behind them; computed once."""
    made = graph.made("keys")
    if made is not None:
        return made
    with graph.once():
        total = ""
        for plane in range(-(-graph.key_bits // 4)):
            packed = graph.unsqueeze(graph.cast(f"keys {plane}", "int32"), 1)
            parts = graph.op("Div", packed, graph.const(np.array([1, 16], dtype=np.int32)))
            nibbles = graph.op("BitwiseAnd", parts, graph.const(np.array(15, dtype=np.int32)))
            scaled = graph.op("Mul", nibbles, graph.const(np.array(16**plane, dtype=np.int32)))
            total = graph.op("Add", total, scaled) if total else scaled
        none = graph.const(np.full(MOST_KEYS, -1, dtype=np.int32))
        return graph.keep("keys", graph.op("Concat", graph.op("Reshape", total, graph.ints(-1)), none, axis=0))


def _mix(graph: Graph, specs: Sequence[IndexSpec], ids: str) -> str:
    """The bijection of section 7.2, column by column; products wrap around, and the mask keeps what counts."""
    mask = graph.ints(*((1 << spec.mixed_bits) - 1 for spec in specs))
    half = graph.ints(*(1 << ((spec.mixed_bits + 1) // 2) for spec in specs))
    mixed = ids
    for factor in MIX_FACTORS:
        mixed = graph.op("BitwiseAnd", graph.op("Mul", mixed, graph.ints(factor)), mask)
        mixed = graph.op("BitwiseXor", mixed, graph.op("Div", mixed, half))
    return mixed
