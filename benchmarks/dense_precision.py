"""What the precision of the dense part alone changes in AUC, on real models.

    python benchmarks/dense_precision.py --shared ../shared

The original, its tables untouched, with its dense part as a file would hold it and computed so. The hold-out is what
`--dense auto` decides by; the test split is read for this figure alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from memrec_convert.conversion.inputs.preparing import Job, prepare
from memrec_convert.conversion.measuring.precision import drop_of_dense, settle_dense

MODELS = ("globo/dlrm.pt", "ml1m/dlrm.pt", "ml1m/torchrec_dlrm.pt")
PRECISIONS = ("bf16", "int8")


def open_model(shared: Path, name: str) -> Job:
    """A checkpoint with its hold-out and its test split."""
    logs = shared / "data" / name.split("/")[0]
    choices = {"threads": 1, "val": logs / "val.parquet", "dense": "auto"}
    return prepare(shared / "checkpoints" / name, "100x", choices, eval=logs / "test.parquet")  # type: ignore[arg-type]


def measure(job: Job, dense: str) -> list[str]:
    """Changes of the AUC on the hold-out and on the test split, as texts."""
    sources = (job.subject.hold_out, job.judged)
    drops = [None if one is None else drop_of_dense(job.subject, one, dense, workers=1) for one in sources]
    return ["-" if drop is None else f"{-drop:+.6f}" for drop in drops]


def main() -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for name in MODELS:
        job = open_model(given.shared, name)
        chosen = settle_dense(job.subject, job.options).dense
        rows += [(name, dense, *measure(job, dense), "auto" * (dense == chosen)) for dense in PRECISIONS]
    print(tabulate(rows, ["model", "dense part", "hold-out", "test", ""], disable_numparse=True))


if __name__ == "__main__":
    main()
