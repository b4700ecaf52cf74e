"""What the logit feels of a table: the metric of its rows, and which rows it feels more than others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.clicklog import Sensitivity
from memrec_convert.distill.columns import IN_MEMORY, Column, Scratch, slices
from memrec_convert.errors import ModelError
from memrec_convert.evaluation.objectives import BINARY
from memrec_convert.kernels.encoder import square_norms
from memrec_convert.kernels.ordered import compose, find_spectrum, sum_moment, take_root
from memrec_convert.parallel import ordered_map

EIGENVALUE_FLOOR = 1e-4
"""Directions that the sample's gradients never touch still count this share of the mean: the sample is not all data."""

WHOLE_BATCHES, MANY, PART = 16, 1024, 4
"""After so many batches a table's moment comes from a quarter of each call's many vectors: there are far more of them
than it has entries, and their products cost as much as the model. Rows' own sensitivities come from all.
"""

_GOLDEN = 0x9E3779B1
"""Whole numbers times it, modulo 2**32, are spread evenly, and so are those of any arithmetic progression."""

PRIOR_LOOKUPS = 1.0
"""A row's own sensitivity is averaged with the table's as if so many lookups of the table's mean had been seen too."""


@dataclass(frozen=True)
class WatchedTable:
    """A module whose outputs are looked at: `rows` of the table, its pooling ("" for single rows) and padding id."""

    module: nn.Module
    rows: int
    pooling: str = "sum"
    padding_idx: int | None = None


def mean_moment(found: Sensitivity) -> Tensor:
    """G, the mean of f g g^T over the lookups, float64 [dim, dim]; zero where there were none."""
    return torch.from_numpy(found.moment) / max(found.lookups, 1)


def weigh_rows(found: Sensitivity, *, scratch: Scratch = IN_MEMORY) -> Column:
    """Each row's sensitivity as a multiple of the table's mean, float32 [rows]: (squares + K m) / (seen + K) / m.

    m is the mean of f |g|**2 over the lookups and K is PRIOR_LOOKUPS; 1 everywhere where m is zero.
    """
    mean = float(found.moment.trace()) / max(found.lookups, 1)
    factors = scratch.column(len(found.squares), np.float32)
    for part in slices(len(found.squares)):
        if mean > 0:
            own = found.squares[part].astype(np.float64) / mean + PRIOR_LOOKUPS
            factors[part] = (own / (found.seen[part] + PRIOR_LOOKUPS)).astype(np.float32)
        else:
            factors[part] = np.ones(part.stop - part.start, dtype=np.float32)
    return factors


def pull_clicks(logits: Tensor, _batch: object, number: int) -> Tensor:
    """Factors of clicks' logits: the root of the Fisher information of each click, times 2."""
    return BINARY.pull(logits, None, number)


def measure_sensitivities(
    model: nn.Module,
    tables: Sequence[WatchedTable],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Tensor],
    *,
    workers: int = 1,
    pull: Callable[[Tensor, Any, int], Tensor] = pull_clicks,
    hear: Callable[[Any, Tensor], None] = lambda _batch, _outputs: None,
) -> list[Sensitivity]:
    """One backward pass of the model over the batches; a module that is called several times counts each call.

    pull   of the outputs, the batch and its number: factors of the outputs, whose weighted sum's gradients are taken
    hear   takes each batch and its outputs, in the batches' order

    `workers` threads take batches, whose sums are added in the batches' order: the result is the same for any number.
    ModelError where the logits carry no gradient.
    """
    found = [
        Sensitivity(np.zeros(one.rows, dtype=np.float32), np.zeros(one.rows, dtype=np.int32), np.zeros((1, 1)))
        for one in tables
    ]
    with _watch(tables) as calls:

        def measure(numbered: tuple[int, Any]) -> tuple[Any, Tensor, list[list[_Sums]]]:
            return numbered[1], *_measure_batch(model, numbered, forward, tables, calls, pull)

        for batch, outputs, sums in ordered_map(measure, enumerate(batches), workers=workers):
            hear(batch, outputs)
            for table, parts in zip(found, sums, strict=True):
                for part in parts:
                    table.moment = table.moment + part.moment  # the zero that it starts from takes any shape
                    table.lookups += len(part.ids)
                    np.add.at(table.squares, part.ids, part.squares)
                    np.add.at(table.seen, part.ids, np.ones(len(part.ids), dtype=np.int32))  # of its type: fast
    return found


def answer_batches(
    model: nn.Module,
    tables: Sequence[WatchedTable],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Tensor],
    *,
    workers: int = 1,
) -> Iterator[tuple[Any, Tensor]]:
    """Each batch and its outputs, to the bit as `measure_sensitivities` has them, without the gradients."""
    with _watch(tables) as calls:

        def answer(batch: Any) -> tuple[Any, Tensor]:  # noqa: ANN401 - what the caller's loader yields
            calls.of = {}
            with torch.enable_grad():
                outputs = forward(model, batch).detach()
            calls.of = {}
            return batch, outputs

        yield from ordered_map(answer, batches, workers=workers)


@dataclass(frozen=True)
class _Call:
    """One call of a watched module: what was asked for and its output, of which the gradient is wanted."""

    ids: Tensor
    offsets: Tensor | None
    weights: Tensor | None
    output: Tensor


@dataclass(frozen=True)
class _Sums:
    """What one call adds: the moment, and per lookup the id (int64 [n]) and the squared gradient (float32 [n])."""

    moment: np.ndarray
    ids: np.ndarray
    squares: np.ndarray


