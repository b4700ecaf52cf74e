"""What every rival is: a name, and for each table the ways in which it could hold it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from memrec_convert.encoding.spec import TensorShapes, count_bytes
from memrec_convert.lab.held import HeldTable
from memrec_convert.lab.view import TableView

HEADER_BYTES_PER_TENSOR = 90
"""About what a tensor adds to a file's header; only the search uses it, the final count is exact."""


@dataclass(frozen=True)
class Option:
    """One way to hold a table: its tensors, what it is expected to lose, and how it is made.

    distortion is the sum over rows of weight * |(row - held row) A|**2, in units of logit**2, for every rival alike.
    """

    label: str
    shapes: TensorShapes
    distortion: float
    build: Callable[[], HeldTable] = field(repr=False)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the tensors, with an allowance for their entries in the header."""
        return count_bytes(self.shapes.values()) + HEADER_BYTES_PER_TENSOR * len(self.shapes)


class Rival(Protocol):
    """A method of holding tables. What it may do with any table (keep it, take its mean row) comes on top."""

    @property
    def name(self) -> str:
        """Its usual name."""
        ...

    def options(self, view: TableView) -> Sequence[Option]:
        """Its ways to hold this table, from few bytes to many."""
        ...


def sizes_up_to(most: int, *, least: int = 8, per_octave: float = 24) -> list[int]:
    """Whole numbers from `least` to `most` in equal steps of their logarithm."""
    if most < least:
        return []
    steps = int(np.log2(most / least) * per_octave) + 1
    return sorted({round(least * 2 ** (step / per_octave)) for step in range(steps)} | {most})
