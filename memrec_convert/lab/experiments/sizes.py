"""Sweep of d, k and k' of the published form (figures 5 to 7 of the slides), and the knee.

The knee, by a stated rule: the smallest d whose AUC is within a tenth of the sweep's gain (best less worst AUC at the
best k and k') of the best.
"""

from __future__ import annotations

from collections.abc import Sequence

from memrec_convert.lab.experiments.collisions import refuse_sizes
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab, count_blocks

KNEE_SHARE = 0.1


def _grid(lab: Lab, quick: bool) -> Grid:
    rows = lab.hashed_rows()
    shares = (300, 33) if quick else (1000, 300, 100, 33, 10, 3)
    return {
        "d": [max(2, rows // share) for share in shares],
        "k": (1, 2) if quick else (1, 2, 4),
        "k_weights": (4,) if quick else (0, 1, 4),
    }


def _run(lab: Lab, cell: Cell, seed: int) -> Row:
    modules, nbytes = lab.make_hashed(
        int(cell["d"]), int(cell["k"]), int(cell["k_weights"]), blocks=count_blocks(int(cell["d"])), seed=seed
    )
    return lab.measure_tables(modules, nbytes)


def find_knee(points: Sequence[tuple[float, float]], *, share: float = KNEE_SHARE) -> float:
    """The smallest x of points (x, y) whose y is within `share` of the span of y below the largest."""
    best, worst = max(y for _, y in points), min(y for _, y in points)
    return min(x for x, y in points if y >= best - share * (best - worst))


def _find(rows: Sequence[Row]) -> str:
    best = max(rows, key=lambda row: row["auc_delta"])
    along = [(row["d"], row["auc_delta"]) for row in rows if all(row[n] == best[n] for n in ("k", "k_weights", "seed"))]
    knee = find_knee(along)
    at = max(y for x, y in along if x == knee)
    return (
        f"best at d = {best['d']}, k = {best['k']}, k' = {best['k_weights']}: {best['auc_delta']:+.4f}; the knee is at "
        f"d = {knee} ({at:+.4f}), the smallest d within {KNEE_SHARE:.0%} of the sweep's gain"
    )


EXPERIMENT = Experiment(
    "sizes",
    _grid,
    _run,
    _find,
    ChartSpec("d", "auc_delta", ("k", "k_weights")),
    limits={"d": (1, 1e9), "k": (1, 64), "k_weights": (0, 16)},
    refuse=refuse_sizes,
)
