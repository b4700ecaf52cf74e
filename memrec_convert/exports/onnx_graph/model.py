"""The whole graph of an artifact: inputs, lookups, network, outputs."""

from __future__ import annotations

import onnx

from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.errors import ExportError
from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.exports.onnx_graph.levels import widest_keys
from memrec_convert.exports.onnx_graph.networks import Described, build_network
from memrec_convert.exports.place import Subject
from memrec_convert.lookup import CompressedTable

CODECS_IN_GRAPHS = ("fp32", "bf16", "fp16", "int8", *FINE_CODECS)


def build_graph(subject: Subject) -> onnx.ModelProto:
    """The model of a subject, with the inputs that its golden samples have."""
    tables = list(subject.model.tables)  # type: ignore[arg-type]
    for table in tables:
        check_form(table)
    graph = Graph(key_bits=widest_keys(tables))
    inputs: Described = {}
    for name, value in subject.golden.feeds.items():
        kind = "int64" if value.dtype.kind == "i" else "float32"
        inputs[name] = (kind, [_first_length(name, subject), *value.shape[1:]])
    outputs = build_network(graph, subject.model, subject.architecture, subject.inputs)
    return graph.finish(inputs, outputs)


def _first_length(name: str, subject: Subject) -> str:
    """The name of an input's first dimension; an input of bags has as many ids as weights."""
    kind, _, number = name.partition("_")
    has_bags = f"offsets_{number}" in subject.golden.feeds or subject.architecture["name"] == "tables"
    return f"count_{number}" if kind in ("ids", "weights") and number and has_bags else "batch"


def check_form(table: CompressedTable) -> None:
    """ExportError where the graph has no nodes for a codec of this table, which later versions may have."""
    spec = table.spec
    codecs = {spec.codec, *(level.codec for level in spec.levels)} - {""}
    unknown = sorted(codecs - set(CODECS_IN_GRAPHS))
    if unknown:
        raise ExportError(
            f"table {table.name or '?'} has rows in {unknown[0]}, and ONNX files hold {', '.join(CODECS_IN_GRAPHS)}; "
            "convert with --method codes, or serve with load() or the C library."
        )
