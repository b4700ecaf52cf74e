"""Runnable forms of known networks, built from an architecture and whatever stands for the tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memrec_convert.checkpoint import SourceModel, SourceTable
from memrec_convert.choices import Compute, values_of
from memrec_convert.errors import ModelError
from memrec_convert.models.deepfm import DeepFM
from memrec_convert.models.dlrm import DLRM
from memrec_convert.models.dlrm_dcn import DlrmDcn
from memrec_convert.models.narrow import list_fast
from memrec_convert.models.network import ClickNetwork, ordered_products, read_table_inputs
from memrec_convert.models.sample_pooled import SamplePooled
from memrec_convert.models.stored_table import StoredTable
from memrec_convert.models.table_set import TableSet

__all__ = [
    "DLRM",
    "ClickNetwork",
    "DeepFM",
    "DlrmDcn",
    "StoredTable",
    "TableSet",
    "build_model",
    "build_original",
    "load_dense",
    "ordered_products",
    "read_pooling",
    "read_table_inputs",
    "settle_compute",
]

MODELS: dict[str, Callable[[Mapping[str, object], Iterable[nn.Module]], nn.Module]] = {
    "dlrm": DLRM,
    "dlrm-dcn": DlrmDcn,
    "deepfm": DeepFM,
    "sample-pooled": SamplePooled,
    "tables": TableSet,
}
"""An architecture's name -> its module."""


def build_model(architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> nn.Module:
    """The network of an architecture around these tables, its dense part freshly initialised.

    ModelError where the name is unknown or the architecture contradicts itself.
    """
    model = MODELS.get(str(architecture.get("name")))
    if model is None:
        raise ModelError(f"architecture {architecture.get('name')!r} is not known; known: {', '.join(MODELS)}.")
    return model(architecture, tables)


HELD_BYTES = 512 << 20
"""Tables that take no more than this together, in float32, are held in memory; larger ones stay in their file."""


def build_original(
    source: SourceModel, *, held_bytes: int = HELD_BYTES, reused: dict[Any, nn.Module] | None = None
) -> nn.Module:
    """The trained model of a checkpoint, rebuilt: float32, its tables as `nn.EmbeddingBag`, in eval mode.

    Tables of more than `held_bytes` together become `StoredTable` modules, which answer alike and have no parameters.
    `reused` keeps tables between models that read the same rows in the same way.
    """
    fits = 4 * sum(table.rows * table.dim for table in source.tables) <= held_bytes
    mode = read_pooling(source.architecture)
    held = {} if reused is None else reused
    keys = [(table.weight, mode, number) for number, table in enumerate(source.tables)]
    for key, table in zip(keys, source.tables, strict=True):
        if key not in held:
            held[key] = build_table(table, mode) if fits else StoredTable(table.weight, mode)
    model = build_model(source.architecture, (held[key] for key in keys))
    load_dense(model, {name: tensor.as_tensor() for name, tensor in source.dense.items()})
    return model.eval()


def read_pooling(architecture: Mapping[str, object]) -> str:
    """What the tables make of a bag of several ids: "sum" or "mean"; ModelError for anything else."""
    mode = architecture.get("pooling", "sum")
    if mode not in ("sum", "mean"):
        raise ModelError(f"architecture > pooling: expected sum or mean, found {mode!r}.")
    return str(mode)


def build_table(table: SourceTable, mode: str = "sum") -> nn.EmbeddingBag:
    """A stored table as a module, its rows in float32."""
    return nn.EmbeddingBag.from_pretrained(table.weight.as_tensor(), freeze=False, mode=mode)


def settle_compute(model: nn.Module, compute: Compute | Literal["auto"], *, asked: bool = True) -> None:
    """Sets what products of a known network's dense part are taken in, and warns where that is slow here.

    auto: the narrowest that this machine is fast in. ModelError where one is asked of a model that has no such choice.
    """
    if compute not in (*values_of(Compute), "auto"):
        raise ModelError(f"compute is {compute!r}; expected fp32, bf16, int8 or auto.")
    if not isinstance(model, ClickNetwork):
        if asked and compute not in ("fp32", "auto"):
            raise ModelError(
                f"the dense part of {type(model).__name__} cannot be computed in {compute}; leave compute out."
            )
        return
    fast = list_fast()
    model.compute = fast[0] if compute == "auto" else compute
    if model.compute not in fast:
        warnings.warn(
            f"this machine has no fast {model.compute} products, so the dense part is slow; load with compute='auto' "
            f"for {fast[0]}.",
            RuntimeWarning,
            stacklevel=3,
        )


def load_dense(model: nn.Module, dense: Mapping[str, Tensor]) -> None:
    """Copy the dense part into a model; ModelError unless names and shapes are exactly those of the model."""
    parameters = {name: value for name, value in model.named_parameters() if not name.startswith("tables.")}
    if parameters.keys() != dense.keys():
        differing = sorted(parameters.keys() ^ dense.keys())
        raise ModelError(f"the dense part does not fit the architecture: {differing[0]} is in one of them only.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != dense[name].shape:
                raise ModelError(f"{name}: expected shape {list(parameter.shape)}, found {list(dense[name].shape)}.")
            parameter.copy_(dense[name])
