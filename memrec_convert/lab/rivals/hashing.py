"""Rows shared by hash: the hashing trick, quotient-remainder, and one array of numbers for all rows (ROBE)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from memrec_convert.kernels.hashing import hash_ids, token_numbers
from memrec_convert.lab.held import FP32, INT8_ROWS, BlockInt8, HeldTable, Numbers, number_shapes
from memrec_convert.lab.rivals.rival import Option, sizes_up_to
from memrec_convert.lab.view import TableView

SIZES_PER_OCTAVE = 2
ROUNDS = 4
ROBE_RUN = 64
"""Numbers of the shared array under one scale."""


@dataclass(frozen=True)
class HashingTrick:
    """An id reads the row that its hash names, the weighted mean of all that share it (Weinberger et al., 2009)."""

    name: str = "hashing trick"

    def options(self, view: TableView) -> list[Option]:
        """One per number of shared rows."""
        sizes = sizes_up_to(view.count // 2, per_octave=SIZES_PER_OCTAVE)
        return [self._option(view, size) for size in sizes]

    def _option(self, view: TableView, size: int) -> Option:
        decode = _DecodeHashed(size, view.seed)
        shapes = number_shapes(shared=(INT8_ROWS, size, view.dim))
        distortion = _loss(view, {"shared": _fit_shared(view, size)}, decode)
        return Option(f"{size} shared rows", shapes, distortion, lambda: self._make(view, size))

    def _make(self, view: TableView, size: int) -> HeldTable:
        return HeldTable({"shared": (INT8_ROWS, _fit_shared(view, size))}, {}, _DecodeHashed(size, view.seed))


@dataclass(frozen=True)
class _DecodeHashed:
    size: int
    seed: int

    def place(self, ids: Tensor) -> Tensor:
        """The shared row of each id."""
        return token_numbers(*hash_ids(ids, self.seed), k=1, rows=self.size).squeeze(-1)

    def __call__(self, numbers: Mapping[str, Tensor], _fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        return numbers["shared"][self.place(ids)]


def _fit_shared(view: TableView, size: int) -> Tensor:
    decode = _DecodeHashed(size, view.seed)
    return _weighted_means(view, size, decode.place, lambda piece: view.rows[piece])


@dataclass(frozen=True)
class QuotientRemainder:
    """Row x is quotient row x // m times, or plus, remainder row x % m (Shi et al., arXiv 1909.02107).

    Both factors are fitted to the trained rows by alternating weighted least squares.
    """

    name: str = "quotient-remainder"

    def options(self, view: TableView) -> list[Option]:
        """One per operation and number of remainders, from the square root of the rows on."""
        sizes = sizes_up_to(view.count // 2, least=max(2, int(view.count**0.5)), per_octave=1)
        return [self._option(view, size, product=product) for size in sizes for product in (False, True)]

    def _option(self, view: TableView, size: int, *, product: bool) -> Option:
        quotients = -(-view.count // size)
        shapes = number_shapes(remainder=(INT8_ROWS, size, view.dim), quotient=(INT8_ROWS, quotients, view.dim))
        fitted = _fit_factors(view, size, product=product)
        distortion = _loss(view, fitted, _DecodeFactors(size, product))
        label = f"{quotients} {'*' if product else '+'} {size} rows"
        return Option(label, shapes, distortion, partial(self._make, view, size, product))

    def _make(self, view: TableView, size: int, product: bool) -> HeldTable:
        fitted = _fit_factors(view, size, product=product)
        return HeldTable({name: (INT8_ROWS, rows) for name, rows in fitted.items()}, {}, _DecodeFactors(size, product))


@dataclass(frozen=True)
class _DecodeFactors:
    size: int
    product: bool

    def __call__(self, numbers: Mapping[str, Tensor], _fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        quotient, remainder = numbers["quotient"][ids // self.size], numbers["remainder"][ids % self.size]
        return quotient * remainder if self.product else quotient + remainder


def _fit_factors(view: TableView, size: int, *, product: bool) -> dict[str, Tensor]:
    quotients = -(-view.count // size)
    remainder = _weighted_means(view, size, lambda ids: ids % size, lambda piece: view.rows[piece])
    quotient = torch.ones(quotients, view.dim) if product else torch.zeros(quotients, view.dim)
    for _ in range(ROUNDS):
        other = remainder
        quotient = _refit(view, quotients, lambda ids: ids // size, lambda ids, o=other: o[ids % size], product=product)  # type: ignore[misc]
        other = quotient
        remainder = _refit(view, size, lambda ids: ids % size, lambda ids, o=other: o[ids // size], product=product)  # type: ignore[misc]
    return {"quotient": quotient, "remainder": remainder}


def _refit(
    view: TableView, size: int, place: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], *, product: bool
) -> Tensor:
    """One factor with the other fixed: least squares number by number."""
    if not product:
        return _weighted_means(view, size, place, lambda piece: view.rows[piece] - other(_ids(piece)))
    sums, mass = torch.zeros(size, view.dim), torch.zeros(size, view.dim)
    for piece in view.chunks():
        ids = _ids(piece)
        factor, weights = other(ids), view.weights[piece].unsqueeze(1)
        sums.index_add_(0, place(ids), view.rows[piece] * factor * weights)
        mass.index_add_(0, place(ids), factor.square() * weights)
    return sums / (mass + 1e-6 * float(mass.mean()) + 1e-30)


@dataclass(frozen=True)
class SharedArray:
    """A row is read in chunks of `width` numbers, each at a hashed place of one array (ROBE, arXiv 2108.02191).

    Fitted in closed form: each number of the array is the weighted mean of all that fall on it. One array per table,
    so that the budget can be split between tables; rows are held less their mean.
    """

    name: str = "shared array (ROBE)"

    def options(self, view: TableView) -> list[Option]:
        """One per size of the array and width of a chunk."""
        most = view.count * view.dim // (2 * ROBE_RUN)
        options = []
        for runs in sizes_up_to(most, least=4, per_octave=1):
            for width in {view.dim, 4 if view.dim % 4 == 0 else 1}:
                options.append(self._option(view, runs, _DecodeArray(runs * ROBE_RUN, width, view.seed)))
        return options

    def _option(self, view: TableView, runs: int, decode: _DecodeArray) -> Option:
        shapes = number_shapes(centre=(FP32, 1, view.dim), array=(BlockInt8(runs), decode.size, 1))
        fitted = {"centre": view.survey.centre.unsqueeze(0), "array": _fit_array(view, decode)}
        return Option(
            f"{decode.size} numbers in chunks of {decode.width}",
            shapes,
            _loss(view, fitted, decode),
            partial(self._make, view, runs, decode),
        )

    def _make(self, view: TableView, runs: int, decode: _DecodeArray) -> HeldTable:
        numbers: Numbers = {
            "centre": (FP32, view.survey.centre.unsqueeze(0)),
            "array": (BlockInt8(runs), _fit_array(view, decode)),
        }
        return HeldTable(numbers, {}, decode)


@dataclass(frozen=True)
class _DecodeArray:
    size: int
    width: int
    seed: int

    def places(self, ids: Tensor, dim: int) -> Tensor:
        """Where each number of each row lies, int64 [n, dim]."""
        chunks = dim // self.width
        starts = token_numbers(*hash_ids(ids, self.seed), k=chunks, rows=self.size)
        return ((starts.unsqueeze(2) + torch.arange(self.width)) % self.size).reshape(len(ids), dim)

    def __call__(self, numbers: Mapping[str, Tensor], _fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        centre = numbers["centre"]
        return centre + numbers["array"].reshape(-1)[self.places(ids, centre.shape[1])]


def _fit_array(view: TableView, decode: _DecodeArray) -> Tensor:
    sums, mass = torch.zeros(decode.size), torch.zeros(decode.size)
    for piece in view.chunks():
        places = decode.places(_ids(piece), view.dim).reshape(-1)
        weights = view.weights[piece].unsqueeze(1)
        sums.index_add_(0, places, ((view.rows[piece] - view.survey.centre) * weights).reshape(-1))
        mass.index_add_(0, places, weights.expand(-1, view.dim).reshape(-1))
    return (sums / mass.clamp(min=1e-30)).unsqueeze(1)


def _weighted_means(
    view: TableView, size: int, place: Callable[[Tensor], Tensor], target: Callable[[slice], Tensor]
) -> Tensor:
    sums, mass = torch.zeros(size, view.dim), torch.zeros(size)
    for piece in view.chunks():
        places, weights = place(_ids(piece)), view.weights[piece]
        sums.index_add_(0, places, target(piece) * weights.unsqueeze(1))
        mass.index_add_(0, places, weights)
    return sums / mass.clamp(min=1e-30).unsqueeze(1)


def _loss(
    view: TableView, numbers: Mapping[str, Tensor], decode: Callable[..., Tensor]
) -> float:  # what rounding to int8 adds is far below what sharing costs
    return view.total(lambda piece: decode(numbers, {}, _ids(piece)))


def _ids(piece: slice) -> Tensor:
    return torch.arange(piece.start, piece.stop)
