"""The forms that a table can take, and the best one at a price per byte. Pure: numbers in, a choice out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.encoding.index import choose_index
from memrec_convert.encoding.spec import LevelSpec, TableSpec, count_bytes, count_row_bytes
from memrec_convert.planning.curves import ListCurve, TableCurves

BYTES_PER_TENSOR = 200
"""About what one tensor adds to the header; only the search uses it, the final count is exact."""

T = TypeVar("T")

_ROUNDING = 1e-9
"""A bound on costs gives way by this share: sums in another order differ in their last bits."""

_KEY_BITS_GUESS = 9.0
_KEY_BITS_TRIED = (3.0, 6.0, 9.0, 13.0)


@dataclass(frozen=True)
class LevelChoice:
    """A level: codes down to `depth`, or (depth 0) rows stored in `codec`."""

    depth: int = 0
    codec: str = ""


@dataclass(frozen=True)
class FormChoice:
    """How one table is held: `kept` names a row codec, else `sizes`, `base_depth` and `levels` say how it is replaced.

    counts are the ids per level, distortion the predicted sum of weight * (logit change)**2, nbytes exact for `counts`
    but for the header.
    """

    kept: str = ""
    sizes: tuple[int, ...] = ()
    base_depth: int = 0
    levels: tuple[LevelChoice, ...] = ()
    counts: tuple[int, ...] = ()
    distortion: float = 0.0
    nbytes: int = 0

    @property
    def depths(self) -> tuple[int, ...]:
        """All depths at which some row is held."""
        return (self.base_depth, *(level.depth for level in self.levels if not level.codec))


def spec_of(choice: FormChoice, rows: int, dim: int, shifts: tuple[int, ...] | None = None) -> TableSpec:
    """The spec of a table held as `choice`; levels that no id uses, and stages below the deepest used, are left out."""
    if choice.kept:
        return TableSpec(rows, dim, "kept", codec=choice.kept)
    levels = tuple(
        LevelSpec("rows", choose_index(rows, count), codec=level.codec)
        if level.codec
        else LevelSpec("codes", choose_index(rows, count), depth=level.depth)
        for level, count in zip(choice.levels, choice.counts, strict=True)
        if count
    )
    deepest = max([choice.base_depth, *(level.depth for level in levels)])
    stages = choice.sizes[:deepest]
    shifts = (0,) * deepest if shifts is None else shifts[:deepest]
    return TableSpec(rows, dim, "replaced", stages=stages, shifts=shifts, base_depth=choice.base_depth, levels=levels)


def count_form_bytes(choice: FormChoice, rows: int, dim: int) -> int:
    """Bytes of the table's tensors with an allowance for their entries in the header."""
    return _count_bytes(replace(choice, distortion=0.0, nbytes=0), rows, dim)


@lru_cache(maxsize=1 << 16)
def _count_bytes(choice: FormChoice, rows: int, dim: int) -> int:
    """The same; a search at ever closer prices meets the same forms again and again."""
    shapes = spec_of(choice, rows, dim).tensors()
    return count_bytes(shapes.values()) + BYTES_PER_TENSOR * len(shapes)


def choose_form(
    curves: TableCurves, price: float, *, thorough: bool = False, methods: str = "auto", fine: bool = True
) -> FormChoice:
    """The form that minimises distortion + price * bytes.

    methods: "auto" takes everything, "codes" no stored rows, "int8" kept int8 tables or stored int8 rows and the mean,
    "mean" everything over the mean row: no codes for all rows; "based" nothing over the mean row, but for a table that
    has no form beside it.
    thorough tries several guesses of what a key costs instead of one; fine=False leaves the fine codecs out.
    """
    if not fine:
        curves = replace(curves, stored=_without_fine(curves.stored), kept=_without_fine(curves.kept))
    found = [_kept_choice(curves, codec) for codec in curves.kept if methods != "int8" or codec == "int8"]
    lists = curves.lists[:1] if methods == "int8" else curves.lists
    at_mean = methods != "based" or not curves.kept
    bounds = sorted(
        (bound, number, base)
        for number, curve in enumerate(lists)
        for base, bound in enumerate(_bound_bases(curves, curve, price, methods))
        if base or at_mean
    )
    cheapest = min((choice.distortion + price * choice.nbytes for choice in found), default=math.inf)
    for bits in _KEY_BITS_TRIED if thorough else (_KEY_BITS_GUESS,):
        for bound, number, base in bounds:
            if bound > cheapest:
                break
            found.append(_replaced_choice(curves, lists[number], base, price, bits, methods))
            cheapest = min(cheapest, found[-1].distortion + price * found[-1].nbytes)
    return min(found, key=lambda choice: (choice.distortion + price * choice.nbytes, choice.nbytes, choice.sizes))


def _without_fine(by_codec: Mapping[str, T]) -> dict[str, T]:
    return {codec: value for codec, value in by_codec.items() if codec not in FINE_CODECS}


