"""The known networks around the embedding stage (artifact.md, section 10), node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.exports.onnx_graph.graph import Graph
from memrec_convert.exports.onnx_graph.hashed import hash_ids, reduce_lower, reduce_upper
from memrec_convert.exports.onnx_graph.rows import look_up
from memrec_convert.exports.onnx_graph.stage import Bags, Embedded, embed
from memrec_convert.models.sample_pooled import KEY_STRIDE

Described = dict[str, tuple[str, list[int | str]]]
"""Inputs or outputs: name -> (type, shape)."""
_LEAST_NARROW = 256
"""Elements from which a dense tensor is stored as bfloat16 where that loses nothing."""


def build_network(graph: Graph, model: Any, architecture: Mapping[str, Any], inputs: str) -> Described:  # noqa: ANN401
    """Adds a network to a graph and returns its outputs: `logit` float32 [batch], or `rows_N` of tables alone."""
    if architecture["name"] == "tables":
        return _build_tables(graph, model)
    if architecture["name"] == "sample-pooled":
        logits, refused = _build_pooled(graph, model, inputs), ""
    else:
        embedded = embed(graph, list(model.tables), model.table_inputs, architecture, inputs)
        logits, refused = _INTERACTIONS[architecture["name"]](graph, model, embedded), embedded.refused
    flat = graph.op("Reshape", logits, graph.ints(-1))
    if refused:
        flat = graph.op("Where", refused, graph.const(np.float32(np.nan)), flat)
    graph.name("logit", flat)
    return {"logit": ("float32", ["batch"])}


def _build_tables(graph: Graph, model: Any) -> Described:  # noqa: ANN401
    outputs: Described = {}
    for number, table in enumerate(model.tables):
        rows = look_up(graph, [table], graph.unsqueeze(f"ids_{number}", 1), padding=True)
        found = rows.name
        if rows.refused:
            found = graph.op("Where", graph.unsqueeze(rows.refused, 2), graph.const(np.float32(np.nan)), found)
        graph.name(f"rows_{number}", graph.op("Squeeze", found, graph.ints(1)))
        outputs[f"rows_{number}"] = ("float32", [f"count_{number}", table.spec.dim])
    return outputs


def _interact_dlrm(graph: Graph, model: Any, embedded: Embedded) -> str:  # noqa: ANN401
    hidden = _mlp(graph, model.bottom, "dense")
    if model.interaction == "cat":
        joined = [hidden, embedded.flatten(graph, range(len(embedded.dims)))]
    else:
        stacked = graph.op("Concat", graph.unsqueeze(hidden, 1), embedded.stack(graph), axis=1)
        products = graph.op("MatMul", stacked, graph.op("Transpose", stacked, perm=[0, 2, 1]))
        flat = graph.op("Reshape", products, graph.ints(0, (len(embedded.dims) + 1) ** 2))
        joined = [hidden, graph.op("Gather", flat, graph.tensor(model.pair_index), axis=1)]
    both = graph.op("Concat", *joined, axis=1)
    if model.padding:
        both = graph.op("Pad", both, graph.ints(0, 0, 0, model.padding))
    return _mlp(graph, model.top, both)


def _interact_dcn(graph: Graph, model: Any, embedded: Embedded) -> str:  # noqa: ANN401
    vectors = embedded.flatten(graph, range(len(embedded.dims)))
    first = crossed = graph.op("Concat", _mlp(graph, model.bottom, "dense"), vectors, axis=1)
    for layer in model.cross:
        down = graph.op("Gemm", crossed, _dense(graph, layer.down), transB=1)
        up = graph.op("Gemm", down, _dense(graph, layer.up), _dense(graph, layer.bias), transB=1)
        crossed = graph.op("Add", graph.op("Mul", first, up), crossed)
    return _mlp(graph, model.top, crossed)


def _interact_deepfm(graph: Graph, model: Any, embedded: Embedded) -> str:  # noqa: ANN401
    factors, width = range(model.fields), embedded.dims[0]
    rows = embedded.flatten(graph, factors)
    logits = _mlp(graph, model.top, graph.op("Concat", rows, "dense", axis=1))
    stacked = graph.op("Reshape", rows, graph.ints(0, model.fields, width))
    total = graph.op("ReduceSum", stacked, graph.ints(1), keepdims=0)
    squares = graph.op("ReduceSum", graph.op("Mul", stacked, stacked), graph.ints(1), keepdims=0)
    pairs = graph.op("ReduceSum", graph.op("Sub", graph.op("Mul", total, total), squares), graph.ints(1), keepdims=1)
    logits = graph.op("Add", logits, graph.op("Mul", pairs, graph.const(np.float32(0.5))))
    if model.first_order is not None:
        source = rows if model.linear == "rows" else "dense"
        weighed = graph.op("Gemm", source, _dense(graph, model.first_order), transB=1)
        logits = graph.op("Add", logits, weighed)
    for number in range(model.fields, len(embedded.dims)):
        logits = graph.op("Add", logits, embedded.flatten(graph, [number]))
    return logits


_INTERACTIONS: Mapping[str, Callable[[Graph, Any, Embedded], str]] = {
    "dlrm": _interact_dlrm,
    "dlrm-dcn": _interact_dcn,
    "deepfm": _interact_deepfm,
}


def _build_pooled(graph: Graph, model: Any, inputs: str) -> str:  # noqa: ANN401
    """The sample-pooled network: one vector for all ids of a sample, by hashes with the seeds 0, 1, ..."""
    if inputs == "ids":
        strides = graph.ints(*(KEY_STRIDE * number for number in range(model.inputs)))
        vectors, alpha = _hash_keys(graph, model, graph.op("Add", "ids", strides), model.inputs)
    else:
        parts, alphas = [], []
        for number in range(model.inputs):
            bags = Bags(graph, number, single=False, weighted=inputs == "weighted-bags")
            keys = graph.op("Add", graph.unsqueeze(bags.ids, 1), graph.ints(KEY_STRIDE * number))
            one, own = _hash_keys(graph, model, keys, 1)
            one = graph.op("Squeeze", bags.weigh(graph.unsqueeze(one, 1)), graph.ints(1))
            parts.append(bags.add(one, "float32"))
            alphas += [bags.add(own, "float32")] if own else []
        vectors, alpha = graph.op("Sum", *parts), graph.op("Sum", *alphas) if alphas else ""
    pooled = graph.op("Mul", vectors, graph.unsqueeze(alpha, 1)) if alpha else vectors
    return _mlp(graph, model.top, graph.op("Concat", _mlp(graph, model.bottom, "dense"), pooled, axis=1))


def _hash_keys(graph: Graph, model: Any, keys: str, width: int) -> tuple[str, str]:  # noqa: ANN401
    """Sums of the tokens and of the weights of keys int64 [n, width]: float32 [n, l] and [n], or ""."""
    sizes = model.sizes
    seeds = [seed for seed in range(max(sizes.K, sizes.kw)) for _ in range(width)]
    repeated = graph.op(
        "Gather", keys, graph.ints(*[n for _ in range(len(seeds) // width) for n in range(width)]), axis=1
    )
    first, _ = hash_ids(graph, repeated, seeds)
    sums = []
    for count, reduce, size, table in (
        (sizes.K, reduce_upper, sizes.D, model.tokens),
        (sizes.kw, reduce_lower, sizes.dw, model.weights),
    ):
        if count:
            own = graph.op("Slice", first, graph.ints(0), graph.ints(count * width), graph.ints(1))
            picked = graph.op("Gather", _dense(graph, table), reduce(graph, own, size))
            sums.append(graph.op("ReduceSum", picked, graph.ints(1), keepdims=0))
    return sums[0], sums[1] if len(sums) > 1 else ""


def _mlp(graph: Graph, layers: nn.Sequential, values: str) -> str:
    """Linear layers and ReLUs as they stand in the module."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            values = graph.op("Gemm", values, _dense(graph, layer.weight), _dense(graph, layer.bias), transB=1)
        else:
            values = graph.op("Relu", values)
    return values


def _dense(graph: Graph, value: Tensor) -> str:
    """A tensor of the dense part; stored as bfloat16 where the artifact did so, and widened once."""
    narrow = value.detach().to(torch.bfloat16)
    if value.numel() < _LEAST_NARROW or not torch.equal(narrow.to(torch.float32), value.detach()):
        return graph.tensor(value.detach())
    stored = graph.tensor(narrow)
    made = graph.made(stored)
    if made is not None:
        return made
    with graph.once():
        return graph.keep(stored, graph.cast(stored, "float32"))
