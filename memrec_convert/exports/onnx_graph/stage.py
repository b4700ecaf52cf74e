"""The embedding stage: what a network's inputs become through its tables, as single ids or pooled from bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memrec_convert.exports.golden import find_single_inputs
from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.exports.onnx_graph.levels import take_columns
from memrec_convert.exports.onnx_graph.rows import Rows, is_padding, look_up
from memrec_convert.lookup import CompressedEmbeddingBag, CompressedTable


@dataclass(frozen=True)
class Embedded:
    """Pooled rows: parts (numbers of tables, float32 [batch, tables, dim]) and bool [batch]: samples with a wrong id.

    `refused` is empty where no table makes an error of ids outside.
    """

    parts: tuple[tuple[tuple[int, ...], str], ...]
    dims: tuple[int, ...]
    refused: str

    def stack(self, graph: Graph) -> str:
        """All tables in their order, float32 [batch, tables, dim]; their widths are equal."""
        order = [number for numbers, _ in self.parts for number in numbers]
        names = [name for _, name in self.parts]
        joined = names[0] if len(names) == 1 else graph.op("Concat", *names, axis=1)
        return take_columns(graph, joined, np.argsort(order).tolist(), len(order))

    def flatten(self, graph: Graph, numbers: Sequence[int]) -> str:
        """Vectors of some tables side by side, float32 [batch, sum of their widths]."""
        chosen = {self.dims[number] for number in numbers}
        if list(numbers) == list(range(len(self.dims))) and len(chosen) == 1:
            return graph.op("Reshape", self.stack(graph), graph.ints(0, sum(self.dims)))
        vectors = {
            number: graph.op("Gather", name, graph.const(np.int64(at)), axis=1)
            for own, name in self.parts
            for at, number in enumerate(own)
            if number in numbers
        }
        ordered = [vectors[number] for number in numbers]
        return ordered[0] if len(ordered) == 1 else graph.op("Concat", *ordered, axis=1)


def embed(
    graph: Graph, tables: Sequence[CompressedTable], feeds: Sequence[int], architecture: Mapping[str, Any], inputs: str
) -> Embedded:
    """The vectors of all tables, of `ids` int64 [batch, inputs] or of bags; `feeds` is the input of each table."""
    parts, refused = [], []
    if inputs == "ids":
        for numbers in _group_by_dim(tables, range(len(tables))):
            ids = take_columns(graph, "ids", [feeds[number] for number in numbers], max(feeds) + 1)
            rows = look_up(graph, [tables[number] for number in numbers], ids, padding=True)
            parts.append((tuple(numbers), rows.name))
            refused += [_any_column(graph, rows.refused)] if rows.refused else []
    else:
        single = find_single_inputs(architecture)
        for feed in range(max(feeds) + 1):
            bags = Bags(graph, feed, single=feed in single, weighted=inputs == "weighted-bags")
            for numbers in _group_by_dim(tables, [n for n, own in enumerate(feeds) if own == feed]):
                pooled = bags.look_up([tables[number] for number in numbers])
                parts.append((tuple(numbers), pooled.name))
                refused += [pooled.refused] if pooled.refused else []
    anywhere = ""
    for mask in refused:
        anywhere = graph.op("Or", anywhere, mask) if anywhere else mask
    return Embedded(tuple(parts), tuple(table.spec.dim for table in tables), anywhere)


class Bags:
    """One input's bags: `ids_N` int64 [n], `offsets_N` int64 [batch] and `weights_N` float32 [n]; or single ids."""

    def __init__(self, graph: Graph, number: int, *, single: bool, weighted: bool) -> None:
        self.graph, self.ids, self.single = graph, f"ids_{number}", single
        self.weights = f"weights_{number}" if weighted and not single else ""
        self.offsets = f"offsets_{number}"
        self.bag = "" if single else self._find_bags()

    def look_up(self, tables: Sequence[CompressedTable]) -> Rows:
        """Pooled rows float32 [batch, tables, dim], and bool [batch]: which bags hold a refused id."""
        graph = self.graph
        column = graph.unsqueeze(self.ids if self.single else self._never_empty(), 1)
        ids = column if len(tables) == 1 else graph.op("Gather", column, graph.ints(*[0] * len(tables)), axis=1)
        rows = look_up(graph, tables, ids, padding=self.single)
        refused = _any_column(graph, rows.refused) if rows.refused else ""
        if self.single:
            return Rows(rows.name, refused)
        ids, found = self._drop_last(ids), self._drop_last(rows.name)
        if refused:
            refused = self._drop_last(refused)
            refused = graph.op("Greater", self.add(graph.cast(refused, "int64"), "int64"), graph.ints(0))
        return Rows(self._pool(tables, ids, found), refused)

    def weigh(self, rows: str) -> str:
        """Rows [n, tables, dim] times the weight of their lookup."""
        weights = self.weights and self.graph.op("Reshape", self.weights, self.graph.ints(-1, 1, 1))
        return self.graph.op("Mul", rows, weights) if weights else rows

    def add(self, values: str, kind: str) -> str:
        """Sums over each bag, [batch, ...] of values [n, ...]; terms are added one by one, in the order of the ids."""
        graph = self.graph
        tail = graph.op("Shape", values, start=1)
        shape = graph.op("Concat", graph.op("Shape", self.offsets), tail, axis=0)
        zeros = graph.op("Expand", graph.const(np.array(0, dtype=kind)), shape)
        ones = graph.op(
            "Concat", graph.op("Shape", self.bag), graph.op("Sub", graph.op("Add", tail, graph.ints(1)), tail), axis=0
        )
        where = graph.op("Expand", graph.op("Reshape", self.bag, ones), graph.op("Shape", values))
        return graph.op("ScatterElements", zeros, where, values, axis=0, reduction="add")

    def _find_bags(self) -> str:
        """The bag of each id, int64 [n]: how many bags have begun; one may begin behind the last id, and be empty."""
        graph = self.graph
        count = graph.op("Shape", self.ids)
        zeros = graph.op("Expand", graph.const(np.int64(0)), graph.op("Add", count, graph.ints(1)))
        ones = graph.op("Expand", graph.const(np.int64(1)), graph.op("Shape", self.offsets))
        begun = graph.op("ScatterElements", zeros, self.offsets, ones, axis=0, reduction="add")
        begun = graph.op("Slice", graph.op("CumSum", begun, graph.const(np.int64(0))), graph.ints(0), count)
        return graph.op("Sub", begun, graph.ints(1))

    def _never_empty(self) -> str:
        """The ids and one more: some versions of ONNX Runtime multiply no empty matrices."""
        return self.graph.op("Concat", self.ids, self.graph.ints(0), axis=0)

    def _drop_last(self, value: str) -> str:
        return self.graph.op("Slice", value, self.graph.ints(0), self.graph.ints(-1), self.graph.ints(0))

    def _pool(self, tables: Sequence[CompressedTable], ids: str, rows: str) -> str:
        graph, rows = self.graph, self.weigh(rows)
        padding = is_padding(graph, tables, ids) if any(table.padding_idx is not None for table in tables) else ""
        if padding:
            rows = graph.op("Where", graph.unsqueeze(padding, 2), graph.const(np.float32(0)), rows)
        pooled = self.add(rows, "float32")
        means = [isinstance(table, CompressedEmbeddingBag) and table.mode == "mean" for table in tables]
        if not any(means):
            return pooled
        ones = graph.op("Equal", ids, ids) if not padding else graph.op("Not", padding)
        counts = graph.op("Max", self.add(graph.cast(ones, "float32"), "float32"), graph.const(np.float32(1)))
        if not all(means):
            counts = graph.op("Where", graph.const(np.array(means)), counts, graph.const(np.float32(1)))
        return graph.op("Div", pooled, graph.unsqueeze(counts, 2))


def _group_by_dim(tables: Sequence[CompressedTable], numbers: Sequence[int]) -> list[list[int]]:
    """Numbers of tables of one width together, in the order of their first."""
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(tables[number].spec.dim, []).append(number)
    return list(groups.values())


def _any_column(graph: Graph, mask: str) -> str:
    """bool [n] of bool [n, columns]."""
    most = graph.op("ReduceMax", graph.cast(mask, "int32"), graph.ints(1), keepdims=0)
    return graph.cast(most, "bool")
