"""Rows of ids of tables of one width, whatever their forms, and what becomes of ids outside their table."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.exports.onnx_graph.codes import look_up_sums
from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.exports.onnx_graph.hashed import look_up_hashed
from memrec_convert.exports.onnx_graph.levels import Places, find_places, pick_places, take_columns
from memrec_convert.exports.onnx_graph.trellis import decode_rows
from memrec_convert.lookup import CompressedTable

MOST_SHORT = 2
"""Tokens of a short sum."""


@dataclass(frozen=True)
class Rows:
    """Rows float32 [n, tables, dim]; `refused` is bool [n, tables] where some ids may be an error, else empty."""

    name: str
    refused: str = ""


def look_up(graph: Graph, tables: Sequence[CompressedTable], ids: str, *, padding: bool) -> Rows:
    """Rows of ids int64 [n, tables], of which some may be outside; those of a `padding_idx` are zero on request."""
    inside, outside = _bring_inside(graph, tables, ids)
    rows = _look_up_inside(graph, tables, inside)
    refused = outside and _where_tables(graph, tables, outside, "error")
    blank = outside and _where_tables(graph, tables, outside, "zero")
    if padding and any(table.padding_idx is not None for table in tables):
        named = is_padding(graph, tables, ids)
        blank = graph.op("Or", blank, named) if blank else named
    if blank:
        rows = graph.op("Where", graph.unsqueeze(blank, 2), graph.const(np.float32(0)), rows)
    return Rows(rows, refused)


def is_padding(graph: Graph, tables: Sequence[CompressedTable], ids: str) -> str:
    """Which ids (int64 [n, tables]) are the `padding_idx` of their table; no table without one has any."""
    named = [table.padding_idx for table in tables]
    equal = graph.op("Equal", ids, graph.ints(*(-1 if number is None else number for number in named)))
    return graph.op("And", equal, graph.const(np.array([number is not None for number in named])))


def _bring_inside(graph: Graph, tables: Sequence[CompressedTable], ids: str) -> tuple[str, str]:
    """Ids inside their tables, and which were changed to be; no negative one may count from a tensor's end."""
    last = graph.ints(*(table.spec.rows - 1 for table in tables))
    hashes = np.array([table.oov == "hash" for table in tables])
    inside = graph.op("Max", graph.op("Min", ids, last), graph.ints(0))
    if hashes.any():
        rows = graph.ints(*(table.spec.rows for table in tables))
        inside = graph.op("Where", graph.const(hashes), graph.op("Mod", ids, rows), inside)
    if all(table.oov in ("hash", "clip") for table in tables):
        return inside, ""
    return inside, graph.op("Not", graph.op("Equal", ids, inside))


def _where_tables(graph: Graph, tables: Sequence[CompressedTable], mask: str, oov: str) -> str:
    """A mask [n, tables] of the tables with this `oov` alone; empty where there is none."""
    chosen = np.array([table.oov == oov for table in tables])
    if not chosen.any():
        return ""
    return mask if chosen.all() else graph.op("And", mask, graph.const(chosen))


def _look_up_inside(graph: Graph, tables: Sequence[CompressedTable], ids: str) -> str:
    """Rows [n, tables, dim]: tables of one kind together, then side by side in their own order."""
    kinds: dict[Hashable, list[int]] = {}
    for number, table in enumerate(tables):
        kinds.setdefault(_kind_of(table), []).append(number)
    parts = []
    for numbers in kinds.values():
        own = [tables[number] for number in numbers]
        parts.append(_look_up_kind(graph, own, take_columns(graph, ids, numbers, len(tables))))
    if len(parts) == 1:
        return parts[0]
    order = [number for numbers in kinds.values() for number in numbers]
    joined = graph.op("Concat", *parts, axis=1)
    return take_columns(graph, joined, np.argsort(order).tolist(), len(tables))


def _kind_of(table: CompressedTable) -> Hashable:
    """What tables must have in common to be looked up together; short sums are not filled up to the length of long."""
    spec = table.spec
    if spec.form == "kept" and spec.codec != "int8":
        return "kept", spec.codec
    floats = frozenset(level.codec for level in spec.levels if level.codec not in ("", "int8"))
    return id(table.group), floats, len(spec.stages) > MOST_SHORT


def _look_up_kind(graph: Graph, tables: Sequence[CompressedTable], ids: str) -> str:
    spec = tables[0].spec
    if spec.form == "kept" and spec.codec != "int8":
        starts = [_add_rows(graph, table, "rows", spec.codec) for table in tables]
        at = graph.op("Add", ids, graph.ints(*starts))
        return _gather_rows(graph, spec.codec, spec.dim, at)
    places = find_places(graph, tables, ids)
    if places is None and tables[0].group is not None:
        return look_up_hashed(graph, tables, ids)
    rows = look_up_sums(graph, tables, ids, places)
    if places is None:
        return rows
    if tables[0].group is not None:
        anywhere = _find_anywhere(graph, tables, places)
        rows = graph.op("Where", graph.unsqueeze(anywhere, 2), rows, look_up_hashed(graph, tables, ids))
    for codec in ("fp32", "bf16", "fp16", *FINE_CODECS):
        rows = _replace_rows(graph, tables, places, codec, rows)
    return rows


def _find_anywhere(graph: Graph, tables: Sequence[CompressedTable], places: Places) -> str:
    """Which ids are in any level, bool [n, tables]."""
    picked = [pick_places(graph, tables, places, number, lambda _level: True) for number in (0, 1)]
    hits = [one.hit for one in picked if one is not None]
    return hits[0] if len(hits) == 1 else graph.op("Or", *hits)


def _replace_rows(graph: Graph, tables: Sequence[CompressedTable], places: Places, codec: str, rows: str) -> str:
    """Rows with those that levels store in a codec of other numbers than int8 in their place."""
    for number in (0, 1):
        picked = pick_places(graph, tables, places, number, lambda level: level.codec == codec)
        if picked is not None:
            starts = [_add_rows(graph, t, f"level{number}_rows", codec) if picked.has(t) else 0 for t in tables]
            at = graph.op("Add", picked.place, graph.ints(*starts))
            stored = _gather_rows(graph, codec, tables[0].spec.dim, at)
            rows = graph.op("Where", graph.unsqueeze(picked.hit, 2), stored, rows)
    return rows


def _add_rows(graph: Graph, table: CompressedTable, part: str, codec: str) -> int:
    if codec in FINE_CODECS:  # as many scales as rows, so they begin where the rows do
        graph.pool(f"{codec} scale {table.spec.dim}").add(table.get_buffer(part.replace("rows", "scale")))
    return graph.pool(f"{codec} rows {table.spec.dim}").add(table.get_buffer(part))


def _gather_rows(graph: Graph, codec: str, dim: int, at: str) -> str:
    rows = graph.op("Gather", f"{codec} rows {dim}", at)
    if codec in FINE_CODECS:
        return decode_rows(graph, codec, dim, rows, graph.op("Gather", f"{codec} scale {dim}", at))
    return rows if codec == "fp32" else graph.cast(rows, "float32")
