"""The linear layers of an MLP in a state dict, checked to follow each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NUMBER = r"(?P<layer>0|[1-9][0-9]{0,5})"
KIND = r"(?P<kind>weight|bias)"

Layers = list[tuple[StoredTensor, StoredTensor]]
"""(weight [out, in], bias [out]) of each linear layer, in order."""


def read_layers(patterns: Sequence[re.Pattern[str]], state: StateDict, where: str, *, step: int) -> Layers:
    """An MLP's layers, each with weight and bias, their widths fitting each other.

    `patterns` have the groups `layer` and `kind`, in the order of the layers; `step` is the distance of their numbers.
    """
    layers: dict[tuple[int, int], dict[str, StoredTensor]] = {}
    for name, value in state.items():
        for place, pattern in enumerate(patterns):
            match = pattern.fullmatch(name)
            if match is not None and isinstance(value, StoredTensor):
                own = layers.setdefault((place, int(match.groupdict().get("layer") or 0)), {})
                if match["kind"] in own:
                    raise CheckpointError(f"{where}: {printable(name)} is in the file twice, under two names.")
                own[match["kind"]] = value
    for place in range(len(patterns)):
        numbers = sorted(number for own, number in layers if own == place)
        if numbers != [count * step for count in range(len(numbers))]:
            raise IncompleteCheckpointError(f"{where}: its layers are numbered {numbers[:40]}; some are missing.")
    if not layers:
        raise IncompleteCheckpointError(f"{where}: not in the file; give the whole model's checkpoint.")
    result: Layers = []
    for place_and_number in sorted(layers):
        layer = layers[place_and_number]
        if len(layer) != 2:
            raise IncompleteCheckpointError(f"{where}: its layer {len(result)} lacks its weight or its bias.")
        result = add_layer(result, layer["weight"], layer["bias"], where)
    return result


def add_layer(before: Layers, weight: StoredTensor, bias: StoredTensor, where: str) -> Layers:
    """The layers with one more, its shapes and dtypes checked, and its width against the layer before."""
    fits = len(weight.shape) == 2 and bias.shape == weight.shape[:1] and 0 not in weight.shape
    fits = fits and (not before or before[-1][0].shape[0] == weight.shape[1])
    strides = [one.strides for one in (weight, bias) if isinstance(one, TensorRef)]
    plain = {weight.dtype, bias.dtype} <= FLOATING and not any(0 in own for own in strides)
    if not fits or not plain:
        raise CheckpointError(
            f"{where}: layer {len(before)} has a weight of shape {list(weight.shape)} {weight.dtype} and a bias of "
            f"shape {list(bias.shape)} {bias.dtype}, which do not form one linear layer after the layer before."
        )
    return [*before, (weight, bias)]


def name_layers(part: str, layers: Layers) -> dict[str, StoredTensor]:
    """The layers under the names of our networks: a ReLU takes every second place of the sequence."""
    named = {}
    for place, (weight, bias) in enumerate(layers):
        named[f"{part}.{2 * place}.weight"], named[f"{part}.{2 * place}.bias"] = weight, bias
    return named


def widths_of(layers: Layers) -> list[int]:
    """Inputs of the first layer, then the outputs of each."""
    return [layers[0][0].shape[1], *(weight.shape[0] for weight, _ in layers)]


def check_single_output(layers: Layers, where: str) -> None:
    """CheckpointError unless the last layer has one output, the logit."""
    outputs = layers[-1][0].shape[0]
    if outputs != 1:
        raise CheckpointError(f"{where}: ends in {outputs} outputs; a click model has one.")
