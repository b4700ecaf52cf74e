"""Whole models: converted DLRMs beside their originals, at each precision of the dense part, one thread.

    python benchmarks/whole_model.py --shared ../shared --json whole.json
    python benchmarks/whole_model.py --criteo-tb --json criteo-tb.json

--shared DIR   checkpoints/ and data/ of real models: ml1m and globo at 100x, nothing trained, timed on their test logs;
               and globo's test split evaluated through `memrec-convert evaluate`, converted and original
--criteo-tb    a DLRM in Criteo Terabyte's shape: 26 tables of dim 128, 5 GB in full, bottom 13-512-256-128, top
               479-1024-1024-512-256-1; tables of random numbers, the converted ones as in embedding.py

Contenders, each a median, in turns and with ids of their own:

ours fp32, bf16, int8       the converted model at each precision of its dense part
original fp32               the original in eager torch; `compiled`: the same through torch.compile
original bf16, int8         its eager graph with only the Linear layers exchanged for ours: 'the same dense part'
fbgemm int8, int4           its tables in FBGEMM's rows (extra [bench]), with the dense part at each precision too

JSON: {"rows": [{"model", "stage": "whole" or "embedding", "batch", "contender", "us_per_call", "ratio_to_eager_fp32",
"ratio_to_same_dense"}]}; the ratios say how many times as fast as original fp32, and ours as the original at the same
precision.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from embedding import TABLES, Ids, make_stage
from tabulate import tabulate

from memrec_convert import convert
from memrec_convert.bench.bench import bench
from memrec_convert.bench.contenders import (
    CONVERTED,
    MODEL,
    ORIGINAL,
    Contender,
    converted_contenders,
    fbgemm_contenders,
    original_contenders,
)
from memrec_convert.bench.draws import Draw, make_draws
from memrec_convert.bench.measuring import time_batch
from memrec_convert.kernels.loading import describe_path
from memrec_convert.models import ClickNetwork, build_model

BATCHES = "1,64,512,2048,16384"
BOTTOM, TOP = [13, 512, 256, 128], [479, 1024, 1024, 512, 256, 1]
DIM = 128
MODELS = ("ml1m", "globo")
EVALUATIONS = 9


class StageIds:
    """Samples for the synthetic tables: their own ids, dense values uniform in [0, 1)."""

    def __init__(self, rows: int) -> None:
        self.ids = Ids(rows, "zipf", seed=11)

    def draw_calls(self, calls: int, batch: int) -> list[Draw]:
        """The samples of so many calls."""
        return make_draws(torch.rand(calls * batch, BOTTOM[0]), self.ids.sample(calls * batch), calls=calls)

    def describe(self) -> dict[str, Any]:
        """The law."""
        return {"source": "zipf"}


def run_criteo(batches: list[int], seconds: float, artifact_mb: float, *, compiled: bool) -> list[dict[str, Any]]:
    """Rows of the Criteo-TB-shaped DLRM."""
    stage = make_stage(DIM, "mixed", int(artifact_mb * 1e6), k=2, k_weights=4)
    architecture = {
        "name": "dlrm",
        "bottom": BOTTOM,
        "top": TOP,
        "interaction": "dot",
        "pairs": "lower",
        "tables": [[stage.rows, DIM]] * TABLES,
    }
    models = [build_model(architecture, tables).eval() for tables in (stage.tables, stage.bags)]
    models[1].load_state_dict({k: v for k, v in models[0].state_dict().items() if "tables" not in k}, strict=False)
    inputs = tuple(range(TABLES))
    contenders = converted_contenders(models[0], stage.tables, inputs)
    contenders += original_contenders(models[1], stage.bags, inputs)
    contenders += fbgemm_contenders([(stage.rows, DIM)] * TABLES, inputs, models[1])
    if compiled:
        contenders.append(compile_original(models[1], inputs))
    rows = []
    for batch in batches:
        found = time_batch(contenders, StageIds(stage.rows), batch, inputs, seconds=seconds)
        rows += [{"model": "criteo-tb", "artifact_bytes": stage.nbytes} | row for row in tell(found)]
        show(rows[-len(found) :])
    return rows


def compile_original(model: ClickNetwork, inputs: tuple[int, ...]) -> Contender:
    """The original through torch.compile, tables and all."""

    def run(dense: torch.Tensor, bags: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return model.interact(dense, [model.tables[n](*bags[i]) for n, i in enumerate(inputs)])

    whole = torch.compile(run, dynamic=False)
    return Contender(
        "original compiled",
        MODEL,
        lambda draw: (draw.dense, [(bag.ids, bag.offsets) for bag in draw.columns]),
        lambda given: whole(*given),
    )


def tell(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one batch under their published names, with both ratios."""
    names = {CONVERTED: "ours fp32", ORIGINAL: "original fp32"}
    told = []
    for row in rows:
        name = names.get(row["contender"], row["contender"].replace(CONVERTED, "ours").replace("FBGEMM", "fbgemm"))
        stage = "whole" if row["stage"] == MODEL else "embedding"
        told.append(row | {"contender": name, "stage": stage, "us_per_call": row["ms_p50"] * 1e3})
    times = {(row["stage"], row["contender"]): row["us_per_call"] for row in told}
    for row in told:
        same = times.get((row["stage"], row["contender"].replace("ours", "original")))
        eager = times.get((row["stage"], "original fp32"))
        row["ratio_to_eager_fp32"] = eager / row["us_per_call"] if eager else None
        row["ratio_to_same_dense"] = same / row["us_per_call"] if same and "ours" in row["contender"] else None
    return told


