"""Hot rows at int8, the cold ones at zero, at the mean row, or at one byte each into a codebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding.index import IndexSpec
from memrec_convert.lab.held import FP32, INT8_ROWS, HeldTable, Storage, number_shapes
from memrec_convert.lab.rivals.clusters import Codebook, fit_codebook
from memrec_convert.lab.rivals.hot import index_shapes, lay_over, make_hot_set, rank_by_gain, useful_counts
from memrec_convert.lab.rivals.plain import codec_losses
from memrec_convert.lab.rivals.rival import Option, sizes_up_to
from memrec_convert.lab.view import TableView

COLD_ENTRIES = 256
SHARES_LEFT_OUT = (0.0, 0.02, 0.1)
"""Shares of the hottest ids that a codebook for the cold ones need not serve; each is tried."""


@dataclass(frozen=True)
class HotRows:
    """Chosen hot ids as int8 rows behind an index; every other id reads as zero, or as the weighted mean row."""

    name: str
    centred: bool

    def options(self, view: TableView) -> list[Option]:
        """One per number of hot ids."""
        stored = codec_losses(view, "int8")
        base = view.survey.values if self.centred else view.losses(lambda piece: torch.zeros_like(view.rows[piece]))
        order, gains = rank_by_gain(base - stored)
        energy = float(base.sum(dtype=np.float64))
        return [
            Option(
                f"{count} hot ids",
                self._shapes(view, count),
                energy - gains[count],
                partial(self._make, view, order[:count]),
            )
            for count in useful_counts(gains, sizes_up_to(view.count))
        ]

    def _shapes(self, view: TableView, count: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        centre = number_shapes(centre=(FP32, 1, view.dim)) if self.centred else {}
        return centre | number_shapes(hot=(INT8_ROWS, count, view.dim)) | index_shapes(view.count, count)

    def _make(self, view: TableView, ids: np.ndarray) -> HeldTable:
        hot = make_hot_set(view.count, ids)
        numbers: dict[str, tuple[Storage, Tensor]] = {"hot": (INT8_ROWS, view.rows[torch.from_numpy(hot.ids)])}
        if self.centred:
            numbers["centre"] = (FP32, view.survey.centre.unsqueeze(0))
        return HeldTable(numbers, hot.tensors(), _DecodeHotRows(hot.spec), ("hot",))


@dataclass(frozen=True)
class HotRowsAndCodebook:
    """Hot ids as int8 rows; every row has one byte besides, its entry in a codebook fitted to the cold rows.

    A table may do without the codebook, and hold its hot rows over the mean row.
    """

    name: str = "hot rows int8 + one byte per cold row"

    def options(self, view: TableView) -> list[Option]:
        """One per number of hot ids."""
        plain = HotRows(self.name, centred=True).options(view)
        if view.count < 2 * COLD_ENTRIES:
            return plain
        tried = [
            self._try(view, self._fit(view, np.argsort(-view.survey.values)[: int(share * view.count)]))
            for share in SHARES_LEFT_OUT
        ]
        options = []
        for count in [0, *sizes_up_to(view.count // 2)]:
            best = min(tried, key=partial(_Tried.loss_with, hot=count))
            label, make = f"{count} hot ids, a byte for each other", partial(self._make, view, best, count)
            options.append(Option(label, self._shapes(view, count), best.loss_with(count), make))
        return plain + options

    def _try(self, view: TableView, book: Codebook) -> _Tried:
        base = view.losses(lambda piece: _coded(view, book, piece))
        order, gains = rank_by_gain(base - codec_losses(view, "int8"))
        return _Tried(book, base, order, float(base.sum(dtype=np.float64)) - gains)

    def _shapes(self, view: TableView, count: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        shapes = number_shapes(centre=(FP32, 1, view.dim), book=(INT8_ROWS, COLD_ENTRIES, view.dim))
        shapes["codes"] = (torch.uint8, (view.count,))
        if count:
            shapes |= number_shapes(hot=(INT8_ROWS, count, view.dim)) | index_shapes(view.count, count)
        return shapes

    def _fit(self, view: TableView, hot: np.ndarray) -> Codebook:
        cold = torch.from_numpy(~np.isin(view.sample.numbers, hot))
        rows = view.sample.rows
        return fit_codebook(
            rows.residual[cold], rows.weights[cold], view.survey.metric, COLD_ENTRIES, seed=(view.seed, len(hot))
        )

    def _make(self, view: TableView, tried: _Tried, count: int) -> HeldTable:
        """The codebook fitted anew to the rows that need it, unless the tried one serves them better."""
        ids, cold = tried.order[:count], tried.order[count:]
        fitted = self._fit(view, ids)
        losses = view.losses(lambda piece: _coded(view, fitted, piece))
        book = fitted if losses[cold].sum() < tried.losses[cold].sum() else tried.book
        rounded = Codebook(INT8_ROWS.decode(INT8_ROWS.encode(book.entries)), book.metric)
        codes = torch.cat([rounded.assign(view.rows[piece] - view.survey.centre) for piece in view.chunks()])
        numbers: dict[str, tuple[Storage, Tensor]] = {
            "centre": (FP32, view.survey.centre.unsqueeze(0)),
            "book": (INT8_ROWS, book.entries),
        }
        fixed, spec = {"codes": codes.to(torch.uint8)}, None
        if len(ids):
            hot = make_hot_set(view.count, ids)
            numbers["hot"] = (INT8_ROWS, view.rows[torch.from_numpy(hot.ids)])
            fixed, spec = fixed | hot.tensors(), hot.spec
        return HeldTable(numbers, fixed, _DecodeHotRows(spec), ("hot",))


@dataclass(frozen=True)
class _Tried:
    """A codebook with what each row loses to it, the ids in the order of what an int8 row would gain, and the table's
    loss with the first 0, 1, ... of them as such rows.
    """

    book: Codebook
    losses: np.ndarray
    order: np.ndarray
    with_hot: np.ndarray

    def loss_with(self, hot: int) -> float:
        """The table's loss with so many hot rows."""
        return float(self.with_hot[hot])


def _coded(view: TableView, book: Codebook, piece: slice) -> Tensor:
    return book.entries[book.assign(view.rows[piece] - view.survey.centre)] + view.survey.centre


@dataclass(frozen=True)
class _DecodeHotRows:
    spec: IndexSpec | None

    def __call__(self, numbers: Mapping[str, Tensor], fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        if "centre" in numbers:
            base = numbers["centre"].expand(len(ids), -1)
        else:
            base = torch.zeros(len(ids), numbers["hot"].shape[1])
        if "book" in numbers:
            base = base + numbers["book"][fixed["codes"][ids].to(torch.int64)]
        if self.spec is None:
            return base
        return lay_over(base, self.spec, fixed, ids, lambda places: numbers["hot"][places])
