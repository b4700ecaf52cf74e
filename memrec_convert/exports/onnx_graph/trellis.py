"""Trellis rows: bit planes to odd numbers and those to values, in the arithmetic of section 4.1 of the format."""

from __future__ import annotations

import numpy as np
import torch

from memrec_convert.encoding.codecs import TRELLIS
from memrec_convert.encoding.codecs.trellis import scale_values
from memrec_convert.exports.onnx_graph.graph import Graph


def decode_rows(graph: Graph, codec: str, dim: int, packed: str, scales: str) -> str:
    """Rows float32 [n, tables, dim] of their planes (uint8 [n, tables, bytes]) and scales (uint8 [n, tables])."""
    bits = next(one.bits for one in TRELLIS if one.name == codec)
    powers = graph.const((1 << np.arange(8)).astype(np.int32))
    two = graph.const(np.int32(2))
    apart = graph.op("Div", graph.unsqueeze(graph.cast(packed, "int32"), 3), powers)
    shape = graph.ints(0, 0, bits, -1)
    planes = graph.op("Slice", graph.op("Reshape", graph.op("Mod", apart, two), shape), *map(graph.ints, (0, dim, 3)))
    path, *others = [graph.op("Gather", planes, graph.const(np.int64(p)), axis=2) for p in range(bits)]

    def before(lag: int) -> str:
        return graph.op("Pad", path, graph.ints(0, 0, lag, 0, 0, -lag))

    parity = graph.op("Mod", graph.op("Add", graph.op("Add", path, before(1)), before(3)), two)
    index = graph.op("Add", before(2), graph.op("Mul", parity, two))
    for number, plane in enumerate(others, 2):
        index = graph.op("Add", index, graph.op("Mul", plane, graph.const(np.int32(1 << number))))
    doubled = graph.op("Mul", graph.cast(index, "float32"), graph.const(np.float32(2)))
    odd = graph.op("Add", doubled, graph.const(np.float32(1 - 2 ** (bits + 1))))
    square = graph.op("Add", graph.op("Mul", odd, odd), graph.const(np.float32(4 ** (bits + 1))))
    units = graph.tensor(scale_values(torch.arange(256)) * 2.0 ** (-3 * bits - 3))
    unit = graph.op("Gather", units, graph.cast(scales, "int64"))
    return graph.op("Mul", graph.op("Mul", odd, square), graph.unsqueeze(unit, 2))
