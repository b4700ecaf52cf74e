"""Rate curves: what each way of holding a table costs in logit**2 per class of rows; what a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STAGE_LISTS: tuple[tuple[int, ...], ...] = ((256,) * 7, (4, 4, *(256,) * 6), (64,) * 10, (2, 2, 4, 4, *(16,) * 9))
"""Small first stages give every row of a huge table a cheap code; small later ones spare codebook bytes.

Of 35 lists, tables with and without a log lose 0.7 % less than of these four: benchmarks/stage_lists.py.
"""

SMALL_LISTS: tuple[tuple[int, ...], ...] = ((8,) * 12, (16,) * 12, (32,) * 10)
"""Further lists, for budgets of which the codebooks of `STAGE_LISTS` would be most."""

LARGEST_BOOK = max(sum(sizes) for sizes in STAGE_LISTS)
"""Entries of the largest codebook."""


@dataclass(frozen=True)
class ListCurve:
    """A stage list and its distortion: float64 [depth + 1, classes], the sum over rows of weight * |(t - z) A|**2."""

    sizes: tuple[int, ...]
    distortion: np.ndarray


@dataclass(frozen=True)
class TableCurves:
    """One table as the planner sees it.

    class_rows int64 [classes], most valuable first; lists: the replaced forms; stored: per row codec the distortion
    of stored rows, float64 [classes]; kept: per row codec that of the whole table. A table that is left at its mean row
    whatever the price has the empty list alone, and neither.
    """

    name: str
    rows: int
    dim: int
    class_rows: np.ndarray
    lists: tuple[ListCurve, ...]
    stored: Mapping[str, np.ndarray]
    kept: Mapping[str, float]

    @property
    def takes_codes(self) -> bool:
        """Whether some list of stages is among its forms."""
        return any(one.sizes for one in self.lists)
