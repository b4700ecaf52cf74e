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
_FIXED_LEVEL_BYTES = 500
"""About what a level costs before any id is in it: header entries, digests, the index's own frame."""


@dataclass(frozen=True)
class LevelCandidates:
    """One table with its form fixed: `losses` float32 [1 + levels, rows] is what each row loses in base and levels."""

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


def assign_levels(
    tables: Sequence[LevelCandidates], budget_bytes: int, count_file: CountFile, *, price: float
) -> Membership | None:
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
            best = min(best, found, key=lambda member: sum(choice.distortion for choice in member.choices))
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
    """The best level of each row at this price; a level that does not earn its fixed bytes is dropped."""
    choice = table.choice
    if not choice.levels:
        return choice, np.full(table.rows, -1, dtype=np.int8)
    costs = level_costs(choice, table.rows, table.dim)
    losses = [table.losses[0], *(table.losses[n + 1] + np.float32(price * cost) for n, cost in enumerate(costs))]
    open_levels = list(range(len(costs)))
    levels = _cheapest(losses, open_levels)
    for number in sorted(open_levels, key=lambda n: float((losses[0] - losses[n + 1])[levels == n].sum())):
        others = _cheapest(losses, [n for n in open_levels if n != number])
        members = levels == number
        with_it, without = losses[number + 1][members], np.choose(others[members] + 1, [x[members] for x in losses])
        if float((without - with_it).sum(dtype=np.float64)) < price * _FIXED_LEVEL_BYTES:
            open_levels.remove(number)
            levels = _cheapest(losses, open_levels)
    counts = tuple(int((levels == number).sum()) for number in open_levels)
    kept = replace(choice, levels=tuple(choice.levels[number] for number in open_levels), counts=counts)
    distortion = float(np.choose(levels + 1, list(table.losses)).sum(dtype=np.float64))
    renumbered = np.full_like(levels, -1)
    for new, old in enumerate(open_levels):
        renumbered[levels == old] = new
    return replace(kept, distortion=distortion), renumbered


def _cheapest(losses: Sequence[np.ndarray], open_levels: Sequence[int]) -> np.ndarray:
    """Per row the number of the open level of least loss, -1 for the base, int8 [rows]; ties go to the earlier."""
    best, levels = losses[0].copy(), np.full(len(losses[0]), -1, dtype=np.int8)
    for number in open_levels:
        better = losses[number + 1] < best
        levels[better] = number
        best[better] = losses[number + 1][better]
    return levels
