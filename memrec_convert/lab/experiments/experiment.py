"""What an experiment is to the runner: a grid, one measurement per cell, a finding, and a chart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from memrec_convert.errors import OptionError

Cell = Mapping[str, Any]
Row = dict[str, Any]
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class ChartSpec:
    """Which columns of the rows are drawn: x and y, a line per distinct value of `lines`."""

    x: str
    y: str
    lines: tuple[str, ...] = ()
    log_x: bool = True
    log_y: bool = False


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    grid       its values by name, at full size or quick; what a caller may set has these names
    run        one cell with one seed to a row
    find       the rows to the sentence that says what was found
    limits     per name of the grid the least and the largest value
    refuse     says what is wrong with a cell, "" where nothing is
    seeded     whether rows depend on the seed
    """

    name: str
    grid: Callable[[Any, bool], Grid]
    run: Callable[[Any, Cell, int], Row]
    find: Callable[[Sequence[Row]], str]
    chart: ChartSpec
    limits: Mapping[str, tuple[float, float]]
    needs_model: bool = True
    seeded: bool = True
    refuse: Callable[[Cell], str] = lambda _cell: ""

    def cells(self, bench: Any, *, quick: bool, given: Mapping[str, Sequence[float]]) -> list[Cell]:  # noqa: ANN401
        """Every combination of the grid; OptionError for what no measurement can be made of."""
        grid = {**self.grid(bench, quick), **given}
        cells: list[Cell] = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        for cell in cells:
            problem = self.refuse(cell)
            if problem:
                raise OptionError(f"the experiment {self.name} cannot be run: {problem}.")
        return cells

    def read_settings(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """Values from "d=1000,2000"; OptionError for unknown names and values beyond the limits."""
        found: dict[str, list[float]] = {}
        for text in texts:
            name, separator, values = text.partition("=")
            if name not in self.limits or not separator:
                known = ", ".join(self.limits) or "nothing"
                raise OptionError(
                    f"the experiment {self.name} cannot set {text!r}: it takes {known}, as in d=1000,2000."
                )
            found[name] = [self._read_value(name, part) for part in values.split(",")]
        return found

    def _read_value(self, name: str, text: str) -> float:
        least, most = self.limits[name]
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise OptionError(
                f"{name} of the experiment {self.name} is {text!r}; expected a number from {least:g} to {most:g}."
            )
        return int(value) if value == int(value) else value
