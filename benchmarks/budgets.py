"""Writes artifacts at random budgets and checks that each is exactly as large as planned, and within its budget.

python benchmarks/budgets.py --shared ../shared --count 20
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import write_model
from memrec_convert.checkpoint import read_source
from memrec_convert.clicklog import take_profile
from memrec_convert.conversion.inputs.from_checkpoint import LogChoices, make_schema, make_subject, open_batches
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import stay_silent
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.candidates import find_candidates
from memrec_convert.conversion.steps.fitting import fit_subject
from memrec_convert.conversion.steps.sizing import complete_metadata, make_counter
from memrec_convert.parallel import single_threaded_torch

CASES = {
    "ml1m": ("ml1m/dlrm.pt", "ml1m"),
    "torchrec": ("ml1m/torchrec_dlrm.pt", "ml1m"),
    "globo": ("globo/dlrm.pt", "globo"),
}


def check(shared: Path, case: str, count: int, seed: int) -> int:
    """Number of artifacts whose size was not the planned one, or beyond the budget."""
    checkpoint, log = CASES[case]
    options, watch = Options(epochs=0), Stopwatch()
    source = read_source(shared / "checkpoints" / checkpoint)
    schema = make_schema(source.architecture, [table.name for table in source.tables], LogChoices({}))
    train = open_batches(shared / "data" / log / "train.parquet", schema, options.batch_size)
    profile = take_profile(train.log)
    subject, _ = make_subject(source, train=train, hold_out=None, profile=profile, allow_nonfinite=False)
    fitted = fit_subject(subject, options, stay_silent, watch)
    draw, wrong = random.Random(seed), 0
    for _ in range(count):
        budget = int(subject.dense_bytes("fp32") + 30_000 + subject.table_bytes / 10 ** draw.uniform(0, 2.8))
        plan = {"budget": str(budget), "budget_bytes": budget, "method": "auto"}
        blank = Metadata(
            modules={}, architecture=subject.architecture, dense="fp32", profile={"weights": "log"}, plan=plan, seed=0
        )
        counter = make_counter(subject, blank, oov="error")
        best = find_candidates(subject, fitted, budget, options, counter, progress=stay_silent, watch=watch)[0]
        with tempfile.TemporaryDirectory() as folder:
            metadata = complete_metadata(subject, blank, best.specs, oov="error")
            size = write_model(Path(folder) / "artifact.safetensors", best.as_model(subject), metadata)
        fits = size == best.nbytes and size <= budget
        wrong += not fits
        verdict = "ok" if fits else "WRONG"
        print(f"{case}: budget {budget}, planned {best.nbytes}, written {size}: {verdict}", flush=True)
    return wrong


def main() -> None:
    """Checks every case; exit code 1 where any size was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with single_threaded_torch():
        wrong = sum(check(options.shared, case, options.count, options.seed) for case in CASES)
    print(f"{wrong} of {options.count * len(CASES)} sizes were wrong")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
