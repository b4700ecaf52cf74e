"""How well a plan knows what it will cost: predicted against measured AUC drops, untrained, on the test split.

    python benchmarks/prediction.py --shared ../shared --case globo --work FOLDER --json prediction.json

First the rate curve, as `plan --curve` prints it with one plan at --budget, against conversions at each of its sizes.
Then plans of equal bytes (methods, weights and seeds of ours, and every rival): each plan's distortion over all rows
in one metric, the drop that this predicts, and the drop that is measured. Fits are kept in --work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from memrec_convert import convert, plan
from memrec_convert.conversion.inputs.kept_fits import FitStore
from memrec_convert.conversion.inputs.preparing import Job, prepare
from memrec_convert.conversion.measuring.prediction import AucModel, model_auc
from memrec_convert.lab.compare import MEMREC
from memrec_convert.lab.contest import Contender, Contest
from memrec_convert.lab.entrant import Entrant
from memrec_convert.lab.held import RivalBag
from memrec_convert.lab.own import Conversion
from memrec_convert.lab.rivals import RIVALS
from memrec_convert.lab.view import TableView
from memrec_convert.parallel import single_threaded_torch

CASES = {
    "ml1m": ("ml1m/dlrm.pt", "ml1m"),
    "torchrec": ("ml1m/torchrec_dlrm.pt", "ml1m"),
    "globo": ("globo/dlrm.pt", "globo"),
}
RATIOS = (20, 33, 50, 100, 200, 300, 500, 1000)
TELLING_DROP = 0.0010
OWN: dict[str, dict[str, Any]] = {
    "auto": {},
    "codes": {"method": "codes"},
    "int8": {"method": "int8"},
    MEMREC: {"method": "memrec"},
    "auto, seed 1": {"seed": 1},
    "auto, weights displacement": {"weights": "displacement"},
    "auto, weights uniform": {"weights": "uniform"},
}


def predict_curve(shared: Path, case: str, budget: str, work: Path) -> list[dict[str, Any]]:
    """Predicted and measured drop at each size of the rate curve."""
    checkpoint, log = CASES[case]
    source, folder = shared / "checkpoints" / checkpoint, shared / "data" / log
    logs = {"data": folder / "train.parquet", "val": folder / "val.parquet"}
    curve = plan(source, budget, **logs, curve=True, work=work).curve
    rows = []
    for point in (one for one in curve if one["ratio"] in RATIOS):
        with tempfile.TemporaryDirectory() as out:
            report = convert(
                source,
                point["budget_bytes"],
                data=logs["data"],
                eval=folder / "test.parquet",
                epochs=0,
                out=Path(out) / "artifact.safetensors",
                work=work,
            )
        assert report.auc is not None
        measured, predicted = -report.auc.delta, point["predicted_auc_drop"]
        factor = predicted / measured if measured > TELLING_DROP else None
        rows.append({"ratio": point["ratio"], "predicted": predicted, "measured": measured, "factor": factor})
        print(f"{case} {point['ratio']}x: predicted {predicted:.5f}, measured {measured:.5f}", flush=True)
    return rows


def compare_plans(shared: Path, case: str, budget: str, work: Path) -> list[dict[str, Any]]:
    """Predicted and measured drop of plans of equal bytes; distortions of all in the metric of the profile."""
    job = open_job(shared, case, budget)
    auc_model = model_auc(job.subject, workers=job.options.workers)
    assert auc_model is not None
    with single_threaded_torch():
        views = Contest(job).views
        rows = []
        for name, contest, contender in list_contenders(shared, case, budget, work, job):
            made = contender.make(budget)
            if made.model is None:
                continue
            rows.append(describe(name, contest, made.model, made.nbytes, views, auc_model))
            print(f"{case} {budget} {name}: {rows[-1]}", flush=True)
    return rows


def open_job(shared: Path, case: str, budget: str, **choices: object) -> Job:
    """The job of a conversion whose alternatives are told apart on the hold-out."""
    checkpoint, log = CASES[case]
    folder = shared / "data" / log
    inputs: Any = {"data": folder / "train.parquet", "val": folder / "val.parquet", "epochs": 0, **choices}
    return prepare(shared / "checkpoints" / checkpoint, budget, inputs, eval=folder / "test.parquet")


def list_contenders(
    shared: Path, case: str, budget: str, work: Path, job: Job
) -> Iterator[tuple[str, Contest, Contender]]:
    """Each plan's name, its contest and its maker."""
    facts = {"case": case}
    for name, choices in OWN.items():
        contest = Contest(open_job(shared, case, budget, **choices), FitStore(work, facts | {"plan": name}))
        yield name, contest, Conversion(name, contest, contest.job.options.method)
    shared_contest = Contest(job, FitStore(work, facts))
    for rival in RIVALS:
        yield rival.name, shared_contest, Entrant(rival, shared_contest)


def describe(
    name: str,
    contest: Contest,
    model: torch.nn.Module,
    nbytes: int | None,
    views: tuple[TableView, ...],
    auc_model: AucModel,
) -> dict[str, Any]:
    """What a plan loses over all rows, what that predicts, and what it loses in truth."""
    modules = list(model.tables)
    total = 0.0
    for view, module in zip(views, modules, strict=True):
        total += view.total(lambda piece, module=module: read_rows(module, piece))  # type: ignore[misc]
    difference, _ = contest.measure(model)
    return {
        "plan": name,
        "bytes": nbytes,
        "distortion": total,
        "predicted": auc_model.drop(total),
        "measured": -difference.delta,
        "ci95": [-bound for bound in reversed(difference.ci95)],
    }


def read_rows(module: torch.nn.Module, piece: slice) -> torch.Tensor:
    """Rows of ids as a table decodes them, float32 [n, dim]."""
    ids = torch.arange(piece.start, piece.stop)
    with torch.no_grad():
        if isinstance(module, RivalBag):
            return module.lookup(ids)
        rows: torch.Tensor = module(ids, torch.arange(len(ids)))
        return rows


def main() -> None:
    """Measures both, prints tables, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--case", choices=CASES, default="globo")
    parser.add_argument("--budget", default="100x", help="of the plan behind the curve and of equal plans")
    parser.add_argument("--only", choices=("curve", "plans"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"case": given.case, "budget": given.budget}
    if given.only != "plans":
        found["curve"] = predict_curve(given.shared, given.case, given.budget, given.work)
        print(tabulate(found["curve"], headers="keys", floatfmt=".5f"))
    if given.only != "curve":
        rows = compare_plans(given.shared, given.case, given.budget, given.work)
        rows.sort(key=lambda row: row["predicted"])
        found["plans"] = rows
        found["regret"] = rows[0]["measured"] - min(row["measured"] for row in rows)
        print(tabulate([{k: v for k, v in row.items() if k != "ci95"} for row in rows], headers="keys", floatfmt=".5f"))
        print(f"the plan that is predicted best loses {found['regret']:.5f} more than the one that is measured best")
    given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
