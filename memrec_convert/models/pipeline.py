"""A network's way through the kernel: from ids to logits in one call, block by block, its weights packed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from memrec_convert.choices import Compute
from memrec_convert.kernels.loading import load_kernel
from memrec_convert.lookup.kernel_tables import KernelTables
from memrec_convert.lookup.tracing import must_trace
from memrec_convert.models.narrow import Layer

PAIRS, JOINED, CROSSED, FACTORS = range(4)
"""What stands between tables and top; the kernel's own numbers."""


@dataclass(frozen=True)
class PipelineForm:
    """The dense part as the kernel runs it.

    cross        two layers for each cross layer
    places       of pairs: for vector i and j <= i at i * vectors + j its column among the pairs, -1 for what is none
    fields       of factors: the first tables; linear: what `first_order` weighs, 0 nothing, 1 rows, 2 dense features
    """

    interaction: int
    dense_inputs: int
    top: list[Layer]
    bottom: list[Layer] = field(default_factory=list)
    cross: list[Layer] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    fields: int = 0
    linear: int = 0
    first_order: list[float] = field(default_factory=list)


class Piped(Protocol):
    """A network that has a way through the kernel."""

    compute: Compute
    shapes: list[tuple[int, int]]

    def pipeline_form(self) -> PipelineForm:
        """The dense part as the kernel runs it."""
        ...

    def dense_weights(self) -> list[tuple[dict[str, Any], str]]:
        """Where each weight of the dense part is found: a module's parameters, and a name in them."""
        ...


@dataclass(frozen=True)
class _Packed:
    """What was packed, and from what; `networks` over ids (True) and over vectors, each made when first needed."""

    compute: Compute
    tables: KernelTables | None
    weights: list[tuple[dict[str, Any], str, tuple[object, ...]]]
    networks: dict[bool, object] = field(default_factory=dict)

    def stands_for(self, network: Piped, tables: KernelTables | None) -> bool:
        """Whether nothing was replaced, written to or set otherwise since."""
        if self.compute != network.compute or (tables is not None and tables is not self.tables):
            return False
        return all(_identify(held[name]) == known for held, name, known in self.weights)


class Pipeline:
    """The kernel's copy of a network's dense part, made when first needed and again when a weight changed."""

    block = 0
    """Samples at a time; 0 lets the kernel choose by the caches."""

    def __init__(self) -> None:
        self.packed: _Packed | None = None
        self.found: list[tuple[dict[str, Any], str]] = []

    def find_weights(self, network: nn.Module) -> list[tuple[dict[str, Any], str]]:
        """`dense_weights` of a network, found once: a call has no time to walk through the modules."""
        if not self.found:
            modules = [one for path, one in network.named_modules() if path.split(".")[0] != "tables"]
            self.found = [
                (one._parameters, name) for one in modules for name, own in one._parameters.items() if own is not None
            ]
        return self.found

    def run(self, network: Piped, tables: KernelTables | None, dense: Tensor, ids: Tensor) -> Tensor | None:
        """Logits [B] of dense features [B, n] and ids [B, inputs], or without `tables` of vectors float32 [B, width].

        None where the kernel is not here, or does not take these tensors.
        """
        native = load_kernel()
        if native is None:
            return None
        packed = self.packed  # once: another thread may exchange it
        if packed is None or not packed.stands_for(network, tables):
            weights = [(held, name, _identify(held[name])) for held, name in network.dense_weights()]
            known = packed.tables if packed is not None else None
            packed = self.packed = _Packed(network.compute, tables or known, weights)
        over_ids = tables is not None
        handle = packed.networks.get(over_ids)
        if handle is None:
            handle = packed.networks.setdefault(over_ids, _build(native, network, tables))
        logits: Tensor | None = native.run_network(handle, dense, ids, self.block)
        return logits

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        """Empty."""
        return Pipeline()

    def __reduce__(self) -> tuple[type[Pipeline], tuple[()]]:
        """Stored empty."""
        return Pipeline, ()


def learns(network: Piped, *given: Tensor) -> bool:
    """Whether a call is traced, or a gradient may be asked of it: both need the network in torch."""
    if any(must_trace(one) for one in given[:1]):
        return True
    if not torch.is_grad_enabled():
        return False
    return any(one.requires_grad for one in given) or any(
        held[name].requires_grad for held, name in network.dense_weights()
    )


def _identify(weight: Tensor) -> tuple[object, ...]:
    """Changes when a weight is replaced or written to."""
    return id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _build(native: Any, network: Piped, tables: KernelTables | None) -> object:  # noqa: ANN401 - the extension
    form = network.pipeline_form()

    def pack(layers: Sequence[Layer]) -> list[object]:
        return [layer.pack(native) for layer in layers]

    return native.make_network(
        {
            "interaction": form.interaction,
            "tables": None if tables is None else tables.handle,
            "bottom": pack(form.bottom),
            "cross": pack(form.cross),
            "top": pack(form.top),
            "dense_inputs": form.dense_inputs,
            "widths": [dim for _, dim in network.shapes],
            "places": form.places,
            "fields": form.fields,
            "linear": form.linear,
            "first_order": form.first_order,
        }
    )
