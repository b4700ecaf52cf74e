"""A DeepFM in a state dict, whatever framework named it: tables, first order, MLP, with BatchNorm folded in.

"DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", https://arxiv.org/abs/1703.04247
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from memrec_convert.checkpoint.derived_rows import Computed
from memrec_convert.checkpoint.facts import assume_one
from memrec_convert.checkpoint.layouts.layout import Reading
from memrec_convert.checkpoint.layouts.networks.linear_layers import (
    NUMBER,
    Layers,
    add_layer,
    check_single_output,
    name_layers,
    widths_of,
)
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, Array, StoredTensor
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

BATCH_NORM_EPS = 1e-5
"""What torch's BatchNorm1d adds to the variance unless it is told otherwise; no file says it."""

_BLOCK = 4
"""Linear, BatchNorm, activation, dropout: the distance of two linear layers' numbers."""

_PART = re.compile(rf"mlp\.mlp\.{NUMBER}\.(?P<kind>weight|bias|running_mean|running_var)")


def read_normalised_mlp(state: StateDict, where: str) -> Layers:
    """`mlp.mlp.N` of pytorch-fm and torch-rechub: blocks of Linear and BatchNorm, then a Linear of one output."""
    parts: dict[int, dict[str, StoredTensor]] = {}
    for name, value in state.items():
        match = _PART.fullmatch(name)
        if match is not None and isinstance(value, StoredTensor):
            parts.setdefault(int(match["layer"]), {})[match["kind"]] = value
    layers: Layers = []
    for number in sorted(parts):
        if number % _BLOCK == 1:
            continue  # the BatchNorm of the layer before
        linear, norm = parts[number], parts.get(number + 1, {})
        if number % _BLOCK or not {"weight", "bias"} <= linear.keys():
            raise IncompleteCheckpointError(f"{where} > MLP: mlp.mlp.{number} is no Linear with a bias.")
        checked = add_layer(layers, linear["weight"], linear["bias"], f"{where} > MLP")
        layers = [*layers, _fold(*checked[-1], norm, where, number)] if norm else checked
    if not layers:
        raise IncompleteCheckpointError(f"{where} > MLP: not in the file; give the whole model's checkpoint.")
    check_single_output(layers, f"{where} > MLP")
    return layers


def _fold(
    weight: StoredTensor, bias: StoredTensor, norm: Mapping[str, StoredTensor], where: str, number: int
) -> tuple[StoredTensor, StoredTensor]:
    """A Linear that does what it and the BatchNorm after it did in eval mode."""
    names = ("weight", "bias", "running_mean", "running_var")
    if any(name not in norm or norm[name].shape != bias.shape or norm[name].dtype not in FLOATING for name in names):
        raise IncompleteCheckpointError(f"{where} > MLP: the BatchNorm mlp.mlp.{number + 1} lacks a part, or fits not.")
    gain, shift, mean, variance = (norm[name] for name in names)
    return (
        Computed(weight.shape, (weight, gain, variance), formula=_fold_weight),
        Computed(bias.shape, (bias, gain, variance, mean, shift), formula=_fold_bias),
    )


def _fold_weight(weight: Array, gain: Array, variance: Array) -> Array:
    folded: Array = weight * (gain / np.sqrt(variance + BATCH_NORM_EPS))[:, None]
    return folded


def _fold_bias(bias: Array, gain: Array, variance: Array, mean: Array, shift: Array) -> Array:
    folded: Array = (bias - mean) * gain / np.sqrt(variance + BATCH_NORM_EPS) + shift
    return folded


def add_biases(layers: Layers, biases: Sequence[StoredTensor]) -> Layers:
    """The layers with further constants of the logit in the last bias."""
    weight, bias = layers[-1]
    return [*layers[:-1], (weight, Computed(bias.shape, (bias, *biases), formula=_add))]


def _add(*terms: Array) -> Array:
    total: Array = np.sum(terms, axis=0)
    return total


def transpose(tensor: StoredTensor) -> StoredTensor:
    """A small matrix, turned."""
    return Computed(tensor.shape[::-1], (tensor,), formula=np.transpose)


def tensor_at(state: StateDict, name: str, shape: tuple[int, ...], where: str) -> StoredTensor:
    """The floating-point tensor of this name and shape."""
    value = state.get(name)
    if not isinstance(value, StoredTensor) or value.shape != shape or value.dtype not in FLOATING:
        found = f"shape {list(value.shape)}" if isinstance(value, StoredTensor) else "nothing"
        raise CheckpointError(f"{where} > {name}: expected a tensor of shape {list(shape)}, found {found}.")
    return value


def describe_deepfm(
    reading: Reading,
    mlp: Layers,
    *,
    fields: int,
    inputs: Sequence[int],
    dense: int,
    first_order: StoredTensor | None,
    linear: str,
) -> None:
    """Fill dense part and architecture: the first `fields` tables are the factors, the others one column wide.

    `inputs`: per table the input that feeds it. `first_order` [1, n] weighs the `linear` inputs: "rows" or "dense".
    """
    dims = {table.dim for table in reading.tables[:fields]}
    width = sum(table.dim for table in reading.tables[:fields]) + dense
    if len(dims) != 1 or widths_of(mlp)[0] != width or dense < 0:
        reading.problems.append(
            CheckpointError(
                f"the MLP's input is {widths_of(mlp)[0]} wide, but {fields} tables {sorted(dims)} wide and {dense} "
                f"dense features make {width}: not the DeepFM that its names suggest."
            )
        )
    reading.dense |= name_layers("top", mlp)
    if first_order is not None:
        reading.dense["first_order"] = first_order
    reading.architecture = {
        "name": "deepfm",
        "interaction": "fm",
        "fields": fields,
        "linear": linear if first_order is not None else "none",
        "bottom": [dense],
        "top": widths_of(mlp),
        "tables": [[table.rows, table.dim] for table in reading.tables],
        "table_inputs": list(inputs),
        "dense_transform": "log1p",
    }
    if dense:
        reading.open_facts.append(assume_one("dense_transform", "log1p"))
