"""Which ids go to which level: decided id by id once the codes are known, to the last bytes of the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from memrec_convert.encoding.spec import TableSpec, count_row_bytes
from memrec_convert.planning.forms import FormChoice, spec_of
from memrec_convert.planning.search import CountFile

_HIGHEST = 116.0
"""Exponent up to which a price, times the bytes of a row, is a number of float32."""
_STEPS = 48
_STEPS_OF_MANY = 26
"""Halvings of the price's range; among millions of ids, the coarser price moves a handful."""

_IDS_PER_PART = 1 << 20
_FIXED_LEVEL_BYTES = 500
"""About what a level costs before any id is in it: header entries, digests, the index's own frame."""


@dataclass(frozen=True)
class LevelCandidates:
    """One table with its form fixed: `losses` float32 [1 + levels, rows] is what each row loses in base and levels.

    ids: of a large table the rising ids that may be in a level (the others stay in the base), `losses` being theirs.
    """

    choice: FormChoice
    rows: int
    dim: int
    shifts: tuple[int, ...]
    losses: np.ndarray
    ids: np.ndarray | None = None


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
    low, high = centre - 30, min(centre + 60, _HIGHEST)
    over, best = at(low), at(high)
    if over.nbytes <= budget_bytes:
        return _spread(over, tables)
    if best.nbytes > budget_bytes:
        return None
    fits = best
    for step in range(_STEPS if all(table.ids is None for table in tables) else _STEPS_OF_MANY):
        middle = centre + (-1, 1)[step] if step < 2 and low < centre + (-1, 1)[step] < high else (low + high) / 2
        found = at(middle)
        if found.nbytes <= budget_bytes:
            high, fits = middle, found
            best = min(best, found, key=lambda member: sum(choice.distortion for choice in member.choices))
        else:
            low, over = middle, found
        if _are_neighbours(over, fits):
            break
    return _spread(best, tables)


def _are_neighbours(one: Membership, other: Membership) -> bool:
    """Whether at most one id is elsewhere, by the counts of the levels."""
    moved = 0
    for mine, yours in zip(one.choices, other.choices, strict=True):
        if mine.levels != yours.levels:
            return False
        moved += sum(abs(a - b) for a, b in zip(mine.counts, yours.counts, strict=True))
    return moved <= 1


def _spread(member: Membership, tables: Sequence[LevelCandidates]) -> Membership:
    """The levels of candidates as those of all rows."""
    spread = []
    for own, table in zip(member.levels, tables, strict=True):
        levels = own
        if table.ids is not None:
            levels = np.full(table.rows, -1, dtype=np.int8)
            levels[table.ids] = own
        spread.append(levels)
    return replace(member, levels=tuple(spread))


def level_costs(choice: FormChoice, rows: int, dim: int) -> list[float]:
    """Bytes that one more id in each level costs, its key included, at the counts that the plan foresees."""
    costs = []
    spec = spec_of(choice, rows, dim)
    for level in spec.levels:
        key_bits = 0.25 if level.index.kind == "bitmap" else level.index.nbytes * 8 / max(1, level.index.count)
        if level.kind == "codes":
            costs.append((spec.level_bits(level) + key_bits) / 8)
        else:
            costs.append(count_row_bytes(level.codec, dim) + key_bits / 8)
    return costs


def _place(table: LevelCandidates, price: float) -> tuple[FormChoice, np.ndarray]:
    """The best level of each row at this price; a level that does not earn its fixed bytes is dropped."""
    choice, candidates = table.choice, table.losses.shape[1]
    if not choice.levels:
        return choice, np.full(table.rows if table.ids is None else candidates, -1, dtype=np.int8)
    priced = [np.float32(price * cost) for cost in level_costs(choice, table.rows, table.dim)]
    open_levels = list(range(len(priced)))
    levels = _cheapest(table.losses, priced, open_levels)
    gains = {
        number: _sum_parts(candidates, partial(_gain, table.losses, priced, levels, number)) for number in open_levels
    }
    for number in sorted(gains, key=gains.__getitem__):
        closed = [n for n in open_levels if n != number]
        lost = _sum_parts(candidates, partial(_loss_without, table.losses, priced, levels, closed, number))
        if lost < price * _FIXED_LEVEL_BYTES:
            open_levels.remove(number)
            levels = _cheapest(table.losses, priced, open_levels)
    counts = tuple(int((levels == number).sum()) for number in open_levels)
    kept = replace(choice, levels=tuple(choice.levels[number] for number in open_levels), counts=counts)
    distortion = _sum_parts(candidates, partial(_loss_at, table.losses, levels))
    renumbered = np.full_like(levels, -1)
    for new, old in enumerate(open_levels):
        renumbered[levels == old] = new
    return replace(kept, distortion=distortion), renumbered


def _sum_parts(candidates: int, of_part: Callable[[slice], float]) -> float:
    """The sum over the ids, a part of them at a time: what a part needs is held for it alone."""
    starts = range(0, candidates, _IDS_PER_PART)
    return sum(of_part(slice(start, start + _IDS_PER_PART)) for start in starts)


def _loss_at(losses: np.ndarray, levels: np.ndarray, part: slice) -> float:
    """What the ids lose where they are."""
    return float(np.choose(levels[part] + 1, list(losses[:, part])).sum(dtype=np.float64))


def _gain(losses: np.ndarray, priced: Sequence[np.float32], levels: np.ndarray, number: int, part: slice) -> float:
    """What the members of a level gain by it, its price deducted."""
    members = levels[part] == number
    base, own = losses[0, part][members], losses[number + 1, part][members] + priced[number]
    return float((base - own).sum())


def _loss_without(
    losses: np.ndarray,
    priced: Sequence[np.float32],
    levels: np.ndarray,
    closed: Sequence[int],
    number: int,
    part: slice,
) -> float:
    """What the members of a level would lose where it is closed and they go to the other open ones."""
    members = levels[part] == number
    own = losses[:, part][:, members]
    choices = [own[0], *(own[n + 1] + price for n, price in enumerate(priced))]
    without = np.choose(_cheapest(own, priced, closed) + 1, choices)
    return float((without - choices[number + 1]).sum(dtype=np.float64))


def _cheapest(losses: np.ndarray, priced: Sequence[np.float32], open_levels: Sequence[int]) -> np.ndarray:
    """Per row the number of the open level of least loss, -1 for the base, int8 [rows]; ties go to the earlier."""
    levels = np.full(losses.shape[1], -1, dtype=np.int8)
    for start in range(0, losses.shape[1], _IDS_PER_PART):
        part = slice(start, start + _IDS_PER_PART)
        best = losses[0, part].copy()
        for number in open_levels:
            own = losses[number + 1, part] + priced[number]
            better = own < best
            levels[part][better] = number
            best[better] = own[better]
    return levels
