"""Product quantisation weighted by frequency, of whole tables and of hot ids behind an index.

Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (2011); the weights are the rows' own, and
sub-vectors are clustered and chosen in the model's metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.sensitivity import root_of
from memrec_convert.encoding.bits import pack_codes, packed_bytes, read_codes
from memrec_convert.encoding.index import IndexSpec
from memrec_convert.lab.held import FP32, BlockInt8, HeldTable, Numbers, number_shapes
from memrec_convert.lab.rivals.clusters import fit_codebook
from memrec_convert.lab.rivals.hot import index_shapes, lay_over, make_hot_set, rank_by_gain, useful_counts
from memrec_convert.lab.rivals.rival import Option, sizes_up_to
from memrec_convert.lab.view import TableView

BITS = (4, 6, 8)
BITS_OF_ONE_PART = (1, 2, 3, 4, 5, 6, 7, 8)
MOST_BITS = 128
SWEEPS = 2
ENCODED_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Cut:
    """A row of `dim` in `parts` equal sub-vectors of `bits` each."""

    parts: int
    bits: int
    dim: int

    @property
    def size(self) -> int:
        """Entries per sub-vector."""
        return 1 << self.bits

    @property
    def width(self) -> int:
        """Of a sub-vector."""
        return self.dim // self.parts

    def column(self, part: int) -> slice:
        """Where a sub-vector lies in a row."""
        return slice(part * self.width, (part + 1) * self.width)


@dataclass(frozen=True)
class ProductBook:
    """entries float32 [parts * size, width], those of one part behind the other; sensitivity G float32 [dim, dim]."""

    cut: Cut
    entries: Tensor
    sensitivity: Tensor

    def encode(self, points: Tensor) -> Tensor:
        """Codes int64 [n, parts] of rows less centre: part by part, then again with the others' errors in view.

        With a metric that couples the parts the best entry of one depends on the rest, so single parts are chosen anew
        in turn (iterated conditional modes).
        """
        cut, codes = self.cut, torch.zeros(len(points), self.cut.parts, dtype=torch.int64)
        rest = points.clone()
        for sweep in range(SWEEPS + 1 if cut.parts > 1 else 1):
            for part in range(cut.parts):
                own, book = cut.column(part), self._part(part)
                if sweep:
                    rest[:, own] += book[codes[:, part]]
                block = self.sensitivity[own, own]
                # |e - c|_G**2 over c: the part's own block where nothing else is decided yet, all of G afterwards.
                wanted = rest @ self.sensitivity[:, own] if sweep else rest[:, own] @ block
                half_norms = ((book @ block) * book).sum(dim=1) / 2
                codes[:, part] = torch.addmm(half_norms, wanted, book.T, alpha=-1).argmin(dim=1)
                rest[:, own] -= book[codes[:, part]]
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Rows less centre, float32 [n, dim]."""
        return decode_product(self.entries, codes, self.cut)

    def _part(self, part: int) -> Tensor:
        return self.entries[part * self.cut.size : (part + 1) * self.cut.size]


def decode_product(entries: Tensor, codes: Tensor, cut: Cut) -> Tensor:
    """The named entries side by side, float32 [n, dim]."""
    numbers = codes + torch.arange(cut.parts) * cut.size
    return entries[numbers].reshape(len(codes), cut.dim)


def list_cuts(view: TableView) -> list[Cut]:
    """Cuts worth trying: codebooks of no more entries than half of the rows, codes of MOST_BITS at most."""
    parts = [parts for parts in (1, 2, 4, 5, 8, 10, 16, 20, 32, 64) if view.dim % parts == 0]
    cuts = [Cut(p, bits, view.dim) for p in parts for bits in (BITS_OF_ONE_PART if p == 1 else BITS)]
    return [cut for cut in cuts if 2 * cut.size <= view.count and cut.parts * cut.bits <= min(MOST_BITS, 8 * view.dim)]


def fit_product(view: TableView, cut: Cut, points: Tensor, weights: Tensor) -> ProductBook:
    """Codebooks of a cut for rows less centre (float32 [n, dim]), already rounded as they will be stored."""
    sensitivity = view.survey.metric @ view.survey.metric.T
    books = []
    for part in range(cut.parts):
        own = cut.column(part)
        metric = root_of(sensitivity[own, own].to(torch.float64))
        books.append(fit_codebook(points[:, own], weights, metric, cut.size, seed=(view.seed, part)).entries)
    storage = BlockInt8(cut.parts)
    return ProductBook(cut, storage.decode(storage.encode(torch.cat(books))), sensitivity)


@dataclass(frozen=True)
class _Fitted:
    book: ProductBook
    distances: np.ndarray

    @property
    def cut(self) -> Cut:
        return self.book.cut


def fit_all_cuts(view: TableView) -> list[_Fitted]:
    """Every cut fitted to the sample, with the distances at which it holds the sampled rows."""

    def fit() -> list[_Fitted]:
        rows, found = view.sample.rows, []
        for cut in list_cuts(view):
            book = fit_product(view, cut, rows.residual, rows.weights)
            left = rows.residual - book.decode(book.encode(rows.residual))
            found.append(_Fitted(book, view.distances(left)))
        return found

    fitted: list[_Fitted] = view.recall("product", fit, (_Fitted, ProductBook, Cut))
    return fitted


