"""Which stage lists tables need: what some of them lose, by the planner's own price, against what all candidates lose.

python benchmarks/stage_lists.py model.pt --data train.parquet
python benchmarks/stage_lists.py a.pt b.pt --ratios 20,50,100,200,400 --json figures.json

For each ratio the price of a byte is that of the plan with the lists in use. At this price the best form of each table
is found with each candidate list alone; a set of lists costs what the best of them costs, table by table. Printed are
the lists in use, and sets that grow by whichever list helps most, one traded for another where that is better still.
The data is the training log, if any: nothing is evaluated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import Job, prepare, stay_silent
from memrec_convert.conversion.steps.fitting import Fitted, fit_subject
from memrec_convert.distill.curves import TableFit, group_lists, measure_lists
from memrec_convert.encoding.spec import count_table_bytes
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning.curves import SMALL_LISTS, STAGE_LISTS
from memrec_convert.planning.forms import choose_form
from memrec_convert.planning.search import FINE_RATIO, plan_tables

Sizes = tuple[int, ...]
CANDIDATES: tuple[Sizes, ...] = tuple(
    dict.fromkeys(
        [
            *STAGE_LISTS,
            *SMALL_LISTS,
            *((size,) * depth for size, depth in ((4, 12), (32, 8), (32, 10), (64, 10), (128, 8), (256, 7))),
            *((*first, *(256,) * depth) for first, depth in (((16, 16), 6), ((4, 4), 6), ((64, 64), 6), ((16,), 7))),
            *((*first, *(128,) * 7) for first in ((16, 16), (64, 64), (32,))),
            *((*first, *(64,) * 8) for first in ((16, 16), (32, 32), (8, 32), (4, 4), (4, 16), (2, 2, 2, 2))),
            *((*first, *(32,) * 8) for first in ((16, 16), (4, 4), (2, 2, 4, 4))),
            *((*first, *(16,) * 9) for first in ((8, 8), (4, 4), (2, 2, 4, 4), (2, 4, 8), (2, 2, 2, 2, 4, 4))),
            (4, 4, 16, 16, 64, 64, 256, 256, 256),
            (2, 4, 16, 64, 256, 256, 256),
            (4, 16, 64, 256, 256, 256, 256),
            (8, 32, 128, 256, 256, 256),
            (4, 8, 16, 32, 64, 128, 256, 256),
            (2, 2, 2, 4, 8, 16, 32, 64, 128, 256),
        ]
    )
)
LEAST_ROWS = 1000
"""Smaller tables weigh next to nothing."""


def price_table(fit: TableFit, prices: Sequence[tuple[int, float]]) -> np.ndarray:
    """What the best form costs at each price, float64 [1 + candidates, prices]: first without codes."""
    found = np.full((1 + len(CANDIDATES), len(prices)), np.inf)
    alone = fit.curves.lists[0]
    curves = {
        curve.sizes: curve
        for group in group_lists(fit.curves.rows, CANDIDATES)
        for curve, _ in measure_lists(fit, group, seed=0)
    }
    for number, sizes in enumerate([None, *CANDIDATES]):
        if sizes is not None and sizes not in curves:
            continue
        own = replace(fit.curves, lists=(alone,) if sizes is None else (alone, curves[sizes]))
        for column, (ratio, price) in enumerate(prices):
            form = choose_form(own, price, fine=ratio <= FINE_RATIO)
            found[number, column] = form.distortion + price * form.nbytes
    return found


def find_prices(job: Job, fitted: Fitted, ratios: Sequence[int]) -> list[tuple[int, float]]:
    """(ratio, price of a byte) of those ratios that can be reached."""
    subject, found = job.subject, []
    curves = [fit.curves for fit in fitted.fits]
    for ratio in ratios:
        try:
            found.append((ratio, plan_tables(curves, subject.table_bytes // ratio, count_table_bytes).price))
        except BudgetTooSmallError:
            continue
    return found


def price_model(path: str, data: str | None, ratios: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """The ratios that can be reached, and the costs of all its larger tables, [tables, 1 + candidates, ratios]."""
    job = prepare(path, "100x", {"data": data} if data else {})
    fitted = fit_subject(job.subject, job.options, stay_silent, Stopwatch())
    prices = find_prices(job, fitted, ratios)
    fits = [one for one in fitted.fits if one.curves.lists and one.curves.rows >= LEAST_ROWS]
    if not fits or not prices:
        raise SystemExit(f"{path}: expected a table of {LEAST_ROWS} rows or more, and a ratio that it can reach.")
    return [ratio for ratio, _ in prices], np.stack([price_table(one, prices) for one in fits])


def add_up(costs: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """The cost of a model with these candidates, by ratio."""
    total: np.ndarray = costs[:, [0, *(1 + number for number in chosen)]].min(axis=1).sum(axis=0)
    return total


def main() -> None:
    """Prices every model's tables, and prints what sets of lists lose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints")
    parser.add_argument("--data", nargs="*", default=[], help="training logs, one for each of the first of them")
    parser.add_argument("--ratios", default="10,20,33,60,100,150,200,300,500,1000")
    parser.add_argument("--most", type=int, default=6, help="lists of the largest set that is grown")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ratios = [int(one) for one in options.ratios.split(",")]
    if len(options.data) > len(options.models):
        parser.error(f"{len(options.data)} logs for {len(options.models)} models; expected at most one for each.")
    logs = [*options.data, *[None] * len(options.models)]
    models = [price_model(path, log, ratios) for path, log in zip(options.models, logs, strict=False)]
    everything = range(len(CANDIDATES))
    least = [add_up(costs, everything) for _, costs in models]

    def excess(chosen: Sequence[int]) -> float:
        """Percent that a set costs more than all candidates: the mean over models of that over ratios."""
        ratios = [add_up(costs, chosen) / best for (_, costs), best in zip(models, least, strict=True)]
        return float(np.mean([np.log(one).mean() for one in ratios])) * 100

    def describe(name: str, chosen: Sequence[int]) -> dict[str, Any]:
        lists = [" ".join(map(str, CANDIDATES[number])) for number in chosen]
        return {"set": name, "excess %": round(excess(chosen), 2), "lists": lists}

    number_of = {sizes: number for number, sizes in enumerate(CANDIDATES)}
    rows = [describe("in use", [number_of[sizes] for sizes in STAGE_LISTS])]
    rows.append(describe("with small", [number_of[sizes] for sizes in (*STAGE_LISTS, *SMALL_LISTS)]))
    chosen: list[int] = []
    for _ in range(options.most):
        chosen.append(min((n for n in everything if n not in chosen), key=lambda n: excess([*chosen, n])))
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            chosen[place] = min((n for n in everything if n not in rest), key=lambda n: excess([*rest, n]))
        rows.append(describe(f"best {len(chosen)}", chosen))
    if options.json:
        options.json.write_text(json.dumps({"models": options.models, "sets": rows}, indent=1))
    print(tabulate([{**row, "lists": "\n".join(row["lists"])} for row in rows], headers="keys"))


if __name__ == "__main__":
    main()
