"""What all networks share: tables that are fed by inputs, and the embedding stage."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from memrec_convert.choices import Compute
from memrec_convert.errors import ModelError
from memrec_convert.kernels.ordered import OrderedLayers
from memrec_convert.lookup import CompressedEmbeddingBag
from memrec_convert.lookup.together import TogetherCache, embed_together
from memrec_convert.models.narrow import list_layers
from memrec_convert.models.pipeline import Pipeline, PipelineForm, learns

TableInput = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]
"""One input's bags: ids int64 [total], offsets int64 [B] (starts, no closing one), and weights float32 [total]."""


class ClickNetwork(nn.Module):
    """A network over dense features and embedding tables; subclasses define `_interact` and its `pipeline_form`.

    `tables` are modules called as `table(ids, offsets, per_sample_weights)` that return [B, dim]. The architecture's
    `table_inputs` says which input feeds each table (without it, each its own), and `single_valued` which tables
    cannot take a bag of several ids. `compute` is what products of the dense part are taken in; what is learnt,
    compiled or exported is computed in fp32.
    """

    compute: Compute = "fp32"

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.shapes = read_shapes(architecture, len(self.tables))
        self.table_inputs = read_table_inputs(architecture, len(self.tables))
        self.single_valued = read_single_valued(architecture, len(self.tables))
        self._kernel_tables = TogetherCache()
        self._pipeline = Pipeline()
        self.ordered: OrderedLayers | None = None

    def forward(self, dense: Tensor, ids: Tensor | Sequence[TableInput]) -> Tensor:
        """Logits float32 [B] of dense features [B, n] (already transformed) and ids int64 [B, inputs], or bags."""
        fits = isinstance(ids, Tensor) and ids.dim() == 2 and ids.shape[1] == max(self.table_inputs) + 1
        if self.compute != "fp32" and isinstance(ids, Tensor) and fits and not learns(self, dense):
            kernel = self._kernel_tables.find(self.tables, self.table_inputs)
            logits = self._pipeline.run(self, kernel, dense, ids) if kernel is not None else None
            if logits is not None:
                return logits
        return self.interact(dense, self.embed(ids))

    def embed(self, ids: Tensor | Sequence[TableInput]) -> Sequence[Tensor] | Tensor:
        """The embedding stage: one [B, dim] per table, of ids [B, inputs] or bags per input.

        A small batch through compressed tables as wide as each other is one [B, T, dim].
        """
        count, expected = ids.shape[1] if isinstance(ids, Tensor) else len(ids), max(self.table_inputs) + 1
        if count != expected:
            raise ModelError(f"the batch has ids for {count} inputs, the model has {expected}.")
        if not isinstance(ids, Tensor):
            for number in self.single_valued:
                self._refuse_full_bags(number, *ids[self.table_inputs[number]])
        together = embed_together(self.tables, self.table_inputs, ids, self._kernel_tables)
        if together is not None:
            return together
        if isinstance(ids, Tensor):
            offsets, columns = torch.arange(ids.shape[0], device=ids.device), ids.t().contiguous()
            return [_look_up(self.tables[n], columns[i], offsets) for n, i in enumerate(self.table_inputs)]
        bags = [(bag[0], bag[1], bag[2] if len(bag) > 2 else None) for bag in ids]
        return [self.tables[n](*bags[i]) for n, i in enumerate(self.table_inputs)]

    def interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """Everything after the embedding stage: logits [B] of dense features [B, n] and the tables' vectors.

        `vectors` is one [B, dim] per table, or [B, T, dim] in one.
        """
        given = [vectors] if isinstance(vectors, Tensor) else vectors
        if self.compute != "fp32" and not learns(self, dense, *given):
            joined = vectors.flatten(1) if isinstance(vectors, Tensor) else torch.cat(list(vectors), dim=1)
            logits = self._pipeline.run(self, None, dense, joined)
            if logits is not None:
                return logits
        return self._interact(dense, vectors)

    def _interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """`interact` in torch."""
        raise NotImplementedError

    def pipeline_form(self) -> PipelineForm:
        """The dense part as the kernel runs it."""
        raise NotImplementedError

    def in_compute(self, compute: Compute) -> Self:
        """A second network with the very tables and weights of this one, computed otherwise."""
        twin = copy.copy(self)
        twin.compute, twin._pipeline = compute, Pipeline()
        return twin

    def dense_weights(self) -> list[tuple[dict[str, Any], str]]:
        """Where each weight of the dense part is found now and later: a module's parameters, and a name in them."""
        return self._pipeline.find_weights(self)

    def run_part(self, part: nn.Sequential, rows: Tensor) -> Tensor:
        """An MLP in the precision of this network, in torch."""
        if self.compute == "fp32" or learns(self, rows):
            return self._run_single(part, rows)
        for layer in list_layers(part, self.compute):
            rows = layer.apply(rows)
        return rows

    def multiply(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`functional.linear` in fp32, in one order of sums where that is asked."""
        if self.ordered is not None:
            return self.ordered.apply(rows, weight, bias)
        return functional.linear(rows, weight, bias)

    def _run_single(self, part: nn.Sequential, rows: Tensor) -> Tensor:
        if self.ordered is None:
            result: Tensor = part(rows)
            return result
        for layer in list_layers(part, "fp32"):
            rows = self.ordered.apply(rows, layer.weight, layer.bias, relu=layer.relu)
        return rows

    def _refuse_full_bags(self, number: int, ids: Tensor, offsets: Tensor, weights: Tensor | None = None) -> None:
        """ModelError for a bag of several ids on a table whose original pools before it joins its two parts."""
        ends = torch.cat([offsets[1:], offsets.new_tensor([len(ids)])])
        if weights is not None or bool((ends - offsets > 1).any()):
            raise ModelError(
                f"table {number} multiplies quotient and remainder after pooling, so it takes one id per sample without"
                " a weight; the batch has a bag of several, which no table of rows can stand for."
            )


@contextmanager
def ordered_products(*models: nn.Module, learn: bool = False) -> Iterator[None]:
    """Known networks among the models take their products in one order of sums meanwhile, whatever BLAS torch has.

    So what is measured by them or learnt through them has the same bits on every instruction set.

    learn   whether their own weights learn too
    """
    networks = [one for one in models if isinstance(one, ClickNetwork)]
    before = [one.ordered for one in networks]
    try:
        for one in networks:
            one.ordered = OrderedLayers(learn=learn)
        yield
    finally:
        for one, layers in zip(networks, before, strict=True):
            one.ordered = layers


def _look_up(table: nn.Module, ids: Tensor, offsets: Tensor) -> Tensor:
    """A table's vectors of one id per sample; one in training takes ids that need no offsets, which it would check."""
    in_training = isinstance(table, CompressedEmbeddingBag) and table.decoder is not None
    found: Tensor = table(ids.unsqueeze(1)) if in_training else table(ids, offsets, None)
    return found


def read_shapes(architecture: Mapping[str, object], table_count: int) -> list[tuple[int, int]]:
    """[rows, dim] of each table; ModelError where the architecture does not list as many as there are."""
    shapes = architecture.get("tables")
    if not isinstance(shapes, Sequence) or len(shapes) != table_count or not table_count:
        raise ModelError(f"architecture > tables: does not list [rows, dim] of the {table_count} tables.")
    return [(int(shape[0]), int(shape[1])) for shape in shapes]


def read_table_inputs(architecture: Mapping[str, object], table_count: int) -> tuple[int, ...]:
    """The input that feeds each table; each its own where the architecture does not say. ModelError for gaps."""
    stated = architecture.get("table_inputs")
    if stated is None:
        return tuple(range(table_count))
    inputs = _read_numbers(stated)
    if len(inputs) != table_count or set(inputs) != set(range(len(set(inputs)))):
        raise ModelError(f"architecture > table_inputs: {stated!r} does not give {table_count} tables an input each.")
    return inputs


def read_single_valued(architecture: Mapping[str, object], table_count: int) -> tuple[int, ...]:
    """The tables that take one id per sample; ModelError where they are none of the network's."""
    stated = architecture.get("single_valued", ())
    numbers = _read_numbers(stated)
    if not set(numbers) <= set(range(table_count)) or bool(numbers) != bool(stated):
        raise ModelError(f"architecture > single_valued: {stated!r} does not list some of {table_count} tables.")
    return numbers


def _read_numbers(value: object) -> tuple[int, ...]:
    """A list of whole numbers; empty where it is anything else."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else ()
    return numbers if all(type(number) is int for number in numbers) else ()


def read_widths(architecture: Mapping[str, object], part: str, *, least: int = 2, narrowest: int = 1) -> list[int]:
    """The layer widths of an MLP: at least so many, each of at least `narrowest`."""
    widths = architecture.get(part)
    sound = isinstance(widths, Sequence) and all(type(width) is int and width >= narrowest for width in widths)
    if not isinstance(widths, Sequence) or len(widths) < least or not sound:
        raise ModelError(f"architecture > {part}: expected a list of {least} or more layer widths, found {widths!r}.")
    return list(widths)


def check_top(top: Sequence[int], expected: int) -> None:
    """ModelError unless an MLP leads from `expected` inputs to one output."""
    if top[0] != expected or top[-1] != 1:
        raise ModelError(f"architecture > top: expected widths from {expected} to 1, found {list(top)}.")


def build_mlp(widths: Sequence[int], *, last_relu: bool) -> nn.Sequential:
    """Linear layers of these widths with a ReLU after each, the last one's on request."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))
