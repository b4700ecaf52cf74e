"""Converts two days of a made-up model, the second from nothing and like the first, and makes the patch between them.

python benchmarks/nightly.py --rows 4000000 --dim 128 --moved 0.05 --threads 2

The checkpoints are those of big_checkpoint.py, in a temporary folder; on the second day a share of the rows, and the
dense part, have moved. Printed: seconds and CPU seconds of both conversions (each in a process of its own), predicted
distortion, rows that kept their codes, and the bytes of the patch beside those of the tables and of the dense part.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from big_checkpoint import share_rows, write_checkpoint
from tabulate import tabulate

from memrec_convert import apply, diff


def run(*words: str | Path) -> tuple[dict[str, Any], float, float]:
    """The report of a conversion, its seconds and its CPU seconds."""
    command = [sys.executable, "-m", "memrec_convert", "convert", *map(str, words), "--json", "--quiet"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report: dict[str, Any] = json.loads(done.stdout)
    return report, time.perf_counter() - start, cpu


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows of the large tables together")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--tables", type=int, default=3)
    parser.add_argument("--moved", type=float, default=0.05, help="share of the rows that moved overnight")
    parser.add_argument("--budget", default="100x")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Prints two tables."""
    options = read_options()
    tables = share_rows(options.rows, options.tables)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "yesterday.pt", tables, options.dim)
        write_checkpoint(folder / "today.pt", tables, options.dim, moved_share=options.moved)
        old, new, patch = folder / "yesterday", folder / "today", folder / "patch"
        threads = ("--threads", str(options.threads))
        run(folder / "yesterday.pt", "--budget", options.budget, "--out", old, *threads)
        fresh = run(folder / "today.pt", "--budget", options.budget, "--out", folder / "fresh", *threads)
        like = run(folder / "today.pt", "--like", old, "--out", new, *threads)
        made = diff(old, new, out=patch)
        apply(old, patch, out=folder / "made")
        assert (folder / "made").read_bytes() == new.read_bytes()
        anew = diff(old, folder / "fresh", out=folder / "other")
    rows = [
        [label, f"{seconds:.1f}", f"{cpu:.1f}", f"{report['plan']['distortion']:.1f}", report["artifact"]["bytes"]]
        for label, (report, seconds, cpu) in (("from nothing", fresh), ("like yesterday", like))
    ]
    print(tabulate(rows, ["conversion", "seconds", "CPU seconds", "distortion", "bytes"], disable_numparse=True))
    print(like[0]["plan"]["like"]["says"].replace(str(old), "yesterday"))
    sizes = like[0]["sizes"]["artifact"]
    dense = sizes["dense"]
    rows = [
        [label, one.bytes, f"{one.bytes / sizes['tables']:.1%}", f"{(one.bytes - dense) / sizes['tables']:.1%}"]
        for label, one in (("to the one like yesterday", made), ("to the one from nothing", anew))
    ]
    print(tabulate(rows, ["patch", "bytes", "of the tables", "without the dense part"], disable_numparse=True))


if __name__ == "__main__":
    main()
