"""How often each row counts in the fit: from the log, from the optimizer's state, or from how far rows have moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.columns import IN_MEMORY, Column, Scratch, slices
from memrec_convert.distill.rows import RowReader, read_chunks
from memrec_convert.kernels.encoder import square_norms as row_norms

COUNT_OFFSET = 0.25
"""What an id that the log never shows still counts: the original may have been trained on it."""


@dataclass(frozen=True)
class TableWeights:
    """Row weights float32 [rows] and the metric float32 [dim, dim] that goes with them."""

    rows: Column
    metric: Tensor


def weigh_by_log(counts: np.ndarray, factors: Column | None = None, *, scratch: Scratch = IN_MEMORY) -> Column:
    """Occurrences in the training log plus COUNT_OFFSET, times each row's own sensitivity (`factors`), float32 [rows].

    Without factors, all rows of a table are taken to be equally sensitive.
    """
    weights = scratch.column(len(counts), np.float32)
    for part in slices(len(counts)):
        times = counts[part] + COUNT_OFFSET
        weights[part] = (times if factors is None else times * factors[part]).astype(np.float32)
    return weights


def weigh_by_optimizer(
    states: Sequence[RowReader], dims: Sequence[int], *, scratch: Scratch = IN_MEMORY
) -> list[TableWeights]:
    """From Adagrad's sums of squared gradients, [rows, dim] or row-wise [rows], one per table.

    A row's weight is its mean over the dimensions: occurrences times sensitivity, which also carries the scale between
    tables. The column profile, scaled to trace = dim, is the metric. One common factor brings the mean weight to 1.
    """
    found = [_read_state(state, scratch) for state in states]
    total, rows = sum(_sum(w) for w, _ in found), sum(len(w) for w, _ in found)
    factor = rows / total if total > 0 else 1.0
    weights = []
    for (row_weights, columns), dim in zip(found, dims, strict=True):
        profile = np.ones(dim) if len(columns) != dim or columns.sum() <= 0 else columns * (dim / columns.sum())
        metric = torch.diag(torch.from_numpy(np.sqrt(profile)).to(torch.float32))
        weights.append(TableWeights(_round(row_weights, factor, scratch), metric))
    return weights


def weigh_by_displacement(
    readers: Sequence[RowReader], *, norms: Sequence[Column | None] = (), scratch: Scratch = IN_MEMORY
) -> list[TableWeights]:
    """From |row|**2 less what rows drawn from U(-1/sqrt(rows), 1/sqrt(rows)) have: a trained row has moved away.

    Every table's weights sum to the same total, since each feature is looked up once a sample. The metric is identity.
    norms: per table |row|**2, float64 [rows], where it is known already.
    """
    most = max(reader.shape[0] for reader in readers)
    weights = []
    for number, reader in enumerate(readers):
        rows, dim = reader.shape
        known = norms[number] if norms else None
        moved = scratch.column(rows, np.float64)
        if known is None:
            for start, chunk in read_chunks(reader):
                moved[start : start + len(chunk)] = square_norms(chunk)
        for part in slices(rows):
            moved[part] = np.maximum((moved if known is None else known)[part] - dim / (3 * rows), 0)
        total = _sum(moved)
        if total > 0:
            weights.append(TableWeights(_round(moved, most / total, scratch), torch.eye(dim)))
        else:
            weights.append(TableWeights(_fill(rows, 1.0, scratch), torch.eye(dim)))
    return weights


def square_norms(rows: Tensor) -> np.ndarray:
    """|row|**2 of each row (float32 [n, dim]), float64 [n]; not finite where a row is not."""
    found: np.ndarray = row_norms(rows).numpy()
    return found


def weigh_uniformly(readers: Sequence[RowReader], *, scratch: Scratch = IN_MEMORY) -> list[TableWeights]:
    """Every row of a table counts alike, and every table as much as the others."""
    most = max(reader.shape[0] for reader in readers)
    return [
        TableWeights(_fill(reader.shape[0], most / reader.shape[0], scratch), torch.eye(reader.shape[1]))
        for reader in readers
    ]


def _fill(rows: int, weight: float, scratch: Scratch) -> Column:
    weights = scratch.column(rows, np.float32)
    for part in slices(rows):
        weights[part] = np.full(part.stop - part.start, weight, dtype=np.float32)
    return weights


def _sum(column: Column) -> float:
    return sum(float(column[part].sum(dtype=np.float64)) for part in slices(len(column)))


def _round(column: Column, factor: float, scratch: Scratch) -> Column:
    weights = scratch.column(len(column), np.float32)
    for part in slices(len(column)):
        weights[part] = round_to_half_octaves(column[part] * factor)
    return weights


def round_to_half_octaves(weights: np.ndarray) -> np.ndarray:
    """Each weight above zero to the nearest power of sqrt(2): noise goes, and rows of one weight form groups."""
    positive = weights > 0
    exponent = np.round(2 * np.log2(np.where(positive, weights, 1.0))) / 2
    return np.where(positive, np.exp2(exponent), 0.0).astype(np.float32)


def describe_fault(state: RowReader) -> str:
    """Why an Adagrad state weighs no rows ("" where it does): not finite, negative, zero, or alike in all rows."""
    low, high = np.inf, -np.inf
    for _, sums in _read_sums(state):
        if not np.isfinite(sums).all():
            return "holds NaN or infinite sums"
        if (sums < 0).any():
            return "holds negative sums, which no sum of squares is"
        means = sums.mean(axis=1)
        low, high = min(low, means.min()), max(high, means.max())
    if high <= 0:
        return "is zero, as before training"
    return "is alike in all rows, as before training" if low == high and state.shape[0] > 1 else ""


def _read_sums(state: RowReader) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs (first row, sums float64 [n, dim]) over a state, with dim 1 for a row-wise one."""
    dim = 1 if len(state.shape) == 1 else state.shape[1]
    step = max(8, (1 << 20) // dim)
    for start in range(0, state.shape[0], step):
        chunk = state.read_rows(start, min(start + step, state.shape[0]))
        yield start, chunk.reshape(-1, dim).astype(np.float64)


def _read_state(state: RowReader, scratch: Scratch) -> tuple[Column, np.ndarray]:
    """The mean over the dimensions per row, and the sum over rows per dimension (of length 1 for a row-wise state)."""
    rows = scratch.column(state.shape[0], np.float64)
    columns: np.ndarray = np.zeros(1 if len(state.shape) == 1 else state.shape[1])
    for start, chunk in _read_sums(state):
        rows[start : start + len(chunk)] = chunk.mean(axis=1)
        columns += chunk.sum(axis=0)
    return rows, columns
