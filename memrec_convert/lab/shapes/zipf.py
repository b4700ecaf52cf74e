"""How a table would be held whose ids are read by Zipf's law: forms, bytes and lookups, without its numbers.

Stands in for the fit where there is no checkpoint. What a code of so many bits leaves of a row's error is taken from
tables that were measured, so the forecast is of forms and bytes, not of an AUC. Needs no torch: the byte counts here
are those of `encoding.spec`, and a test holds them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from memrec_convert.bench.settings import STEEPEST
from memrec_convert.errors import OptionError
from memrec_convert.planning.curves import STAGE_LISTS

BITS = np.array([0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56], dtype=np.float64)
LEFT = np.array(
    [
        1,
        0.6142,
        0.4338,
        0.3417,
        0.2689,
        0.2483,
        0.2091,
        0.157,
        0.0999,
        0.0545,
        0.0424,
        0.0276,
        0.0162,
        0.0102,
        0.0067,
        0.0045,
    ]
)
"""Share of the squared error of the mean row that is left after so many bits.

The geometric mean over the five tables of more than 20,000 rows in a DLRM on a news log (32 wide) and one on
MovieLens-1M (16 wide), each weighted by its training log."""

LEFT_BY_INT8 = 1e-5
UNSEEN_WEIGHT = 0.25
"""Lookups that every row counts for besides its own, as in the conversion's weights."""

BYTES_PER_TENSOR = 200
_EXACT_RANKS = 4096
_CLASSES_PER_OCTAVE = 8
_KEY_BITS_GUESS = 9.0


@dataclass(frozen=True)
class ZipfClasses:
    """Rows of like rank, the most read first: rows int64 [classes], and their shares of the lookups."""

    rows: np.ndarray
    lookups: np.ndarray


def classify_ranks(rows: int, exponent: float) -> ZipfClasses:
    """A table's ids in classes of ranks; the id of rank r is read in proportion to r**-exponent.

    OptionError for an exponent outside 0 to 10.
    """
    if not 0 <= exponent <= STEEPEST:
        raise OptionError(f"the Zipf exponent is {exponent}; expected a number from 0 (all alike) to {STEEPEST:.0f}.")
    steps = int(np.ceil(np.log2(rows) * _CLASSES_PER_OCTAVE)) if rows > 1 else 0
    starts = np.unique(np.floor(2.0 ** (np.arange(steps + 1) / _CLASSES_PER_OCTAVE)).astype(np.int64))
    edges = np.append(starts[starts <= rows], rows + 1)
    exact = min(rows, _EXACT_RANKS)
    below = np.append(0.0, np.cumsum(np.arange(1, exact + 1, dtype=np.float64) ** -exponent))
    # Beyond that the sum over ranks is an integral from half to half, to less than a millionth.
    first, beyond = edges[:-1], np.maximum(edges, exact + 1)
    masses = below[np.minimum(edges[1:], exact + 1) - 1] - below[np.minimum(first, exact + 1) - 1]
    masses += _integrate(beyond[:-1] - 0.5, beyond[1:] - 0.5, exponent)
    return ZipfClasses(np.diff(edges), masses / masses.sum())


def _integrate(start: np.ndarray, stop: np.ndarray, exponent: float) -> np.ndarray:
    if abs(exponent - 1) < 1e-9:
        logs: np.ndarray = np.log(stop / start)
        return logs
    powers: np.ndarray = (stop ** (1 - exponent) - start ** (1 - exponent)) / (1 - exponent)
    return powers


@dataclass(frozen=True)
class ZipfLevel:
    """An indexed level: codes of `bits` in all (0: int8 rows) for `rows` ids, with their share of the lookups."""

    bits: int
    rows: int
    lookups: float


@dataclass(frozen=True)
class ZipfForm:
    """How one table is held: `kept` int8 or fp32, else base codes of `base_bits` and levels on top.

    entries are the codebooks' as far as used; distortion is in lookups that would be answered by the mean row.
    """

    rows: int
    dim: int
    kept: str = ""
    base_bits: int = 0
    entries: int = 0
    levels: tuple[ZipfLevel, ...] = ()
    distortion: float = 0.0
    nbytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", count_form(self))

    def lookups(self) -> dict[str, float]:
        """Shares of the lookups by form: kept, row, 8-bit code and mean."""
        if self.kept:
            return {"kept": 1.0}
        found = {f"{level.bits}-bit code" if level.bits else "row": level.lookups for level in self.levels}
        base = f"{self.base_bits}-bit code" if self.base_bits else "mean"
        rest = 1.0 - sum(found.values())
        return found | ({base: rest} if sum(level.rows for level in self.levels) < self.rows else {})

    def describe(self) -> str:
        """As a report's table says it."""
        if self.kept:
            return f"{self.kept} rows"
        levels = [
            f"{level.rows} ids {f'at {level.bits} bits' if level.bits else 'as int8 rows'}" for level in self.levels
        ]
        everybody = f"{self.base_bits}-bit codes" if self.base_bits else "mean row"
        leaves_none = sum(level.rows for level in self.levels) == self.rows
        return " + ".join(levels if leaves_none else [everybody, *levels])


