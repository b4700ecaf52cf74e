"""torch-rechub: a table per feature. Its DeepFM converts, other networks are listed."""

from __future__ import annotations

import re

from memrec_convert.checkpoint.facts import Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.networks.deepfm import (
    add_biases,
    describe_deepfm,
    read_normalised_mlp,
    tensor_at,
)
from memrec_convert.checkpoint.layouts.networks.dlrm import DENSE_ASSUMPTION
from memrec_convert.checkpoint.layouts.tables import TableForm, TableNames, note_shared, note_unreadable, read_tables
from memrec_convert.checkpoint.source import PLAIN
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.errors import CheckpointError

_TABLES = TableNames(
    forms=(TableForm(PLAIN, re.compile(r"embedding\.embed_dict\.(?P<table>[^.]+)\.weight")),), numbered=False
)
_DEEPFM = ("linear.fc.", "embedding.embed_dict.", "mlp.mlp.")
"""Beginnings of all names of a DeepFM."""


def _read(state: StateDict, where: str, facts: Facts) -> Reading:
    reading = Reading()
    read_tables(_TABLES, state, where, reading)
    note_unreadable(reading, where)
    note_shared(reading)
    try:
        _describe(state, where, reading)
    except CheckpointError as error:
        reading.problems.append(error)
    return reading


def _describe(state: StateDict, where: str, reading: Reading) -> None:
    other = next((name for name in state if not name.startswith(_DEEPFM)), None)
    if other is not None or not any(name.startswith("linear.fc.") for name in state):
        found = "no linear.fc" if other is None else printable(other)
        raise CheckpointError(
            f"{where}: has {found}, so it is not the DeepFM of torch-rechub, the one network of it that is converted; "
            "load it there and give it to compress()."
        )
    fields, width = len(reading.tables), sum(table.dim for table in reading.tables)
    first_order = tensor_at(state, "linear.fc.weight", (1, width), where)
    mlp = add_biases(read_normalised_mlp(state, where), [tensor_at(state, "linear.fc.bias", (1,), where)])
    describe_deepfm(
        reading,
        mlp,
        fields=fields,
        inputs=range(fields),
        dense=mlp[0][0].shape[1] - width,
        first_order=first_order,
        linear="rows",
    )
    reading.assumed = [
        "features in the order of the tables, dense features after them; one id per feature and sample",
        "ReLU in the MLP, and BatchNorm with an epsilon of 1e-5 (folded into the layer before it)",
        DENSE_ASSUMPTION,
    ]


TORCH_RECHUB = Layout("torch-rechub", _TABLES.found_in, _read)
