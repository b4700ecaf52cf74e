"""Converts a made-up checkpoint as large as one likes, and prints peak memory and time beside reading the file once.

python benchmarks/big_checkpoint.py --rows 40000000 --dim 128 --tables 3 --budget 48MB

The checkpoint has the layout of facebookresearch/dlrm and no optimizer state. It is written as a stream into a
temporary folder and removed at the end. Its rows are U(-1/sqrt(rows), 1/sqrt(rows)), as training starts from, plus a
move within a few directions that is larger for some ids than for most, as training leaves them. `--log` makes a small
click log too, and converts with it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet as pq
from tabulate import tabulate

SHARES = (0.6, 0.3, 0.1)
SMALL_ROWS = 1000
DENSE = 13
RANK = 12
ROWS_PER_CHUNK = 1 << 15


@dataclass(frozen=True)
class Storage:
    """What a pickle of torch's says of a storage."""

    key: str
    elements: int


@dataclass(frozen=True)
class Stored:
    """A float32 tensor of which the pickle says where it lies."""

    storage: Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape)))
        arguments = (self.storage, 0, self.shape, strides, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class StoragePickler(pickle.Pickler):
    """Writes storages by reference, as torch.save does."""

    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        """The reference of a storage; None for everything else."""
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, value.key, "cpu", value.elements)
        return None


def share_rows(rows: int, tables: int) -> list[int]:
    """Rows of each large table, and of a small one."""
    shares = SHARES[: tables - 1] if tables > 1 else ()
    large = [int(rows * share) for share in shares]
    return [*large, rows - sum(large), SMALL_ROWS]


def make_rows(rows: int, dim: int, seed: int, *, moved_share: float = 0.0) -> Iterator[np.ndarray]:
    """The rows of one table, float32 [n, dim] at a time; of a further day, in which this share of them moved."""
    draw, further = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    directions = (draw.standard_normal((RANK, dim)) * 0.8 ** np.arange(RANK)[:, None]).astype(np.float32)
    for start in range(0, rows, ROWS_PER_CHUNK):
        count = min(ROWS_PER_CHUNK, rows - start)
        initial = (2 * draw.random((count, dim), dtype=np.float32) - 1) / np.float32(rows**0.5)
        rank = draw.random((count, 1), dtype=np.float32) * rows + 1  # of the id among the most read ones
        moved = np.float32(rows**-0.5) * np.clip((rows / rank) ** 0.4, 1, 50)
        made = initial + moved * (draw.standard_normal((count, RANK), dtype=np.float32) @ directions)
        if moved_share:
            own = further.random(count) < moved_share
            step = further.standard_normal((int(own.sum()), RANK), dtype=np.float32) @ directions
            made[own] += np.float32(0.5) * moved[own] * step
        yield made


def make_dense(widths: list[int], prefix: str, seed: int, *, moved: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Weights and biases of an MLP as facebookresearch/dlrm names them; `moved`, a further day's."""
    draw, further = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        weight = draw.standard_normal((outputs, inputs)) * (2 / (inputs + outputs)) ** 0.5
        if moved:
            weight += 0.01 * further.standard_normal(weight.shape)
        yield f"{prefix}.{2 * number}.weight", weight.astype(np.float32)
        yield f"{prefix}.{2 * number}.bias", np.zeros(outputs, dtype=np.float32)


def write_checkpoint(path: Path, tables: list[int], dim: int, *, moved_share: float = 0.0) -> None:
    """A zip archive as torch.save makes it, written chunk by chunk; of a further day, where rows moved."""
    vectors = len(tables) + 1
    dense = [
        *make_dense([DENSE, 64, dim], "bot_l", 1, moved=moved_share > 0),
        *make_dense([dim + vectors * (vectors - 1) // 2, 64, 1], "top_l", 2, moved=moved_share > 0),
    ]
    state: dict[str, Stored] = OrderedDict()
    shapes = [(f"emb_l.{number}.weight", (rows, dim)) for number, rows in enumerate(tables)]
    for number, (name, shape) in enumerate([*shapes, *((name, value.shape) for name, value in dense)]):
        state[name] = Stored(Storage(str(number), int(np.prod(shape))), shape)
    text = io.BytesIO()
    StoragePickler(text, protocol=2).dump({"iter": 0, "epoch": 0, "state_dict": state})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", text.getvalue())
        archive.writestr("archive/byteorder", "little")
        for number, rows in enumerate(tables):
            with archive.open(f"archive/data/{number}", "w", force_zip64=True) as member:
                for chunk in make_rows(rows, dim, number, moved_share=moved_share):
                    member.write(chunk.tobytes())
        for number, (_, value) in enumerate(dense, start=len(tables)):
            archive.writestr(f"archive/data/{number}", value.tobytes())
        archive.writestr("archive/version", "3\n")


def write_log(path: Path, tables: list[int], samples: int) -> None:
    """A click log with ids that are read very unevenly."""
    draw = np.random.default_rng(5)
    columns = {f"I{n + 1}": draw.integers(0, 100, samples).astype(np.float32) for n in range(DENSE)}
    for number, rows in enumerate(tables):
        columns[f"C{number + 1}"] = np.minimum((rows ** draw.random(samples)).astype(np.int64), rows - 1)
    columns["label"] = (draw.random(samples) < 0.3).astype(np.int8)
    pq.write_table(pa.table(columns), path)


def read_once(path: Path) -> float:
    """Seconds to read a file from its beginning to its end."""
    start, buffer = time.perf_counter(), bytearray(4 << 20)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
    return time.perf_counter() - start


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes (10**6 bytes) of a conversion in a process of its own."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "memrec_convert", "convert", *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(child.returncode)
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    """Makes, converts, prints, removes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--tables", type=int, default=3, choices=(1, 2, 3, 4))
    parser.add_argument("--budget", default="48MB")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--log", type=int, default=0, metavar="SAMPLES")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    options, more = parser.parse_known_args()
    tables = share_rows(options.rows, options.tables)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, out = Path(folder) / "dlrm.pt", Path(folder) / "small.safetensors"
        start = time.perf_counter()
        write_checkpoint(path, tables, options.dim)
        written = time.perf_counter() - start
        arguments = [str(path), "--budget", options.budget, "--out", str(out), "--threads", options.threads]
        arguments += ["--weights", options.weights, "--json", *more]
        if options.log:
            write_log(Path(folder) / "log.parquet", tables, options.log)
            arguments += ["--data", str(Path(folder) / "log.parquet"), "--epochs", "0"]
        once = read_once(path)
        seconds, peak = run(arguments)
        report = json.loads(out.with_name("small.report.json").read_text())
        row: dict[str, Any] = {
            "rows": options.rows,
            "dim": options.dim,
            "MB": round(path.stat().st_size / 1e6),
            "write s": round(written, 1),
            "read once s": round(once, 1),
            "convert s": round(seconds, 1),
            "s per million rows": round(seconds / options.rows * 1e6, 2),
            "peak MB": round(peak),
            "file bytes": out.stat().st_size,
        }
        left = sorted(one.name for one in Path(folder).iterdir())
    forms = [(table["name"], table["rows"], table["bytes_after"], table["form"]) for table in report["tables"]]
    print(tabulate(forms, headers=("table", "rows", "bytes", "form")))
    print(json.dumps({"seconds": report["seconds"], "distortion": report["plan"]["distortion"], "files": left}))
    print(tabulate([row], headers="keys"))
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps([*known, row | {"seconds": report["seconds"]}], indent=1))


if __name__ == "__main__":
    main()
