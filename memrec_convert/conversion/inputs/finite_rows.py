"""Rows with NaN or infinite values: found, refused, or read with zeros in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.distill.columns import Column, Scratch
from memrec_convert.distill.rows import CHUNKS_PER_RANGE, RowReader, chunk_bounds
from memrec_convert.distill.survey import Distances
from memrec_convert.distill.weights import square_norms
from memrec_convert.errors import NonFiniteRowsError
from memrec_convert.kernels.encoder import measure_rows
from memrec_convert.parallel import ALONE, Crew

LONGEST = 1e15
"""Length of a row up to which its square, times what lookups weigh, is in the range of float32."""


@dataclass
class Lengths:
    """|row|**2, float64 [rows]; and with a centre float32 [dim], squared distances from it, float32 [rows].

    widest: the largest |entry| of any row less the centre.
    """

    norms: Column
    centre: Tensor | None = None
    squared: Column | None = None
    widest: float = 0.0

    @property
    def distances(self) -> Distances | None:
        """Those from the centre, if there is one."""
        return None if self.centre is None else Distances(self.centre, self.squared, self.widest)

    def put(self, part: slice, norms: np.ndarray, squared: np.ndarray, widest: float) -> None:
        """Those of some rows."""
        self.norms[part] = norms
        if self.squared is not None:
            self.squared[part] = squared
            self.widest = max(self.widest, widest)


def make_lengths(shape: tuple[int, ...], scratch: Scratch, centre: Tensor | None = None) -> Lengths:
    """Room for those of rows x dim; from no centre where it has another dim."""
    norms = scratch.column(shape[0], np.float64)
    if centre is None or len(centre) != shape[1]:
        return Lengths(norms)
    return Lengths(norms, centre, scratch.column(shape[0], np.float32))


@dataclass(frozen=True)
class FiniteRows:
    """Rows of a reader with zeros for what is NaN or infinite."""

    inner: RowReader

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""
        return self.inner.shape

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """As the inner reader's, all finite."""
        return _make_finite(self.inner.read_rows(start, stop))

    def read_ids(self, ids: np.ndarray) -> np.ndarray:
        """As the inner reader's, which must be able to, all finite."""
        assert isinstance(self.inner, StoredTensor)
        return _make_finite(self.inner.read_ids(ids))


def _make_finite(rows: np.ndarray) -> np.ndarray:
    finite: np.ndarray = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return finite


def find_nonfinite_rows(
    reader: RowReader,
    where: str,
    *,
    lengths: Lengths | None = None,
    workers: int = 1,
    crew: Crew = ALONE,
    label: str = "",
) -> tuple[int, int]:
    """How many rows hold NaN or infinite values, and the first of them (-1 where there is none).

    `lengths` are filled, rows being read as FiniteRows does. NonFiniteRowsError for a row longer than LONGEST.
    """
    count, first = 0, -1
    centre = None if lengths is None else lengths.centre

    def measure(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, float]]:
        chunk = torch.from_numpy(reader.read_rows(*bounds))
        found = square_norms(chunk)  # in double no finite row's square is out of range
        odd = np.flatnonzero(~np.isfinite(found))
        if len(odd):
            chunk[odd] = torch.from_numpy(_make_finite(chunk[odd].numpy()))
            found[odd] = square_norms(chunk[odd])
        if centre is None:
            return odd, found, (np.zeros(0, dtype=np.float32), 0.0)
        away, widest = measure_rows(chunk, centre=centre)
        return odd, found, (away.numpy(), widest)

    bounds = chunk_bounds(*reader.shape)
    name = f"lengths of {label}" + ("" if centre is None else f", and from {centre.numpy().tobytes().hex()}")
    measured = crew.map(name, measure, bounds, workers=workers, block=CHUNKS_PER_RANGE)
    for (start, stop), (odd, found, distances) in zip(bounds, measured, strict=True):
        if lengths is not None:
            lengths.put(slice(start, stop), found, *distances)
        if len(odd) and first < 0:
            first = start + int(odd[0])
        count += len(odd)
        longest = int(np.argmax(found))
        if found[longest] > LONGEST**2:
            raise NonFiniteRowsError(
                f"{where}: row {start + longest} has the length {found[longest] ** 0.5:.1e}, and beyond {LONGEST:.0e} "
                "distances between rows leave the range of float32; expected rows as training leaves them; repair the "
                "checkpoint, or give one from before they arose."
            )
    return count, first


def refuse_nonfinite(where: str, count: int, first: int) -> NonFiniteRowsError:
    """The error that names the table and its first such row."""
    rows = "1 row holds" if count == 1 else f"{count} rows hold"
    return NonFiniteRowsError(
        f"{where}: {rows} NaN or infinite values, or numbers beyond the range of float32; the first is row {first}; "
        "expected finite numbers; repair the checkpoint, or read such rows as zeros with --allow-nonfinite."
    )
