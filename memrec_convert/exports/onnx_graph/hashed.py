"""Hashed tokens: MurmurHash3_x64_128 of ids in int64, and what is drawn from its bits (artifact.md, section 8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.kernels.hashing import FMIX_FACTORS, KEY_FACTORS, WEIGHT_LANES
from memrec_convert.lookup import CompressedTable, HashGroup

_LOW_32 = 0xFFFFFFFF


def look_up_hashed(graph: Graph, tables: Sequence[CompressedTable], ids: str) -> str:
    """Rows float32 [n, tables, dim] of ids int64 [n, tables]; the tables share one group."""
    group = tables[0].group
    assert group is not None
    first, second = hash_ids(graph, ids, [table.spec.hash_seed for table in tables])
    rows = _sum_tokens(graph, group, first, second)
    if group.spec.k_weights:
        alpha = _sum_weights(graph, group, first, second)
        rows = graph.op("Mul", rows, graph.unsqueeze(alpha, 2))
    centres = np.stack([table.get_buffer("frame")[1:].numpy() for table in tables])
    return graph.op("Add", rows, graph.const(centres))


def hash_ids(graph: Graph, ids: str, seeds: Sequence[int]) -> tuple[str, str]:
    """h1 and h2 of ids int64 [n, columns] with a seed per column, as int64; products and sums wrap around."""
    key = graph.op("Mul", ids, graph.ints(KEY_FACTORS[0]))
    wide = graph.cast(key, "uint64")
    parts = [_shift(graph, wide, 31, "LEFT"), _shift(graph, wide, 33, "RIGHT")]
    rotated = graph.cast(graph.op("BitwiseOr", *parts), "int64")
    key = graph.op("Mul", rotated, graph.ints(KEY_FACTORS[1]))
    second = graph.ints(*(seed ^ 8 for seed in seeds))
    first = graph.op("Add", graph.op("BitwiseXor", key, second), second)
    second = graph.op("Add", second, first)
    first, second = _finish(graph, first), _finish(graph, second)
    first = graph.op("Add", first, second)
    return first, graph.op("Add", second, first)


def reduce_upper(graph: Graph, value: str, size: int) -> str:
    """The upper 32 bits of a hash onto 0..size-1, int64."""
    return _reduce(graph, graph.cast(_shift(graph, graph.cast(value, "uint64"), 32, "RIGHT"), "int64"), size)


def reduce_lower(graph: Graph, value: str, size: int) -> str:
    """The lower 32 bits of a hash onto 0..size-1, int64."""
    return _reduce(graph, graph.op("BitwiseAnd", value, graph.ints(_LOW_32)), size)


def add_in_order(graph: Graph, terms: Sequence[str]) -> str:
    """The sum of float32 terms from the first to the last: each rounded, as the artifact says."""
    total = terms[0]
    for term in terms[1:]:
        total = graph.op("Add", total, term)
    return total


def _sum_tokens(graph: Graph, group: HashGroup, first: str, second: str) -> str:
    spec, tokens = group.spec, graph.tensor(group.get_buffer("tokens"))
    steps = graph.ints(*range(spec.k))
    mixed = graph.op("Add", graph.unsqueeze(first, 2), graph.op("Mul", graph.unsqueeze(second, 2), steps))
    numbers = reduce_upper(graph, mixed, spec.rows)
    if spec.token_codec == "int8":
        picked = graph.cast(graph.op("Gather", tokens, numbers), "float32")
        total = graph.op("ReduceSum", picked, graph.ints(2), keepdims=0)
        return graph.op("Mul", total, graph.tensor(group.get_buffer("scale")))
    columns = [graph.op("Gather", numbers, graph.const(np.int64(j)), axis=2) for j in range(spec.k)]
    return add_in_order(graph, [graph.op("Gather", tokens, column) for column in columns])


def _sum_weights(graph: Graph, group: HashGroup, first: str, second: str) -> str:
    """alpha, float32 [n, tables]."""
    spec = group.spec
    block = graph.op("Mul", reduce_lower(graph, first, spec.blocks), graph.ints(WEIGHT_LANES))
    wide, weights = graph.cast(second, "uint64"), graph.tensor(group.get_buffer("weights"))
    terms = []
    for j in range(spec.k_weights):
        shifted = graph.cast(_shift(graph, wide, 4 * j, "RIGHT"), "int64")
        at = graph.op("Add", block, graph.op("BitwiseAnd", shifted, graph.ints(WEIGHT_LANES - 1)))
        terms.append(graph.cast(graph.op("Gather", weights, at), "float32"))
    return add_in_order(graph, terms)


def _finish(graph: Graph, value: str) -> str:
    for factor in (*FMIX_FACTORS, 1):
        shifted = graph.cast(_shift(graph, graph.cast(value, "uint64"), 33, "RIGHT"), "int64")
        value = graph.op("BitwiseXor", value, shifted)
        if factor != 1:
            value = graph.op("Mul", value, graph.ints(factor))
    return value


def _shift(graph: Graph, value: str, bits: int, direction: str) -> str:
    """A uint64 shifted; ONNX Runtime shifts no signed numbers."""
    return graph.op("BitShift", value, graph.const(np.uint64(bits)), direction=direction)


def _reduce(graph: Graph, hash_32: str, size: int) -> str:
    return graph.op("Div", graph.op("Mul", hash_32, graph.ints(size)), graph.ints(1 << 32))
