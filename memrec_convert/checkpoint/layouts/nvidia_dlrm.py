"""NVIDIA's DLRM (DeepLearningExamples): tables by number, their order in the network from the device mapping."""

from __future__ import annotations

import re

from memrec_convert.checkpoint.facts import Facts, assume_one
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.networks.dlrm import Mlps, describe_dlrm
from memrec_convert.checkpoint.layouts.networks.interaction import CAT, DOT, Interaction, top_width
from memrec_convert.checkpoint.layouts.networks.linear_layers import Layers, add_layer, check_single_output
from memrec_convert.checkpoint.layouts.tables import check_table, note_unreadable
from memrec_convert.checkpoint.source import SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

_PADDED_TO = 8
_OUTPUT = "top_model.out"
_TABLE = re.compile(r"embeddings\.(\d{1,6})", re.ASCII)


def _matches(state: StateDict) -> bool:
    return {"metadata", "bottom_model.mlp", _OUTPUT} <= state.keys() and "embeddings.0" in state


def _read(state: StateDict, where: str, facts: Facts) -> Reading:
    metadata = _mapping(state["metadata"])
    config, reading = _mapping(metadata.get("config")), Reading()
    order = _read_order(_mapping(_mapping(metadata.get("data")).get("device_mapping")), state, where, reading)
    reading.tables = tuple(
        SourceTable(f"embeddings.{number}", check_table(state[f"embeddings.{number}"], f"{where} > table {number}"))
        for number in order
    )
    reading.table_keys = {table.name: table.name for table in reading.tables}
    note_unreadable(reading, where)
    mlps = Mlps(_read_mlp(state, "bottom_model.mlp", where), _read_top(state, where))
    kind = CAT if config.get("interaction_op") == "cat" else DOT
    padding = _count_padding(kind, mlps, reading, where)
    describe_dlrm(reading, mlps, Interaction(kind), pairs="lower")
    reading.architecture |= {"padding": padding, "dense_transform": "log(x+3)"}
    reading.open_facts[-1] = assume_one("dense_transform", "log(x+3)")
    if order != list(range(len(order))):
        reading.architecture["table_inputs"] = order
    reading.assumed = [
        "pairs in the order of the lower triangle, zeros after them up to a multiple of 8",
        "tables in the order of the device mapping",
        "ReLU after every layer but the last",
        "one id per feature and sample",
        "dense features enter as log(x + 3)",
    ]
    if config.get("hash_indices"):
        reading.warnings.append("the model takes ids modulo the rows (hash_indices): read logs with --oov hash")
    return reading


def _mapping(value: object) -> dict[object, object]:
    return value if isinstance(value, dict) else {}


def _read_order(mapping: dict[object, object], state: StateDict, where: str, reading: Reading) -> list[int]:
    """Numbers of the tables in the order of the network: the mapping's ranks one after another."""
    there = sorted(int(match[1]) for name in state if (match := _TABLE.fullmatch(name)) is not None)
    ranks = mapping.get("embedding")
    order = [number for rank in (ranks if isinstance(ranks, list) else ()) for number in _items(rank)]
    if not order:
        reading.warnings.append("metadata.pt has no device mapping: tables are taken in the order of their numbers")
        return there
    if sorted(order) != list(range(len(order))):
        raise CheckpointError(f"{where} > metadata.pt: its device mapping {order[:40]} does not name each table once.")
    if len(order) < len(there):
        raise CheckpointError(
            f"{where} > metadata.pt: its device mapping names {len(order)} tables, but {len(there)} are there; which "
            "of them the network reads is not known."
        )
    missing = sorted(set(order) - set(there))
    if missing:
        raise IncompleteCheckpointError(
            f"{where}: the device mapping names {len(order)} tables, but bottom_model.embeddings.{missing[0]}.bin is "
            "missing; copy the whole directory."
        )
    return order


def _items(value: object) -> list[int]:
    return [item for item in value if type(item) is int] if isinstance(value, (list, tuple)) else []


def _read_mlp(state: StateDict, part: str, where: str) -> Layers:
    stored, layers = _mapping(state[part]), Layers()
    weights, biases = stored.get("weights"), stored.get("biases")
    if not isinstance(weights, list) or not isinstance(biases, list) or len(weights) != len(biases) or not weights:
        raise IncompleteCheckpointError(f"{where} > {part}.pt: has no list of weights with as many biases.")
    for weight, bias in zip(weights, biases, strict=True):
        if not isinstance(weight, StoredTensor) or not isinstance(bias, StoredTensor):
            raise CheckpointError(f"{where} > {part}.pt: holds something other than tensors.")
        layers = add_layer(layers, weight, bias, f"{where} > {part}.pt")
    return layers


def _read_top(state: StateDict, where: str) -> Layers:
    out = _mapping(state[_OUTPUT])
    weight, bias = out.get("weight"), out.get("bias")
    if not isinstance(weight, StoredTensor) or not isinstance(bias, StoredTensor):
        raise IncompleteCheckpointError(f"{where} > {_OUTPUT}.pt: lacks its weight or its bias.")
    top = add_layer(_read_mlp(state, "top_model.mlp", where), weight, bias, f"{where} > {_OUTPUT}.pt")
    check_single_output(top, f"{where} > {_OUTPUT}.pt")
    return top


def _count_padding(kind: str, mlps: Mlps, reading: Reading, where: str) -> int:
    """Columns of zeros at the end of the top MLP's input."""
    dims, width = [table.dim for table in reading.tables], mlps.top[0][0].shape[1]
    if kind == DOT and set(dims) != {mlps.dim}:
        raise CheckpointError(
            f"{where}: the tables are {sorted(set(dims))} wide and the bottom MLP's output {mlps.dim}; a dot "
            "interaction needs them equal."
        )
    used = top_width(kind, mlps.dim, dims)
    expected = used if kind == CAT else -(-used // _PADDED_TO) * _PADDED_TO
    if width not in (used, expected):
        reading.problems.append(
            IncompleteCheckpointError(
                f"{where}: holds {len(dims)} tables, whose interaction is {expected} wide, but the top MLP's input is "
                f"{width}; copy the whole directory."
            )
        )
    return max(width - used, 0)


NVIDIA_DLRM = Layout("nvidia-dlrm", _matches, _read)
