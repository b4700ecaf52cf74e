"""Converts real checkpoints at several budgets and prints what each conversion cost in AUC on the test split.

python benchmarks/conversion.py --shared ../shared --modes untrained,trained,no-data,memrec --json figures.json

Needs the folders checkpoints/ and data/ of real models and logs under --shared. Each figure is one run of `convert`;
finished ones are kept in the JSON file, so that an interrupted run goes on where it stopped; fits are kept in --work.
"untrained" and "trained" are what a user gets without and with --val; "step-0" has --val and does not train.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from memrec_convert import convert

CASES = {
    "ml1m": ("ml1m/dlrm.pt", "ml1m"),
    "torchrec": ("ml1m/torchrec_dlrm.pt", "ml1m"),
    "globo": ("globo/dlrm.pt", "globo"),
}
MODES: dict[str, dict[str, Any]] = {
    "untrained": {"epochs": 0},
    "step-0": {"epochs": 0},
    "trained": {},
    "no-data": {"epochs": 0},
    "displacement": {"epochs": 0, "weights": "displacement"},
    "memrec": {"epochs": 0, "method": "memrec"},
    "memrec-trained": {"method": "memrec"},
    "int8": {"epochs": 0, "method": "int8"},
}
WITHOUT_DATA = ("no-data", "displacement")
WITHOUT_VAL = ("untrained", "memrec", "int8")


def run(shared: Path, case: str, budget: str, mode: str, seed: int, work: Path | None) -> dict[str, Any]:
    """One conversion and its figures."""
    checkpoint, log = CASES[case]
    folder = shared / "data" / log
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        report = convert(
            shared / "checkpoints" / checkpoint,
            budget,
            data=None if mode in WITHOUT_DATA else folder / "train.parquet",
            val=None if mode in WITHOUT_DATA + WITHOUT_VAL else folder / "val.parquet",
            eval=folder / "test.parquet",
            out=Path(out) / "artifact.safetensors",
            seed=seed,
            work=work,
            **MODES[mode],
        )
    values = report.to_json()
    return {
        "case": case,
        "budget": budget,
        "mode": mode,
        "seed": seed,
        "bytes": values["artifact"]["bytes"],
        "budget_bytes": values["budget_bytes"],
        "auc": values["auc"]["after"],
        "delta": values["auc"]["delta"],
        "ci95": values["auc"]["ci95"],
        "log_loss_delta": values["log_loss"]["delta"],
        "weights": values["weights"],
        "divergence": values["plan"]["divergence"],
        "distortion": values["plan"]["distortion"],
        "tune": values["fine_tune"] and {k: values["fine_tune"][k] for k in ("best_step", "steps", "gain")},
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Runs what is missing from the JSON file and prints everything in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--cases", default="ml1m,torchrec,globo")
    parser.add_argument("--budgets", default="33x,100x,300x")
    parser.add_argument("--modes", default="untrained,trained")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    known = {(row["case"], row["budget"], row["mode"], row["seed"]) for row in done}
    for case in options.cases.split(","):
        for mode in options.modes.split(","):
            for budget in options.budgets.split(","):
                for seed in map(int, options.seeds.split(",")):
                    if (case, budget, mode, seed) in known:
                        continue
                    row = run(options.shared, case, budget, mode, seed, options.work)
                    done.append(row)
                    options.json.write_text(json.dumps(done, indent=1))
                    print(f"{case} {budget} {mode} seed {seed}: {row['delta']:+.5f} in {row['seconds']} s", flush=True)
    print(tabulate([{k: v for k, v in row.items() if k not in ("ci95", "tune")} for row in done], headers="keys"))


if __name__ == "__main__":
    main()
