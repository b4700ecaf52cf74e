"""Which ids go to which level: decided id by id once the codes are known, to the last bytes of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memrec_convert.encoding.spec import TableSpec, count_row_bytes
from memrec_convert.kernels.placing import place_ids
from memrec_convert.parallel import ordered_map
from memrec_convert.planning.forms import FormChoice, spec_of
from memrec_convert.planning.search import CountFile

_HIGHEST = 116.0
"""Exponent up to which a price, times the bytes of a row, is a number of float32."""
_MOST_STEPS = 48
"""Prices tried, each of which halves the range."""
_MANY = 1 << 18
"""Ids of all tables together from which on most prices are interpolated, and the search ends near the budget."""
_UNUSED = 1e-5
"""Share of the budget that is near."""

_IDS_PER_PART = 1 << 18
"""Ids that a thread places at a time."""

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
    tables: Sequence[LevelCandidates], budget_bytes: int, count_file: CountFile, *, price: float, workers: int = 1
) -> Membership | None:
    """The levels of least loss within the budget: one price of a byte for all tables, searched from `price` on.

    None where not even empty levels fit.
    """

    def at(exponent: float) -> Membership:
        placed = [_place(table, 2.0**exponent, workers) for table in tables]
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
    fits, many = best, sum(table.losses.shape[1] for table in tables) > _MANY
    for step in range(_MOST_STEPS):
        if step < 2 and low < centre + (-1, 1)[step] < high:
            middle = centre + (-1, 1)[step]
        elif many and step % 3:
            middle = low + (high - low) * _share_of(budget_bytes, over.nbytes, fits.nbytes)
        else:
            middle = (low + high) / 2
        found = at(middle)
        if found.nbytes <= budget_bytes:
            high, fits = middle, found
            best = min(best, found, key=lambda member: sum(choice.distortion for choice in member.choices))
        else:
            low, over = middle, found
        if _are_neighbours(over, fits) or (many and budget_bytes - fits.nbytes < _UNUSED * budget_bytes):
            break
    return _spread(best, tables)


def _share_of(wanted: int, left: int, right: int) -> float:
    """How far from `left` to `right` the wanted number is, not quite at either end."""
    return min(max((left - wanted) / (left - right), 0.02), 0.98)


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


@dataclass(frozen=True)
class _Placed:
    """Where each row is (int8 [rows], 0: the base, n + 1: level n) and sums over the base and every level, float64.

    lost      what the members lose, without the price
    gained    what they gain over the base, the price deducted
    spare     what they would lose more, the price included, in the next best of the open levels
    """

    kinds: np.ndarray
    counts: np.ndarray
    lost: np.ndarray
    gained: np.ndarray
    spare: np.ndarray


def _place(table: LevelCandidates, price: float, workers: int = 1) -> tuple[FormChoice, np.ndarray]:
    """The best level of each row at this price; a level that does not earn its fixed bytes is dropped."""
    choice = table.choice
    if not choice.levels:
        return choice, np.full(table.rows if table.ids is None else len(table.ids), -1, dtype=np.int8)
    priced = [np.float32(price * cost) for cost in level_costs(choice, table.rows, table.dim)]
    open_levels = list(range(len(priced)))
    placed = _cheapest(table.losses, priced, open_levels, workers)
    for number in sorted(open_levels, key=placed.gained[1:].__getitem__):
        if placed.spare[number + 1] < price * _FIXED_LEVEL_BYTES:
            open_levels.remove(number)
            placed = _cheapest(table.losses, priced, open_levels, workers)
    kept = replace(
        choice,
        levels=tuple(choice.levels[number] for number in open_levels),
        counts=tuple(int(placed.counts[number + 1]) for number in open_levels),
        distortion=float(placed.lost.sum()),
    )
    numbers = np.full(len(priced) + 1, -1, dtype=np.int8)
    numbers[[number + 1 for number in open_levels]] = np.arange(len(open_levels))
    return kept, numbers[placed.kinds]


def _cheapest(losses: np.ndarray, priced: Sequence[np.float32], open_levels: Sequence[int], workers: int) -> _Placed:
    """The open level of least loss of every row; ties go to the earlier, the base first."""
    candidates = losses.shape[1]
    found, sums = np.zeros(candidates, dtype=np.int8), np.zeros((4, len(losses)))
    prices, opened = np.array(priced, dtype=np.float32), np.array(open_levels, dtype=np.int64)

    def place(start: int) -> np.ndarray:
        part = slice(start, min(start + _IDS_PER_PART, candidates))
        return place_ids(losses[:, part], prices, opened, found[part])

    workers = workers if candidates > _IDS_PER_PART else 1
    for own in ordered_map(place, range(0, candidates, _IDS_PER_PART), workers=workers):
        sums += own
    return _Placed(found, *sums)