class _Calls(threading.local):
    """The calls of each table in the batch that a thread works on."""

    def __init__(self) -> None:
        self.of: dict[int, list[_Call]] = {}


@contextmanager
def _watch(tables: Sequence[WatchedTable]) -> Iterator[_Calls]:
    calls = _Calls()

    def keep(number: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
            watched = output.detach().requires_grad_(True)
            ids, offsets, weights = (*inputs, None, None)[:3]
            calls.of.setdefault(number, []).append(_Call(ids, offsets, weights, watched))
            return watched

        return hook

    handles = [table.module.register_forward_hook(keep(number)) for number, table in enumerate(tables)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _measure_batch(
    model: nn.Module,
    numbered: tuple[int, Any],
    forward: Callable[[nn.Module, Any], Tensor],
    tables: Sequence[WatchedTable],
    calls: _Calls,
    pull: Callable[[Tensor, Any, int], Tensor],
) -> tuple[Tensor, list[list[_Sums]]]:
    calls.of = {}
    place, batch = numbered
    with torch.enable_grad():
        logits = forward(model, batch)
        if not logits.requires_grad:
            raise ModelError(
                "forward gave logits without a gradient, so how much each table matters cannot be measured; "
                "leave out no_grad() and detach(), or set weights to 'displacement'."
            )
        made = [(number, call) for number in range(len(tables)) for call in calls.of.get(number, [])]
        flat = [call.output for _, call in made]
        weighted = (logits * pull(logits, batch, place)).sum()
        gradients = torch.autograd.grad(weighted, flat, allow_unused=True) if flat else ()
    sums: list[list[_Sums]] = [[] for _ in tables]
    for (number, call), gradient in zip(made, gradients, strict=True):
        found = torch.zeros_like(call.output) if gradient is None else gradient
        sums[number].append(_sum_call(tables[number], call, found.reshape(-1, found.shape[-1]), place))
    calls.of = {}
    return logits.detach(), sums


def _sum_call(table: WatchedTable, call: _Call, gradients: Tensor, place: int) -> _Sums:
    """The sums over a call's lookups, from the gradient of each of its vectors (rows, or bags of rows) [n, dim].

    The moment may be that of a part, which stands for all; `place` numbers the batch.
    """
    ids, vectors = call.ids.detach().reshape(-1).to("cpu", torch.int64), len(gradients)
    gradients = gradients.to("cpu", torch.promote_types(gradients.dtype, torch.float32))
    squares = square_norms(gradients).to(torch.float32)
    if len(ids) == vectors and call.weights is None:  # one lookup each: what is pooled is the row
        return _Sums(_sum_moment(gradients, None, place).numpy(), ids.numpy(), squares.numpy())
    bags = _find_bags(len(ids), call.offsets, vectors)
    ids = ids[: len(bags)]
    shares = torch.ones(len(ids), dtype=torch.float64)
    if call.weights is not None:
        shares = call.weights.detach().reshape(-1).to("cpu", torch.float64)[: len(bags)]
    if table.padding_idx is not None and table.pooling:
        shares = torch.where(ids == table.padding_idx, 0.0, shares)
    if table.pooling == "mean":
        shares = shares / _sum_bags((shares != 0).to(torch.float64), bags, vectors).clamp(min=1)[bags]
    shares = shares.square()
    moment = _sum_moment(gradients, _sum_bags(shares, bags, vectors), place)
    return _Sums(moment.numpy(), ids.numpy(), (shares * squares[bags]).to(torch.float32).numpy())


def _sum_moment(gradients: Tensor, shares: Tensor | None, place: int) -> Tensor:
    """What `sum_moment` gives, in later batches that of a part of many vectors, times what it stands for."""
    if place < WHOLE_BATCHES or len(gradients) < MANY:
        return sum_moment(gradients, shares)
    chosen = _choose_part(len(gradients), place)
    moment = sum_moment(gradients[chosen], None if shares is None else shares[chosen])
    return moment * (len(gradients) / len(chosen))


def _choose_part(count: int, place: int) -> Tensor:
    """Rising numbers below `count`, int64: one of PART, in whatever turns or runs vectors of one kind may come."""
    spread = (np.arange(count, dtype=np.uint32) + np.uint32(place * count & 0xFFFFFFFF)) * np.uint32(_GOLDEN)
    return torch.from_numpy(np.flatnonzero(spread < np.uint32(2**32 // PART)))


def _find_bags(count: int, offsets: Tensor | None, vectors: int) -> Tensor:
    """The bag of each of `count` ids, int64; without offsets all bags are of one length."""
    if offsets is None:
        return torch.repeat_interleave(torch.arange(vectors), count // max(vectors, 1))
    starts = offsets.detach().to("cpu", torch.int64)
    ends = torch.cat([starts, starts.new_tensor([count])])[1 : vectors + 1]
    return torch.repeat_interleave(torch.arange(vectors), ends - starts[:vectors])


def _sum_bags(values: Tensor, bags: Tensor, vectors: int) -> Tensor:
    return torch.zeros(vectors, dtype=torch.float64).index_add_(0, bags, values)


def root_of(sensitivity: Tensor) -> Tensor:
    """The metric A = G^(1/2), float32 [dim, dim], of a sensitivity (float64 [dim, dim]); identity for zero."""
    values, vectors = find_spectrum((sensitivity + sensitivity.T) / 2)
    mean = float(values.clamp(min=0).mean())
    if mean <= 0:
        return torch.eye(len(sensitivity))
    floored = values.clamp(min=EIGENVALUE_FLOOR * mean)
    return compose(vectors, take_root(floored)).to(torch.float32)