def _bound_bases(curves: TableCurves, curve: ListCurve, price: float, methods: str) -> list[float]:
    """Per base a price below that of any form over it: each class where it is cheapest, and keys free of charge."""
    bits = _sum_bits(curve.sizes)
    coded = price * curves.class_rows * bits[:, None] / 8
    costs = curve.distortion + coded
    if methods != "int8":
        costs = np.minimum.accumulate(costs[::-1])[::-1]  # whatever is no shallower than the base
    for codec, distortion in curves.stored.items() if methods != "codes" else ():
        stored = distortion + price * curves.class_rows * count_row_bytes(codec, curves.dim)
        costs = np.minimum(costs, stored + coded)
    books = price * curves.dim * np.cumsum([0, *curve.sizes])
    bounds: list[float] = ((costs.sum(axis=1) + books) * (1 - _ROUNDING)).tolist()
    return bounds[:1] if methods in ("int8", "mean") else bounds


@lru_cache
def _sum_bits(sizes: tuple[int, ...]) -> np.ndarray:
    """Bits of a row's codes at every depth, int64 [stages + 1]."""
    return np.cumsum([0, *(size.bit_length() - 1 for size in sizes)])


def _kept_choice(curves: TableCurves, codec: str) -> FormChoice:
    choice = FormChoice(kept=codec, distortion=curves.kept[codec])
    return replace(choice, nbytes=count_form_bytes(choice, curves.rows, curves.dim))


def _replaced_choice(
    curves: TableCurves, curve: ListCurve, base: int, price: float, key_bits: float, methods: str
) -> FormChoice:
    """The best levels over this base: each class of rows takes whichever of base and levels is cheapest."""
    bits = _sum_bits(curve.sizes)
    options = [] if methods == "int8" else [LevelChoice(depth=d) for d in range(base + 1, len(bits))]
    own = (bits[base + 1 :] - bits[base] + key_bits)[: len(options), None]
    costs = curve.distortion[base + 1 : base + 1 + len(options)] + price * curves.class_rows * own / 8
    if methods != "codes" and curves.stored:
        options += [LevelChoice(codec=codec) for codec in curves.stored]
        row_bytes = np.array([count_row_bytes(codec, curves.dim) + key_bits / 8 for codec in curves.stored])
        costs = np.vstack([costs, *curves.stored.values()])
        costs[-len(row_bytes) :] += price * curves.class_rows * row_bytes[:, None]
    levels = _best_pair(curve.distortion[base], costs, options, base, curve.sizes, curves.dim * price)
    table = np.array([curve.distortion[base], *(costs[options.index(level)] for level in levels)])
    taken = table.argmin(axis=0)
    counts = tuple(int(curves.class_rows[taken == number + 1].sum()) for number in range(len(levels)))
    pure = np.array([curve.distortion[base], *(_distortion(curves, curve, level) for level in levels)])
    filled = [number for number, count in enumerate(counts) if count]
    choice = FormChoice(
        sizes=curve.sizes,
        base_depth=base,
        levels=tuple(levels[number] for number in filled),
        counts=tuple(counts[number] for number in filled),
    )
    nbytes = _count_bytes(choice, curves.rows, curves.dim)
    return replace(choice, distortion=float(pure[taken, np.arange(pure.shape[1])].sum()), nbytes=nbytes)


def _distortion(curves: TableCurves, curve: ListCurve, level: LevelChoice) -> np.ndarray:
    return curves.stored[level.codec] if level.codec else curve.distortion[level.depth]


def mix_forms(curves: TableCurves, form: FormChoice, richer: FormChoice) -> FormChoice:
    """A form between two that a price apart are best: it can take any bytes between theirs, once ids are assigned.

    Rows that are all kept in one codec or in the next become stored rows, some in the one and some in the other.
    """
    if not form.kept or form.kept == richer.kept or not curves.lists:
        return form
    if not richer.kept:
        return richer
    half = curves.rows // 2
    levels = LevelChoice(codec=richer.kept), LevelChoice(codec=form.kept)
    return FormChoice(levels=levels, counts=(half, curves.rows - half), distortion=form.distortion, nbytes=form.nbytes)


def _best_pair(
    base_cost: np.ndarray,
    costs: np.ndarray,
    options: list[LevelChoice],
    base: int,
    sizes: tuple[int, ...],
    entry_price: float,
) -> list[LevelChoice]:
    """No level, one, or two: whichever lowers the sum over classes plus the price of the codebooks most."""
    entries = np.cumsum([0, *sizes])
    best, levels = float(base_cost.sum() + entry_price * entries[base]), list[LevelChoice]()
    if not options:
        return levels
    floor = np.minimum(base_cost, costs)
    sums = np.minimum(floor[:, None, :], floor[None, :, :]).sum(axis=2)
    reach = np.array([entries[max(base, option.depth)] for option in options])
    sums += entry_price * np.maximum(reach[:, None], reach[None, :])
    first, second = np.unravel_index(int(sums.argmin()), sums.shape)
    if sums[first, second] < best:
        levels = [options[number] for number in sorted({int(first), int(second)})]
    return levels
