"""The low end: a model with Criteo-TB's 26 tables at a twentieth of their rows, converted to two bits a row.

python benchmarks/criteo_tb_shape.py --work DIR --json figures.json

Makes a synthetic log (Zipf ids, labels from a known model), trains examples/demo.py's DLRM on it with sparse gradients,
and converts that by every method at the same bytes: `--bits` (2) for each row of all tables plus the dense part, as
Criteo-TB's 188 M rows have them in 48 MB. Log and model are kept in --work, and so are the fits; finished figures are
kept in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from memrec_convert import convert, inspect
from memrec_convert.clicklog import SyntheticSpec
from memrec_convert.lab.shapes.shapes import read_shape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from demo import prepare

LEAST_ROWS = 2
METHODS = {"auto": "our plan", "codes": "codes alone", "int8": "int8 rows of hot ids", "memrec": "MEM-REC, all hashed"}
"""A method's name -> what it is in tables."""


def make_spec(share: int, samples: int) -> SyntheticSpec:
    """Criteo-TB's tables at one row in `share`, 13 dense inputs."""
    tables = tuple(max(LEAST_ROWS, rows // share) for rows in read_shape("criteo-tb").rows)
    return SyntheticSpec(tables=tables, dense=13, train_rows=samples, val_rows=200_000, test_rows=400_000)


def run(folder: Path, method: str, trained: bool, bits: float, seed: int) -> dict[str, Any]:
    """One conversion and its figures."""
    found = inspect(folder / "dlrm.pt")
    rows = sum(table["rows"] for table in found.tables)
    budget = round(rows * bits / 8) + found.dense_bytes
    start = time.perf_counter()
    report = convert(
        folder / "dlrm.pt",
        budget,
        data=folder / "train.parquet",
        val=folder / "val.parquet",
        eval=folder / "test.parquet",
        out=folder / "artifact.safetensors",
        force=True,
        seed=seed,
        work=folder / "fits",
        epochs=int(trained),
        method=method,
    ).to_json()
    forms = {table["form"] for table in report["tables"]}
    return {
        "method": method,
        "trained": trained,
        "bits": bits,
        "seed": seed,
        "rows": rows,
        "budget_bytes": budget,
        "bytes": report["artifact"]["bytes"],
        "auc": report["auc"]["before"],
        "delta": report["auc"]["delta"],
        "ci95": report["auc"]["ci95"],
        "log_loss_delta": report["log_loss"]["delta"],
        "forms": sorted(forms),
        "plan": report["plan"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Makes what is missing, measures what is missing, prints all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--share", type=int, default=20)
    parser.add_argument("--samples", type=int, default=4_000_000)
    parser.add_argument("--bits", default="2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not (options.work / "dlrm.pt").exists():
        prepare(options.work, make_spec(options.share, options.samples))
    done: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    known = {(row["method"], row["trained"], row["bits"], row["seed"]) for row in done}
    for bits in map(float, options.bits.split(",")):
        for method in options.methods.split(","):
            for trained in (False, True):
                if (method, trained, bits, options.seed) not in known:
                    done.append(run(options.work, method, trained, bits, options.seed))
                    options.json.write_text(json.dumps(done, indent=1))
    shown = ("method", "trained", "bits", "bytes", "auc", "delta", "ci95", "seconds")
    rows = [{name: row[name] for name in shown} | {"method": METHODS[row["method"]]} for row in done]
    print(tabulate(rows, headers="keys"))


if __name__ == "__main__":
    main()