@dataclass(frozen=True)
class WholeProduct:
    """Every row of a table as one product code."""

    name: str = "product quantisation"

    def options(self, view: TableView) -> list[Option]:
        """One per cut."""
        return [
            Option(
                describe_cut(one.cut),
                _shapes(view, one.cut, view.count),
                view.estimate(one.distances),
                partial(_make_whole, view, one.book),
            )
            for one in fit_all_cuts(view)
        ]


@dataclass(frozen=True)
class HotProduct:
    """Hot ids as product codes behind an index, the others at the mean row."""

    name: str = "product quantisation of hot rows"

    def options(self, view: TableView) -> list[Option]:
        """One per cut and number of hot ids; whole tables as well."""
        options = WholeProduct(self.name).options(view)
        at_centre = view.survey.values[view.sample.numbers].astype(np.float64)
        weights = view.survey.weights[view.sample.numbers]
        stands_for = view.sample.stands_for.numpy().astype(np.float64)
        energy, sampled = float(view.survey.values.sum(dtype=np.float64)), float((at_centre * stands_for).sum())
        for one in fit_all_cuts(view):
            gain = at_centre - weights * one.distances
            order, _ = rank_by_gain(gain)
            gain = gain[order] * stands_for[order]
            gains = np.concatenate([[0.0], np.cumsum(gain)]) * (energy / sampled if sampled > 0 else 0.0)
            ranks = np.concatenate([[0.0], np.cumsum(stands_for[order])])
            sizes = sizes_up_to(view.count, least=2 * one.cut.size)
            gains_at = np.interp(sizes, ranks, gains)
            for count in useful_counts(gains_at, list(range(len(sizes)))) if sizes else ():
                options.append(
                    Option(
                        f"{sizes[count]} hot ids at {describe_cut(one.cut)}",
                        _shapes(view, one.cut, sizes[count]) | index_shapes(view.count, sizes[count]),
                        max(0.0, energy - float(gains_at[count])),
                        partial(_make_hot, view, one.book, sizes[count]),
                    )
                )
        return options


def describe_cut(cut: Cut) -> str:
    """As people write it."""
    return f"{cut.parts} x {cut.bits} bits"


def _shapes(view: TableView, cut: Cut, count: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    book = (BlockInt8(cut.parts), cut.parts * cut.size, cut.width)
    shapes = number_shapes(centre=(FP32, 1, view.dim), book=book)
    shapes["codes"] = (torch.uint8, (packed_bytes(count, cut.parts * cut.bits),))
    return shapes


def _make_whole(view: TableView, book: ProductBook) -> HeldTable:
    return _hold(view, book, [view.rows[piece] for piece in view.chunks()], {}, None)


def _make_hot(view: TableView, book: ProductBook, count: int) -> HeldTable:
    """Ids by what they gain from the codes of all rows; then codebooks anew for the chosen ones alone."""
    rows, cut, centre = view.sample.rows, book.cut, view.survey.centre
    losses = view.losses(lambda piece: book.decode(book.encode(view.rows[piece] - centre)) + centre)
    order, _ = rank_by_gain(view.survey.values - losses)
    hot = make_hot_set(view.count, order[:count])
    member = torch.from_numpy(np.isin(view.sample.numbers, hot.ids))
    if int(member.sum()) >= 4 * cut.size:
        anew = fit_product(view, cut, rows.residual[member], rows.weights[member])
        book = min(book, anew, key=partial(_loss_on, view, rows.residual[member], rows.weights[member]))
    pieces = torch.split(view.rows[torch.from_numpy(hot.ids)], ENCODED_AT_ONCE)
    return _hold(view, book, list(pieces), hot.tensors(), hot.spec)


def _loss_on(view: TableView, points: Tensor, weights: Tensor, book: ProductBook) -> float:
    distances = view.distances(points - book.decode(book.encode(points)))
    return float((distances * weights.numpy()).sum(dtype=np.float64))


def _hold(
    view: TableView, book: ProductBook, pieces: list[Tensor], index: dict[str, Tensor], spec: IndexSpec | None
) -> HeldTable:
    codes = torch.cat([book.encode(piece - view.survey.centre) for piece in pieces])
    packed = pack_codes(codes.numpy().astype(np.uint16), [book.cut.bits] * book.cut.parts)
    numbers: Numbers = {
        "centre": (FP32, view.survey.centre.unsqueeze(0)),
        "book": (BlockInt8(book.cut.parts), book.entries),
    }
    return HeldTable(numbers, {"codes": torch.from_numpy(packed), **index}, _DecodeProduct(book.cut, spec))


@dataclass(frozen=True)
class _DecodeProduct:
    cut: Cut
    spec: IndexSpec | None

    def __call__(self, numbers: Mapping[str, Tensor], fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        if self.spec is None:
            return self._read(numbers, fixed, ids)
        base = numbers["centre"].expand(len(ids), -1)
        return lay_over(base, self.spec, fixed, ids, lambda places: self._read(numbers, fixed, places))

    def _read(self, numbers: Mapping[str, Tensor], fixed: Mapping[str, Tensor], places: Tensor) -> Tensor:
        bits, width = self.cut.bits, self.cut.parts * self.cut.bits
        codes = [
            read_codes(fixed["codes"], places, entry_bits=width, first_bit=part * bits, bits=bits)
            for part in range(self.cut.parts)
        ]
        return numbers["centre"] + decode_product(numbers["book"], torch.stack(codes, dim=1), self.cut)
