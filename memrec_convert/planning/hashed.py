"""Sizes of the published form within a budget: which tables are hashed, and how large M and W become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memrec_convert.encoding.spec import HashSpec, TableSpec
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.kernels.hashing import FIRST_HASH_SEED, WEIGHT_LANES
from memrec_convert.units import format_bytes

WEIGHT_SHARE = 0.2
"""Share of the hashed bytes that W takes; measured on a news log against 0.1 and 0.4 (docs/method.md)."""

KEPT_SHARES = (0.0, 0.1, 0.25, 0.5)
"""Shares of the table budget that may go to tables kept as int8 rows, smallest first; the fit decides between them."""


@dataclass(frozen=True)
class TableShape:
    """Rows and dim of a table, and whether it may be replaced."""

    rows: int
    dim: int
    replaceable: bool


CountFile = Callable[[Sequence[TableSpec]], int]


def plan_hashed(
    shapes: Sequence[TableShape], budget_bytes: int, count_file: CountFile, *, kept_share: float, k: int, k_weights: int
) -> tuple[TableSpec, ...] | None:
    """Specs with every replaceable table hashed but the smallest ones; None where the budget leaves no token.

    Tables of one dim share a group; groups share the bytes in proportion to their tables' sizes.
    """
    kept = _choose_kept(shapes, budget_bytes, kept_share)
    weights = {shape.dim: 0 for n, shape in enumerate(shapes) if n not in kept}
    for number, shape in enumerate(shapes):
        if number not in kept:
            weights[shape.dim] += shape.rows * shape.dim
    if not weights:
        return None

    def specs_for(hashed_bytes: int) -> tuple[TableSpec, ...]:
        total = sum(weights.values())
        groups = {
            dim: size_group(dim, hashed_bytes * weight // total, most_rows=weight // dim, k=k, k_weights=k_weights)
            for dim, weight in weights.items()
        }
        return tuple(
            TableSpec(shape.rows, shape.dim, "kept", codec="int8")
            if number in kept
            else TableSpec(
                shape.rows, shape.dim, "replaced", hashing=groups[shape.dim], hash_seed=FIRST_HASH_SEED + number
            )
            for number, shape in enumerate(shapes)
        )

    least = max(weights) * 2 * k + 4 * WEIGHT_LANES * len(weights)
    low, high = 0, budget_bytes
    while low < high:  # the file's bytes rise with the hashed bytes
        middle = (low + high + 1) // 2
        if count_file(specs_for(middle)) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return specs_for(low) if low >= least and count_file(specs_for(low)) <= budget_bytes else None


def refuse_budget(
    shapes: Sequence[TableShape], budget_bytes: int, count_file: CountFile, *, k: int, k_weights: int
) -> BudgetTooSmallError:
    """The error that names the smallest budget for the published form, found by doubling and halving."""
    low, high = budget_bytes, max(2 * budget_bytes, 1024)
    while plan_hashed(shapes, high, count_file, kept_share=0.0, k=k, k_weights=k_weights) is None:
        low, high = high, 2 * high
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        if plan_hashed(shapes, middle, count_file, kept_share=0.0, k=k, k_weights=k_weights) is None:
            low = middle
        else:
            high = middle
    return BudgetTooSmallError(
        f"{format_bytes(budget_bytes)} ({budget_bytes} bytes) leaves no hashed token beside the rest of this model; "
        f"smallest reachable budget with the method memrec: {format_bytes(high)} ({high} bytes).",
        smallest_bytes=high,
    )


def _choose_kept(shapes: Sequence[TableShape], budget_bytes: int, share: float) -> set[int]:
    kept = {number for number, shape in enumerate(shapes) if not shape.replaceable}
    spent = 0
    for number in sorted(range(len(shapes)), key=lambda n: shapes[n].rows * shapes[n].dim):
        spent += shapes[number].rows * (shapes[number].dim + 2)
        if spent <= share * budget_bytes:
            kept.add(number)
    return kept


def size_group(dim: int, nbytes: int, *, most_rows: int, k: int, k_weights: int) -> HashSpec:
    """M and W of one group within these bytes; M never has more rows than the tables that it stands for."""
    block_bytes = 2 * WEIGHT_LANES
    most_blocks = max(1, most_rows // WEIGHT_LANES)
    blocks = min(most_blocks, max(1, int(nbytes * WEIGHT_SHARE) // block_bytes)) if k_weights else 0
    spec = HashSpec(f"dim{dim}", dim, 1, k, blocks=blocks, k_weights=k_weights)
    return replace(spec, rows=min(most_rows, max(1, (nbytes - blocks * block_bytes) // dim)))
