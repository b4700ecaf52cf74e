"""Measures how long conversions take, beside reading the source once in the same run.

python benchmarks/conversion_speed.py --json figures.json
python benchmarks/conversion_speed.py --json figures.json --shared ../shared --large

Synthetic checkpoints as benchmarks/big_checkpoint.py makes them, converted without data; with --shared real models with
their logs, evaluated on the test split. Per case: seconds by step, seconds to read the file once (cold, where --cold
may drop the page cache by the file's own advice, and from the page cache), peak memory, distortion, AUC, and the
artifact's SHA-256. --python converts by another installation, to compare with; the file is made once in --folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from big_checkpoint import read_once, share_rows, write_checkpoint
from tabulate import tabulate


@dataclass(frozen=True)
class Case:
    """A conversion: a made-up checkpoint of rows x dim, or a real one with its log."""

    name: str
    budget: str
    rows: int = 0
    dim: int = 0
    log: str = ""
    epochs: int = 0


CASES = (
    Case("1Mx16", "100x", 1_000_000, 16),
    Case("4Mx16", "100x", 4_000_000, 16),
    Case("16Mx16", "100x", 16_000_000, 16),
    Case("4Mx128", "5MB", 4_000_000, 128),
    Case("10Mx128", "12MB", 10_000_000, 128),
)
LARGE = (Case("40Mx128", "48MB", 40_000_000, 128),)
REAL = tuple(
    Case(f"{log}{'+epoch' * epochs}", "100x", log=log, epochs=epochs) for log in ("ml1m", "globo") for epochs in (0, 1)
)


def find_source(case: Case, folder: Path, shared: Path | None) -> Path:
    """The checkpoint of a case, made where it is not there yet."""
    if case.log:
        assert shared is not None
        return shared / "checkpoints" / case.log / "dlrm.pt"
    path = folder / f"{case.name}.pt"
    if not path.exists():
        partial = path.with_suffix(".part")
        write_checkpoint(partial, share_rows(case.rows, 3), case.dim)
        partial.rename(path)
    return path


def list_arguments(case: Case, source: Path, out: Path, shared: Path | None, threads: str) -> list[str]:
    """The command line of a conversion."""
    arguments = [str(source), "--budget", case.budget, "--out", str(out), "--json", "--threads", threads]
    if case.log and shared is not None:
        folder = shared / "data" / case.log
        arguments += ["--data", str(folder / "train.parquet"), "--eval", str(folder / "test.parquet")]
        arguments += ["--val", str(folder / "val.parquet")] if case.epochs else ["--epochs", "0"]
    return arguments


def forget(path: Path) -> None:
    """Asks the system to drop a file from the page cache, as far as it does so for an unprivileged process."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def convert_once(python: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes (10**6 bytes) of a conversion in a process of its own."""
    start = time.perf_counter()
    child = subprocess.Popen([python, "-m", "memrec_convert", "convert", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(child.returncode)
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def run(case: Case, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One conversion and its figures."""
    source = find_source(case, folder, options.shared)
    if options.cold:
        forget(source)
    first = read_once(source)
    again = read_once(source)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        out = Path(place) / "small.safetensors"
        seconds, peak = convert_once(options.python, list_arguments(case, source, out, options.shared, options.threads))
        report = json.loads(out.with_name("small.report.json").read_text())
        digest = hashlib.sha256(out.read_bytes()).hexdigest()
    return {
        "case": case.name,
        "MB": round(source.stat().st_size / 1e6),
        "seconds": round(seconds, 2),
        "read": round(first, 2),
        "read from cache": round(again, 2),
        "times reading": round(seconds / again, 1),
        "peak MB": round(peak),
        "distortion": report["plan"]["distortion"],
        "auc": (report.get("auc") or {}).get("after"),
        "steps": report["seconds"],
        "reading": report.get("seconds_reading"),
        "sha256": digest,
    }


def main() -> None:
    """Converts every case, `--repeat` times, and prints and writes what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", help="names, separated by commas; all by default")
    parser.add_argument("--large", action="store_true", help="40 M x 128 too")
    parser.add_argument("--shared", type=Path, help="folder of real checkpoints and logs")
    parser.add_argument("--folder", type=Path, help="where checkpoints are made, and stay")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="drop each source from the page cache first")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = [*CASES, *(LARGE if options.large else ()), *(REAL if options.shared else ())]
    wanted = options.cases.split(",") if options.cases else [case.name for case in cases]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as spare:
        folder = options.folder or Path(spare)
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            for _ in range(options.repeat if case.name in wanted else 0):
                found.append(run(case, options, folder))
                print(json.dumps(found[-1]), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1))
    print(tabulate([{k: v for k, v in row.items() if k not in ("steps", "sha256")} for row in found], headers="keys"))


if __name__ == "__main__":
    main()
