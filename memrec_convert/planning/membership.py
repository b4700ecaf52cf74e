"""Which ids go to which level: decided id by id once the codes are known, to the last bytes of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.spec import TableSpec, count_bytes
from memrec_convert.planning.forms import FormChoice, spec_of
from memrec_convert.planning.search import CountFile

_STEPS = 48


@dataclass(frozen=True)
class LevelCandidates:
    """One table with its form fixed: `losses` float32 [1 + levels, rows] is what each row loses in base and levels.

    price_per_id is what an id costs in each level, in bytes, its key included.
    """

    choice: FormChoice
    rows: int
    dim: int
    shifts: tuple[int, ...]
    losses: np.ndarray


@dataclass(frozen=True)
class Membership:
    """Per table the level of each row, int8 [rows]: -1 for the base; and the spec that goes with it."""

    choices: tuple[FormChoice, ...]
    levels: tuple[np.ndarray, ...]
    specs: tuple[TableSpec, ...]
    nbytes: int


def assign_levels(tables: Sequence[LevelCandidates], budget_bytes: int, count_file: CountFile, *, price: float) -> Membership | None:
    """The levels of least loss within the budget: one price of a byte for all tables, bisected from `price`.

    None where not even empty levels fit.
    """

    def at(exponent: float) -> Membership:
        placed = [_place(table, 2.0**exponent) for table in tables]
        specs = tuple(spec_of(choice, t.rows, t.dim, t.shifts) for (choice, _), t in zip(placed, tables, strict=True))
        return Membership(
            tuple(choice for choice, _ in placed), tuple(levels for _, levels in placed), specs, count_file(specs)
        )

    centre = float(np.log2(price)) if price > 0 else 0.0
    low, high = centre - 30, centre + 60
    generous = at(low)
    if generous.nbytes <= budget_bytes:
        return generous
    best = at(high)
    if best.nbytes > budget_bytes:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = at(middle)
        if found.nbytes <= budget_bytes:
            high = middle
            best = max(best, found, key=lambda member: member.nbytes)
        else:
            low = middle
    return best


def level_costs(choice: FormChoice, rows: int, dim: int) -> list[float]:
    """Bytes that one more id in each level costs, its key included, at the counts that the plan foresees."""
    costs = []
    spec = spec_of(choice, rows, dim)
    for level in spec.levels:
        key_bits = 0.25 if level.index.kind == "bitmap" else level.index.nbytes * 8 / max(1, level.index.count)
        if level.kind == "codes":
            costs.append((spec.level_bits(level) + key_bits) / 8)
        else:
            costs.append(count_bytes(CODECS[level.codec].parts(1, dim).values()) + key_bits / 8)
    return costs


def _place(table: LevelCandidates, price: float) -> tuple[FormChoice, np.ndarray]:
    if not table.choice.levels:
        return table.choice, np.full(table.rows, -1, dtype=np.int8)
    best = table.losses[0].copy()
    levels = np.full(table.rows, -1, dtype=np.int8)
    for number, cost in enumerate(level_costs(table.choice, table.rows, table.dim)):
        loss = table.losses[number + 1] + np.float32(price * cost)
        better = loss < best
        levels[better] = number
        best[better] = loss[better]
    counts = tuple(int((levels == number).sum()) for number in range(len(table.choice.levels)))
    distortion = float(np.take_along_axis(table.losses, levels[None].astype(np.int64) + 1, axis=0).sum(dtype=np.float64))
    return replace(table.choice, counts=counts, distortion=distortion), levels
