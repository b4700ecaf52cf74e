"""torchrec's `models.dlrm`: sparse_arch, dense_arch and over_arch; tables by name, in the order of the keys."""

from __future__ import annotations

import re
from itertools import pairwise

from memrec_convert.checkpoint.facts import Assumption, Facts
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.networks.dlrm import (
    DENSE_ASSUMPTION,
    DlrmNames,
    Mlps,
    deduce,
    describe_dlrm,
    try_mlps,
)
from memrec_convert.checkpoint.layouts.networks.interaction import CAT, DOT
from memrec_convert.checkpoint.layouts.networks.linear_layers import KIND, NUMBER
from memrec_convert.checkpoint.layouts.quantised import dequantise_tables
from memrec_convert.checkpoint.layouts.tables import (
    TableForm,
    TableNames,
    note_shared,
    note_unreadable,
    order_tables,
    read_tables,
)
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

_NAMES = DlrmNames(
    tables=TableNames(
        forms=(
            TableForm(
                PLAIN, re.compile(r"sparse_arch\.embedding_bag_collection\.embedding_bags\.(?P<table>.+)\.weight")
            ),
        ),
        numbered=False,
    ),
    bottom=(re.compile(rf"dense_arch\.model\._mlp\.{NUMBER}\._linear\.{KIND}"),),
    top=(
        re.compile(rf"over_arch\.model\.0\._mlp\.{NUMBER}\._linear\.{KIND}"),
        re.compile(rf"over_arch\.model\.1\.{KIND}"),
    ),
    layer_step=1,
    pairs="upper",
)
_CROSS = re.compile(r"inter_arch\.crossnet\.(?P<part>W_kernels|V_kernels|bias)\.(?P<layer>0|[1-9][0-9]{0,3})")
_PROJECTION = re.compile(r"inter_arch\.interaction\..+")
_DIGITS = re.compile(r"(\d+)", re.ASCII)


def _read(state: StateDict, where: str, facts: Facts) -> Reading:
    reading = Reading()
    read_tables(_NAMES.tables, state, where, reading)
    dequantise_tables(state, where, reading)
    note_unreadable(reading, where)
    note_shared(reading)
    _settle_order(state, where, facts, reading)
    mlps = try_mlps(_NAMES, state, where, reading)
    projection = next((name for name in state if _PROJECTION.fullmatch(name)), None)
    if projection is not None:
        reading.problems.append(
            CheckpointError(
                f"{where} > {printable(projection)}: the learned interaction of a DLRM_Projection; this version does "
                "not convert it."
            )
        )
    if mlps is None:
        return reading
    if any(_CROSS.fullmatch(name) for name in state):
        _describe_dcn(state, mlps, reading, where)
    else:
        describe_dlrm(reading, mlps, deduce((DOT,), mlps, reading, where, facts=facts), pairs=_NAMES.pairs)
        reading.assumed.insert(0, "pairs in the order of the upper triangle, as torchrec takes them")
    reading.assumed += [
        "ReLU after every layer but the last",
        "one feature per table, in the order of the tables, and bags are summed",
        DENSE_ASSUMPTION,
    ]
    return reading


def _settle_order(state: StateDict, where: str, facts: Facts, reading: Reading) -> None:
    """The order of the tables decides the interaction, and DistributedModelParallel sorts the keys by name.

    Where every key of the file is sorted, the order that the model had is not in it: tables of one name but for a
    number then come by number.
    """
    if facts.table_order is not None:
        reading.tables = order_tables(reading.tables, facts.table_order, where)
        return
    if any(before > after for before, after in pairwise(state)):
        return
    if len({_DIGITS.sub("#", table.name) for table in reading.tables}) == 1:
        by_name = reading.tables
        reading.tables = tuple(sorted(by_name, key=_natural))
        if reading.tables != by_name:
            orders = [",".join(table.name for table in tables) for tables in (reading.tables, by_name)]
            reading.open_facts.append(Assumption("table_order", orders[0], (orders[1],)))
        reading.assumed.append("tables in the order of the numbers in their names: the keys are sorted by name")
    elif len(reading.tables) > 1:
        reading.assumed.append("tables in the order of their names: the keys are sorted by name")
        reading.warnings.append(
            "the file's keys are sorted by name, so the order in which the network reads the tables is not in it; "
            "check the figure before conversion, and state the order if it is wrong"
        )


def _natural(table: SourceTable) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", table.name, re.ASCII)]


def _describe_dcn(state: StateDict, mlps: Mlps, reading: Reading, where: str) -> None:
    """DLRM_DCN: all vectors side by side through low-rank cross layers x0 * (W(V x) + b) + x."""
    layers: dict[int, dict[str, StoredTensor]] = {}
    for name, value in state.items():
        match = _CROSS.fullmatch(name)
        if match is not None and isinstance(value, StoredTensor) and value.dtype in FLOATING and value.shape:
            layers.setdefault(int(match["layer"]), {})[match["part"]] = value
    width = mlps.dim + sum(table.dim for table in reading.tables)
    if not layers or sorted(layers) != list(range(len(layers))) or any(len(layer) != 3 for layer in layers.values()):
        missing = f"{where} > cross layers: some are missing; give the whole checkpoint."
        reading.problems.append(IncompleteCheckpointError(missing))
        return
    rank = layers[0]["V_kernels"].shape[0]
    for number, layer in layers.items():
        shapes = [layer[part].shape for part in ("W_kernels", "V_kernels", "bias")]
        if shapes != [(width, rank), (rank, width), (width,)]:
            reading.problems.append(
                CheckpointError(
                    f"{where} > cross layer {number}: shapes {[list(shape) for shape in shapes]} do not fit "
                    f"{len(reading.tables)} tables and a bottom output, {width} wide together."
                )
            )
            break
    interaction = deduce((CAT,), mlps, reading, where, facts=Facts())
    describe_dlrm(reading, mlps, interaction, pairs=_NAMES.pairs)
    reading.architecture |= {"name": "dlrm-dcn", "interaction": "cross"}
    reading.architecture |= {"cross_layers": len(layers), "cross_rank": rank}
    for number, layer in sorted(layers.items()):
        reading.dense[f"cross.{number}.down"] = layer["V_kernels"]
        reading.dense[f"cross.{number}.up"] = layer["W_kernels"]
        reading.dense[f"cross.{number}.bias"] = layer["bias"]


TORCHREC_DLRM = Layout("torchrec-dlrm", _NAMES.found_in, _read)
