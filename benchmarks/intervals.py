"""Checks the intervals of the report on real models: DeLong against resamples of rows, and resamples of groups.

python benchmarks/intervals.py --shared ../shared --budget 100x --json figures.json

Converts a checkpoint without training, scores original and result on the validation log, and compares DeLong's standard
error of the AUC difference with the standard deviation over paired resamples of single rows; they should agree to 10 %.
With --group the bootstrap over groups stands beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memrec_convert import convert, load
from memrec_convert.checkpoint import read_source
from memrec_convert.conversion.inputs.from_checkpoint import LogChoices, make_schema, open_batches, run_on_batch
from memrec_convert.conversion.measuring.judging import read_groups, read_labels
from memrec_convert.evaluation.delong import compare_auc
from memrec_convert.evaluation.groups import RESAMPLES, bootstrap_rows, compare_groups
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.models import build_original
from memrec_convert.parallel import single_threaded_torch

CASES = {
    "ml1m": ("ml1m/dlrm.pt", "ml1m"),
    "torchrec": ("ml1m/torchrec_dlrm.pt", "ml1m"),
    "globo": ("globo/dlrm.pt", "globo"),
}
Z95 = 1.959963984540054


def check(shared: Path, case: str, budget: str, group: str, resamples: int) -> dict[str, Any]:
    """The spread of one AUC difference by DeLong, by rows and by groups."""
    checkpoint, log = CASES[case]
    original = read_source(shared / "checkpoints" / checkpoint)
    choices = LogChoices({})
    schema = make_schema(original.architecture, [table.name for table in original.tables], choices)
    schema = replace(schema, group=group)
    batches = open_batches(shared / "data" / log / "val.parquet", schema, 4096)
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "artifact.safetensors"
        convert(
            shared / "checkpoints" / checkpoint, budget, data=shared / "data" / log / "train.parquet", epochs=0, out=out
        )
        labels, groups = read_labels(batches), read_groups(batches)
        with single_threaded_torch():
            models = build_original(original), load(out)
            before, after = (score_batches(one, batches.stream(), run_on_batch, workers=2) for one in models)
    assert groups is not None
    difference = compare_auc(labels, before, after)
    assert difference is not None
    start = time.perf_counter()
    rows = bootstrap_rows(labels, before, after, resamples=resamples, workers=2)
    middle = time.perf_counter()
    grouped = compare_groups(labels, before, after, groups, resamples=resamples, workers=2)
    assert grouped is not None
    delong = (difference.ci95[1] - difference.ci95[0]) / 2 / Z95
    return {
        "case": case,
        "budget": budget,
        "rows": len(labels),
        "delta": difference.delta,
        "resamples": resamples,
        "delong_error": delong,
        "row_bootstrap_error": float(np.std(rows)),
        "ratio": delong / float(np.std(rows)),
        "delong_ci95": list(difference.ci95),
        "row_ci95": np.quantile(rows, [0.025, 0.975]).tolist(),
        "row_seconds": round(middle - start, 1),
        "group": group,
        "groups": grouped.groups,
        "covered": grouped.covered,
        "group_ci95": list(grouped.auc_ci95),
        "gauc_before": grouped.gauc_before,
        "gauc_delta": grouped.gauc_delta,
        "gauc_ci95": grouped.gauc_ci95,
        "group_seconds": round(time.perf_counter() - middle, 1),
    }


def main() -> None:
    """Prints the figures; exit code 1 where DeLong and the resamples of rows differ by more than a tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--cases", default="globo")
    parser.add_argument("--budget", default="100x")
    parser.add_argument("--group", default="C1", help="column of the log; C1 is the user in these")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for case in options.cases.split(","):
        found.append(check(options.shared, case, options.budget, options.group, options.resamples))
        print(json.dumps(found[-1], indent=1), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1))
    raise SystemExit(0 if all(abs(one["ratio"] - 1) <= 0.1 for one in found) else 1)


if __name__ == "__main__":
    main()
