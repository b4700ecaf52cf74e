"""Reads the rows of a checkpoint's tables once and says what they are like: `inspect --scan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from memrec_convert.checkpoint.source import SourceTable
from memrec_convert.checkpoint.tensor_ref import Array, StoredTensor

BYTES_PER_CHUNK = 4 << 20
HASHES_AT_ONCE = 1 << 25
"""Hashes that are held to be compared; a longer table is read once for each share of them."""

_MINUS_ZERO = np.uint32(1 << 31)
_SEED = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class TableScan:
    """Counts of rows; norms of those that are finite, None where none is.

    zero rows are zeros throughout, constant ones hold another number throughout, duplicate ones repeat an earlier row
    (by a 64-bit hash), nonfinite ones hold NaN or infinite values and count as nothing else.
    """

    zero_rows: int
    constant_rows: int
    duplicate_rows: int
    nonfinite_rows: int
    norm_min: float | None
    norm_median: float | None
    norm_max: float | None

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def scan_tables(tables: Sequence[SourceTable], tell: Callable[[str, int, int], None]) -> list[TableScan]:
    """The rows of every table, in chunks; `tell` hears of (stage, bytes read, bytes in all).

    CheckpointError where a file has changed. Holds 12 bytes for each of at most HASHES_AT_ONCE rows, and 4 for others.
    """
    total = sum(4 * table.rows * table.dim * count_passes(table.weight) for table in tables)
    seen = 0

    def heard(nbytes: int) -> None:
        nonlocal seen
        seen += nbytes
        tell("scan rows", seen, total)

    return [scan_rows(table.weight, heard) for table in tables]


def count_passes(weight: StoredTensor) -> int:
    """How often a table is read."""
    return max(1, -(-weight.rows // HASHES_AT_ONCE))


def scan_rows(weight: StoredTensor, heard: Callable[[int], None] = lambda _: None) -> TableScan:
    """One table's rows; `heard` is told of the bytes of each chunk, as float32."""
    shares = count_passes(weight)
    norms, nonfinite, zero, constant, repeated = np.empty(weight.rows, dtype=np.float32), 0, 0, 0, 0
    finite = 0
    for share in range(shares):
        hashes, held = np.empty(weight.rows if shares == 1 else 2 * HASHES_AT_ONCE, dtype=np.uint64), 0
        for rows in _read_chunks(weight, heard):
            sound = rows[np.isfinite(rows).all(axis=1)]
            own = hash_rows(sound)
            own = own if shares == 1 else own[own % np.uint64(shares) == share]
            if held + len(own) > len(hashes):  # so many are only where rows repeat
                distinct = np.unique(hashes[:held])
                repeated += held - len(distinct)
                held = len(distinct)
                hashes[:held] = distinct
            hashes[held : held + len(own)] = own
            held += len(own)
            if share == 0:
                nonfinite += len(rows) - len(sound)
                alike = (sound == sound[:, :1]).all(axis=1)
                zero += int((alike & (sound[:, 0] == 0)).sum())
                constant += int((alike & (sound[:, 0] != 0)).sum())
                wide = sound.astype(np.float64)
                norms[finite : finite + len(sound)] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
                finite += len(sound)
        own = hashes[:held]
        own.sort()
        repeated += int((own[1:] == own[:-1]).sum())
    return TableScan(zero, constant, repeated, nonfinite, *_describe(norms[:finite]))


def hash_rows(rows: Array) -> Array:
    """A 64-bit hash of each row (float32 [n, dim]), uint64 [n]; zeros of both signs are equal."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    bits = np.where(bits == _MINUS_ZERO, np.uint32(0), bits)  # as integers: arithmetic would alter and report some NaN
    draw = np.random.default_rng(_SEED)
    offsets, factors = draw.integers(0, 1 << 63, (2, rows.shape[1]), dtype=np.uint64)
    mixed = (bits + offsets) * (factors | np.uint64(1))
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(_SEED)
    found: Array = mixed.sum(axis=1, dtype=np.uint64)
    found ^= found >> np.uint64(29)
    return found


def _read_chunks(weight: StoredTensor, heard: Callable[[int], None]) -> Iterator[Array]:
    for _, rows in weight.chunks(max(1, BYTES_PER_CHUNK // (4 * weight.shape[1]))):
        yield rows.astype(np.float32, copy=False)
        heard(4 * rows.size)


def _describe(norms: Array) -> tuple[float | None, float | None, float | None]:
    """Smallest, middle and largest norm."""
    if not len(norms):
        return None, None, None
    smallest, largest = float(norms.min()), float(norms.max())
    norms.partition(len(norms) // 2)
    return smallest, float(norms[len(norms) // 2]), largest
