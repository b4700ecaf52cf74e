"""Runnable forms of known networks, built from an architecture and whatever stands for the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from memrec_convert.checkpoint import SourceModel, SourceTable
from memrec_convert.errors import ModelError
from memrec_convert.models.deepfm import DeepFM
from memrec_convert.models.dlrm import DLRM
from memrec_convert.models.dlrm_dcn import DlrmDcn
from memrec_convert.models.network import ClickNetwork, read_table_inputs

__all__ = [
    "DLRM", "ClickNetwork", "DeepFM", "DlrmDcn", "build_model", "build_original", "load_dense", "read_table_inputs",
]  # fmt: skip

MODELS: dict[str, Callable[[Mapping[str, object], Iterable[nn.Module]], nn.Module]] = {
    "dlrm": DLRM,
    "dlrm-dcn": DlrmDcn,
    "deepfm": DeepFM,
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


def build_original(source: SourceModel) -> nn.Module:
    """The trained model of a checkpoint, rebuilt: float32, its tables as sum-pooled `nn.EmbeddingBag`, in eval mode."""
    model = build_model(source.architecture, map(build_table, source.tables))
    load_dense(model, {name: tensor.as_tensor() for name, tensor in source.dense.items()})
    return model.eval()


def build_table(table: SourceTable) -> nn.EmbeddingBag:
    """A stored table as a module, its rows in float32."""
    return nn.EmbeddingBag.from_pretrained(table.weight.as_tensor(), freeze=False, mode="sum")


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
