"""How many lookups collide, measured, and what they cost: the published form over many sizes d of its token table.

An id is covered where each of its tokens is also some other id's (a false positive of the Bloom filter that phi is),
and doubled where some other id has all the same tokens, so that nothing but alpha tells them apart. Both are shares of
the training log's lookups, among the ids that it shows. Predicted for n ids and d tokens: covered
(1 - exp(-k (n - 1) / d))**k, doubled 1 - exp(-(n - 1) k! / d**k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from memrec_convert.kernels.hashing import hash_ids, token_numbers
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab, count_blocks


def _grid(lab: Lab, quick: bool) -> Grid:
    rows = lab.hashed_rows()
    shares = (300, 30) if quick else (1000, 300, 100, 33, 10, 3, 1)
    return {"d": [max(2, rows // share) for share in shares], "k": (2,) if quick else (1, 2, 4)}


def _run(lab: Lab, cell: Cell, seed: int) -> Row:
    d, k = int(cell["d"]), int(cell["k"])
    blocks = count_blocks(d)
    modules, nbytes = lab.make_hashed(d, k, 4, blocks=blocks, seed=seed)
    assert lab.subject.counts is not None
    tokens, lookups = list[np.ndarray](), list[np.ndarray]()
    for number in lab.replaceable:
        ids = lab.seen[number]
        h1, h2 = hash_ids(torch.from_numpy(ids), modules[number].spec.hash_seed)
        tokens.append(token_numbers(h1, h2, k=k, rows=d).numpy())
        lookups.append(np.asarray(lab.subject.counts[number])[ids].astype(np.float64))
    covered, doubled = measure_collisions(np.concatenate(tokens), np.concatenate(lookups), d)
    expected = predict_collisions(sum(map(len, lookups)), d, k)
    return {
        "covered": covered,
        "covered_predicted": expected[0],
        "doubled": doubled,
        "doubled_predicted": expected[1],
        "ids": sum(map(len, lookups)),
        **lab.measure_tables(modules, nbytes),
    }


def measure_collisions(tokens: np.ndarray, lookups: np.ndarray, d: int) -> tuple[float, float]:
    """Shares of lookups that are covered and doubled; tokens int64 [ids, k], lookups [ids]."""
    ordered = np.sort(tokens, axis=1)
    first = np.concatenate([np.ones((len(ordered), 1), dtype=bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    holders = np.bincount(ordered[first], minlength=d)  # ids per token, an id that has it twice counted once
    covered = (holders[ordered] > 1).all(axis=1)
    _, code, count = np.unique(ordered, axis=0, return_inverse=True, return_counts=True)
    doubled = count[code.reshape(-1)] > 1
    total = lookups.sum()
    return float(lookups[covered].sum() / total), float(lookups[doubled].sum() / total)


def predict_collisions(ids: int, d: int, k: int) -> tuple[float, float]:
    """The same two shares as expected of random tokens."""
    covered = (1 - math.exp(-k * (ids - 1) / d)) ** k
    return covered, -math.expm1(-(ids - 1) * math.factorial(k) / float(d) ** k)


def _find(rows: Sequence[Row]) -> str:
    worst = max(abs(row["covered"] - row["covered_predicted"]) for row in rows)
    pairs = [(row["doubled"], row["auc_delta"]) for row in rows]
    best, least = max(rows, key=lambda row: row["auc_delta"]), min(rows, key=lambda row: row["auc_delta"])
    agreement = rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
    return (
        f"Bloom's prediction of the covered lookups is off by at most {worst:.3f}; the AUC changes by "
        f"{least['auc_delta']:+.4f} at d = {least['d']}, k = {least['k']} ({least['doubled']:.0%} of lookups doubled) "
        f"and {best['auc_delta']:+.4f} at d = {best['d']}, k = {best['k']} ({best['doubled']:.0%}); rank correlation "
        f"of doubled lookups and AUC change {agreement:+.2f}"
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, for two lists of equal length; 0 where one of them is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    ranks = [np.unique(np.asarray(one), return_inverse=True)[1].astype(float) for one in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])


def refuse_sizes(cell: Cell) -> str:
    """What is wrong with d, k and k' together."""
    if cell["d"] < cell["k"]:
        return f"d is {cell['d']}, smaller than k = {cell['k']}, and an id's k tokens come from a table of d"
    return ""


EXPERIMENT = Experiment(
    "collisions",
    _grid,
    _run,
    _find,
    ChartSpec("doubled", "auc_delta", ("k",), log_x=False),
    limits={"d": (1, 1e9), "k": (1, 64)},
    refuse=refuse_sizes,
)