def count_form(form: ZipfForm) -> int:
    """Bytes of the table's tensors, with 200 for each one's entry in the header."""
    if form.kept:
        per_row, tensors = (form.dim + 2, 2) if form.kept == "int8" else (4 * form.dim, 1)
        return form.rows * per_row + BYTES_PER_TENSOR * tensors
    total = 4 * (1 + form.dim) + form.entries * form.dim + _packed(form.rows, form.base_bits)
    tensors = 1 + (form.entries > 0) + (form.base_bits > 0)
    for level in form.levels:
        codes = _packed(level.rows, level.bits - form.base_bits) if level.bits else level.rows * (form.dim + 2)
        total += count_index(form.rows, level.rows) + codes
        tensors += 2 if level.bits else 3
    return total + BYTES_PER_TENSOR * tensors


def count_index(rows: int, count: int) -> int:
    """Bytes of the smallest index of `count` among `rows` ids: a bitmap, or keys of 4 to 16 bits in buckets."""
    mixed = max(4, (rows - 1).bit_length())
    sizes = [64 * -(-rows // 480)]
    for bits in range(4, min(16, mixed) + 1):
        buckets = 1 << (mixed - bits)
        if count <= 24 * buckets:
            sizes.append(4 * (buckets // 64 + 1) + 2 * (buckets + 1) + _packed(count, bits))
    return min(sizes)


def _packed(entries: int, bits: int) -> int:
    return (entries * bits + 7) // 8 + 8 if entries * bits else 0


@dataclass(frozen=True)
class ZipfTable:
    """A table before it is planned: its classes and what each weighs in lookups."""

    rows: int
    dim: int
    classes: ZipfClasses
    weights: np.ndarray


def weigh_table(rows: int, dim: int, exponent: float, *, samples: int) -> ZipfTable:
    """A table read once in each of `samples` samples."""
    classes = classify_ranks(rows, exponent)
    return ZipfTable(rows, dim, classes, classes.lookups + UNSEEN_WEIGHT * classes.rows / samples)


def choose_zipf_form(table: ZipfTable, price: float) -> ZipfForm:
    """The form of least distortion + price * bytes."""
    total = float(table.weights.sum())
    found = [
        ZipfForm(table.rows, table.dim, "fp32"),
        ZipfForm(table.rows, table.dim, "int8", distortion=LEFT_BY_INT8 * total),
    ]
    for sizes in ((), *(sizes for sizes in STAGE_LISTS if sum(sizes) <= 2 * table.rows)):
        bits = np.cumsum([0, *(size.bit_length() - 1 for size in sizes)])
        found += [_replace(table, sizes, bits, base, price) for base in range(len(bits))]
    return min(found, key=lambda form: form.distortion + price * form.nbytes)


def _replace(table: ZipfTable, sizes: Sequence[int], bits: np.ndarray, base: int, price: float) -> ZipfForm:
    """Every class takes base or one of the two levels that lower the sum over classes most."""
    left = np.append(np.exp(np.interp(bits[base:], BITS, np.log(LEFT))), LEFT_BY_INT8)
    entries = np.append(np.cumsum([0, *sizes])[base:], sum(sizes[:base]))
    row_bits = np.append(bits[base:] - bits[base], 8 * (table.dim + 2)) + _KEY_BITS_GUESS
    row_bits[0] = 0  # the base has no key
    costs = left[:, None] * table.weights + price * row_bits[:, None] / 8 * table.classes.rows
    floor = np.minimum(costs, costs[0])
    sums = np.minimum(floor[:, None], floor[None, :]).sum(axis=2)
    sums += price * table.dim * np.maximum(entries[:, None], entries[None, :])
    pair = sorted({int(option) for option in np.unravel_index(int(sums.argmin()), sums.shape)} - {0})
    taken = np.array([0, *pair])[costs[[0, *pair]].argmin(axis=0)]
    all_bits = [*(int(one) for one in bits[base:]), 0]
    levels = tuple(
        ZipfLevel(all_bits[option], int(table.classes.rows[member].sum()), float(table.classes.lookups[member].sum()))
        for option in pair
        if (member := taken == option).any()
    )
    used = max(int(entries[option]) for option in [0, *pair] if option == 0 or (taken == option).any())
    distortion = float((left[taken] * table.weights).sum())
    return ZipfForm(table.rows, table.dim, "", int(bits[base]), used, levels, distortion)
