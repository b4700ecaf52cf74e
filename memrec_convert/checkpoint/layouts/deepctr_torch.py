"""DeepCTR-Torch: a table per feature, and one a column wide for its first order. DeepFM converts, others are listed."""

from __future__ import annotations

import re

from memrec_convert.checkpoint.facts import Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.networks.deepfm import describe_deepfm, tensor_at, transpose
from memrec_convert.checkpoint.layouts.networks.dlrm import DENSE_ASSUMPTION
from memrec_convert.checkpoint.layouts.networks.linear_layers import (
    KIND,
    NUMBER,
    Layers,
    add_layer,
    check_single_output,
)
from memrec_convert.checkpoint.layouts.tables import TableForm, TableNames, note_shared, note_unreadable, read_tables
from memrec_convert.checkpoint.source import PLAIN
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

_FIRST_ORDER = "linear_model."
_TABLES = TableNames(
    forms=(TableForm(PLAIN, re.compile(r"(?P<table>(?:linear_model\.)?embedding_dict\.[^.]+)\.weight")),),
    numbered=False,
)
_LAYER = re.compile(rf"dnn\.linears\.{NUMBER}\.{KIND}")
_EXACT_IDS = 2**24
_OTHER_NETWORKS = ("crossnet.", "cin.", "bilinear.", "afm.", "fm.", "int_layers.", "SE.", "conv_layer.", "dnn.bn.")
"""Beginnings of names that a DeepFM of DeepCTR-Torch does not have."""


def _matches(state: StateDict) -> bool:
    return any(name.startswith("embedding_dict.") for name in state) and _TABLES.found_in(state)


def _read(state: StateDict, where: str, facts: Facts) -> Reading:
    reading = Reading()
    read_tables(_TABLES, state, where, reading)
    wide = [table for table in reading.tables if not table.name.startswith(_FIRST_ORDER)]
    narrow = [table for table in reading.tables if table.name.startswith(_FIRST_ORDER)]
    reading.tables = (*wide, *narrow)
    note_unreadable(reading, where)
    note_shared(reading)
    try:
        _describe(state, where, reading, len(wide))
    except CheckpointError as error:
        reading.problems.append(error)
    for table in reading.tables:
        if table.rows > _EXACT_IDS:
            reading.warnings.append(f"{table.name}: the framework holds ids as float32 and rounds those above 2^24")
    return reading


def _describe(state: StateDict, where: str, reading: Reading, fields: int) -> None:
    """The network, if it is a DeepFM with its DNN, first order and dense features as the defaults have them."""
    other = next((name for name in state if name.startswith(_OTHER_NETWORKS)), None)
    if other is not None or "dnn_linear.weight" not in state:
        found = "no dnn_linear.weight" if other is None else printable(other)
        raise CheckpointError(
            f"{where}: has {found}, so it is not the DeepFM of DeepCTR-Torch, the one network of it that is converted; "
            "load it there and give it to compress()."
        )
    features = {table.name.removeprefix("embedding_dict."): at for at, table in enumerate(reading.tables[:fields])}
    inputs = list(range(fields))
    for table in reading.tables[fields:]:
        feature = table.name.removeprefix("linear_model.embedding_dict.")
        inputs.append(features.setdefault(feature, len(features)))
        twin = reading.tables[inputs[-1]]
        if table.dim != 1 or twin.rows != table.rows:
            raise CheckpointError(f"{where} > {table.name}: {table.rows} x {table.dim}, expected {twin.rows} x 1.")
    mlp = _read_dnn(state, where)
    dense = mlp[0][0].shape[1] - sum(table.dim for table in reading.tables[:fields])
    first_order = transpose(tensor_at(state, "linear_model.weight", (dense, 1), where)) if dense > 0 else None
    describe_deepfm(reading, mlp, fields=fields, inputs=inputs, dense=dense, first_order=first_order, linear="dense")
    reading.architecture["input_names"] = list(features)
    reading.assumed = [
        "a DeepFM whose features are all in its linear part, its FM and its DNN, one id each per sample",
        "features in the order of the tables, dense features after them; ReLU in the DNN",
        DENSE_ASSUMPTION,
    ]


def _read_dnn(state: StateDict, where: str) -> Layers:
    """`dnn.linears.N`, then `dnn_linear` without a bias of its own: the model's `out.bias` takes that place."""
    parts: dict[int, dict[str, StoredTensor]] = {}
    for name, value in state.items():
        match = _LAYER.fullmatch(name)
        if match is not None and isinstance(value, StoredTensor):
            parts.setdefault(int(match["layer"]), {})[match["kind"]] = value
    layers: Layers = []
    for number in sorted(parts):
        if number != len(layers) or len(parts[number]) != 2:
            raise IncompleteCheckpointError(f"{where} > DNN: its layer {len(layers)} is missing in whole or in part.")
        layers = add_layer(layers, parts[number]["weight"], parts[number]["bias"], f"{where} > DNN")
    if not layers:
        raise IncompleteCheckpointError(f"{where} > DNN: not in the file; give the whole model's checkpoint.")
    width = layers[-1][0].shape[0]
    last = tensor_at(state, "dnn_linear.weight", (1, width), where)
    layers = add_layer(layers, last, tensor_at(state, "out.bias", (1,), where), f"{where} > DNN")
    check_single_output(layers, f"{where} > DNN")
    return layers


DEEPCTR_TORCH = Layout("deepctr-torch", _matches, _read)