def run_shared(shared: Path, batches: list[int], seconds: float, folder: Path) -> dict[str, Any]:
    """Rows of the real models, and the evaluation of globo."""
    rows, memory = [], {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        checkpoint, logs, target = shared / f"checkpoints/{name}/dlrm.pt", shared / "data" / name, folder / f"{name}.st"
        if not target.exists():
            convert(checkpoint, "100x", data=logs / "train.parquet", epochs=0, out=target, threads=1)
        found = bench(target, against=checkpoint, data=logs / "test.parquet", batch=batches, seconds=seconds)
        memory[name] = found.memory
        for batch in batches:
            own = tell([dict(row) for row in found.rows if row["batch"] == batch])
            rows += [{"model": name} | row for row in own]
            show(rows[-len(own) :])
    globo = shared / "checkpoints/globo/dlrm.pt"
    evaluated = time_evaluation(folder / "globo.st", globo, shared / "data/globo/test.parquet")
    print(json.dumps(evaluated, indent=1))
    return {"rows": rows, "memory": memory, "evaluation": evaluated}


def time_evaluation(artifact: Path, checkpoint: Path, log: Path) -> dict[str, Any]:
    """Seconds of `memrec-convert evaluate` on each, start of the process included, taking turns; medians."""
    spent: dict[str, list[tuple[float, float]]] = {"converted": [], "original": []}
    for _ in range(EVALUATIONS):
        for name, file in (("converted", artifact), ("original", checkpoint)):
            command = [sys.executable, "-m", "memrec_convert", "evaluate", file, "--eval", log, "--threads", "1"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            spent[name].append((wall, cpu))
    found: dict[str, Any] = {}
    for number, kind in enumerate(("seconds", "cpu_seconds")):
        own = {name: statistics.median(one[number] for one in times) for name, times in spent.items()}
        found[kind] = own | {"ratio": own["original"] / own["converted"]}
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """A line per contender."""
    lines = [
        (
            row["model"],
            row["stage"],
            row["batch"],
            row["contender"],
            f"{row['us_per_call']:.1f}",
            *(
                "" if row[name] is None else f"{row[name]:.2f}x"
                for name in ("ratio_to_eager_fp32", "ratio_to_same_dense")
            ),
            "noisy" * row["noisy"],
        )
        for row in rows
    ]
    headers = ["model", "stage", "batch", "contender", "us per call", "to eager fp32", "to same dense", ""]
    print(tabulate(lines, headers, disable_numparse=True), flush=True)


def main() -> None:
    """Parses the command line, measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--criteo-tb", action="store_true")
    parser.add_argument("--batch", default=BATCHES)
    parser.add_argument("--compiled", action="store_true", help="time the original through torch.compile as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing, per batch size")
    parser.add_argument("--artifact-mb", type=float, default=24, help="of the Criteo-TB shape's tables")
    parser.add_argument("--work", type=Path, help="keep the converted models here")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.shared is None and not given.criteo_tb:
        parser.error("give --shared DIR, --criteo-tb or both")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    batches = [int(size) for size in given.batch.split(",")]
    found: dict[str, Any] = {"rows": [], "kernel": describe_path(), "threads": given.threads}
    if given.criteo_tb:
        found["rows"] += run_criteo(batches, given.seconds, given.artifact_mb, compiled=given.compiled)
    if given.shared is not None:
        with tempfile.TemporaryDirectory() as name:
            shared = run_shared(given.shared, batches, given.seconds, given.work or Path(name))
        found |= shared | {"rows": found["rows"] + shared["rows"]}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
