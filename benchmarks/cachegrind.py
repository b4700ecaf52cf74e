"""Last-level cache misses and instructions per lookup, simulated by cachegrind: full tables beside compressed ones.

    python benchmarks/cachegrind.py --json cachegrind.json

Needs valgrind and a C++ compiler. 26 tables of dim 128, 5 GB in full; ids by Zipf's law (1.05) scattered over the rows,
the same for all. Cachegrind knows no AVX-512, so the kernel runs its AVX2 path; it counts no prefetches as accesses, so
nobody's are hidden. Caches: 32 KiB of level 1, then the last level (14-way, LRU).

gather     one row per id copied to the output: the least that full tables cost
full       the kernel over the full tables
ours       the kernel over compressed ones: 80 % of the lookups are codes of 6 tokens, the others hashed
published  the kernel over the hashed form as published: 75,000 fp32 tokens, k = 1, k' = 4

Each figure is the difference of two runs, one twice as long as the other, per lookup: start and first touches cancel.
Reading the ids themselves (1/16 of a line each) is taken off.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedding import TABLES, Ids, make_tables
from tabulate import tabulate

from memrec_convert.encoding import HashSpec, TableSpec
from memrec_convert.kernels.loading import import_native
from memrec_convert.lookup import CompressedEmbeddingBag, HashGroup, kernel_tables

DIM = 128
FULL_BYTES = 5_000_000_000
ROWS = FULL_BYTES // (TABLES * DIM * 4)
WAYS = 14  # a last level of 14, 28 or 56 MiB then has a power of two of sets
PUBLISHED = HashSpec("all", DIM, 75_000, 1, blocks=4688, k_weights=4, token_codec="fp32")
NATIVE = Path(__file__).resolve().parent / "native"
ADDRESSES = (
    "frame",
    "codebook",
    "base",
    "codec_rows",
    "codec_scale",
    "index",
    "lines",
    "codes",
    "tokens",
    "token_scale",
    "token_weights",
)
ID_LINES = 4 / 64
MOST_FEWER = 10_000
"""A larger ratio is that of what the simulated interpreter does besides."""


def full_tables() -> list[CompressedEmbeddingBag]:
    """Descriptions of the full tables; their rows are memory that nobody has written."""
    tables = []
    for number in range(TABLES):
        table = CompressedEmbeddingBag(TableSpec(1, DIM, "kept", codec="fp32"), name=f"full{number}")
        table.spec = TableSpec(ROWS, DIM, "kept", codec="fp32")
        tables.append(table)
    return tables


def published_tables() -> list[CompressedEmbeddingBag]:
    """All ids hashed into one token table."""
    group = HashGroup(PUBLISHED)
    group.tokens.normal_()
    group.scale.fill_(1.0)
    group.weights.copy_(torch.rand(PUBLISHED.blocks * 16))
    return [
        CompressedEmbeddingBag(
            TableSpec(ROWS, DIM, "replaced", hashing=PUBLISHED, hash_seed=number), name=f"hashed{number}", group=group
        )
        for number in range(TABLES)
    ]


def describe(tables: list[CompressedEmbeddingBag], blob: Path | None) -> list[dict[str, Any]]:
    """What the kernel makes tables of, with offsets for addresses; the tensors go into the blob, each once."""
    descriptions, held, column = [], list[torch.UntypedStorage](), 0
    lines = kernel_tables._build_lines(tables)
    for number, table in enumerate(tables):
        descriptions.append(kernel_tables._describe(table, number, column, lines[number], held))
        column += table.spec.dim
    if blob is None:
        for number, plain in enumerate(descriptions):
            replace_addresses(plain, {plain["codec_rows"]: number * ROWS * DIM * 4})
        return descriptions
    modules = [*tables, *{id(t.group): t.group for t in tables if t.group is not None}.values()]
    tensors = [buffer for module in modules for buffer in module.buffers(recurse=False)]
    tensors += [one for of_table in lines for one in of_table]
    places, position = {}, 0
    with blob.open("wb") as stream:
        for tensor in tensors:
            if tensor.data_ptr() in places or not tensor.numel():
                continue
            places[tensor.data_ptr()] = position
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            padded = -(-len(data) // 64) * 64
            stream.write(data + bytes(padded - len(data)))
            position += padded
        stream.write(bytes(64))  # the kernel may read a word past a code
    for plain in descriptions:
        replace_addresses(plain, places)
    return descriptions


def replace_addresses(plain: dict[str, Any], places: dict[int, int]) -> None:
    """Addresses become offsets, -1 where there is no tensor."""
    for key in ADDRESSES:
        if key in plain:
            plain[key] = places.get(plain[key], -1)
    for level in plain.get("levels", ()):
        replace_addresses(level, places)


def make_jobs(folder: Path, artifact_bytes: int, batch: int, batches: int) -> tuple[dict[str, dict[str, Any]], Any]:
    """A job per contender, and the bytes of each contender's tables."""
    ids = Ids(ROWS, "zipf", seed=3)
    ids_file = folder / "ids.bin"
    with ids_file.open("wb") as stream:
        for _ in range(batches):
            stream.write(np.ascontiguousarray(ids.sample(batch).numpy().T.astype(np.int32)).tobytes())
    native, problem = import_native()
    if native is None:
        raise SystemExit(f"the kernel is not installed: {problem}")
    library = folder / "gather.so"
    source = NATIVE / "gather.cpp"
    subprocess.run(["c++", "-O3", "-mavx2", "-shared", "-fPIC", "-o", library, source], check=True)
    common = {
        "kernel": native.__file__,
        "instruction_set": "avx2",
        "gather": str(library),
        "ids": str(ids_file),
        "full": False,
        "batch": batch,
        "tables": TABLES,
        "dim": DIM,
        "rows": ROWS,
        "blob": "",
        "descriptions": None,
    }
    ours, published = folder / "ours.bin", folder / "published.bin"
    mixed = make_tables(ids, DIM, "mixed", artifact_bytes, k=2, k_weights=4)
    jobs = {
        "gather": common,
        "full": common | {"full": True, "descriptions": describe(full_tables(), None)},
        "ours": common | {"blob": str(ours), "descriptions": describe(mixed, ours)},
        "published": common | {"blob": str(published), "descriptions": describe(published_tables(), published)},
    }
    sizes = {"ours": ours.stat().st_size, "published": published.stat().st_size}
    sizes |= {"gather": FULL_BYTES, "full": FULL_BYTES}
    return jobs, sizes


def simulate(job: dict[str, Any], folder: Path, llc_bytes: int, batches: int) -> dict[str, int]:
    """Instructions, read and write misses of the last level, of one run."""
    path = folder / "job.json"
    path.write_text(json.dumps(job | {"batches": batches}))
    python = Path(sys.executable).resolve()
    done = subprocess.run(
        [
            "valgrind",
            "--tool=cachegrind",
            "--cache-sim=yes",
            f"--cachegrind-out-file={folder / 'out'}",
            "--I1=32768,8,64",
            "--D1=32768,8,64",
            f"--LL={llc_bytes},{WAYS},64",
            python,
            "-I",
            "-S",
            NATIVE / "cache_driver.py",
            path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    text = done.stderr.replace(",", "")
    misses = re.search(r"LLd misses:\s+\d+\s+\(\s*(\d+) rd\s+\+\s+(\d+) wr\)", text)
    instructions = re.search(r"I\s+refs:\s+(\d+)", text)
    assert misses is not None
    assert instructions is not None
    return {"instructions": int(instructions[1]), "reads": int(misses[1]), "writes": int(misses[2])}


def main() -> None:
    """Parses the command line, simulates, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llc", default="14,28,56", help="MiB of the last level; multiples of 14 by powers of two")
    parser.add_argument("--contenders", default="gather,ours,published")
    parser.add_argument("--artifact-mb", type=float, default=24)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lookups", type=int, default=400_000, help="counted; as many before them warm the cache")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    start = time.perf_counter()
    half = -(-given.lookups // (given.batch * TABLES))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs, sizes = make_jobs(folder, int(given.artifact_mb * 1e6), given.batch, 2 * half)
        for mebibytes in map(int, given.llc.split(",")):
            for who in given.contenders.split(","):
                short, long = (simulate(jobs[who], folder, mebibytes << 20, n) for n in (half, 2 * half))
                per = {key: (long[key] - short[key]) / (half * given.batch * TABLES) for key in long}
                per["reads"] = max(0.0, per["reads"] - ID_LINES)
                rows.append({"llc_mib": mebibytes, "contender": who, "bytes": sizes[who], **per})
                print(f"{rows[-1]}  {time.perf_counter() - start:.0f} s", flush=True)
    print(render(rows))
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "lookups": half * given.batch * TABLES}, indent=1))


def render(rows: list[dict[str, Any]]) -> str:
    """The table: misses (reads and writes) and instructions per lookup, and how many times fewer than the gather's."""
    gather = {row["llc_mib"]: row["reads"] + row["writes"] for row in rows if row["contender"] == "gather"}
    lines = []
    for row in rows:
        misses, base = row["reads"] + row["writes"], gather.get(row["llc_mib"])
        if base is None:
            fewer = "-"
        else:
            fewer = f"{base / misses:.3g}x" if misses > base / MOST_FEWER else f"over {MOST_FEWER:,}x"
        lines.append(
            (
                row["llc_mib"],
                row["contender"],
                f"{row['bytes'] / 1e6:,.1f}",
                f"{misses:.4f}",
                fewer,
                f"{row['instructions']:.0f}",
            )
        )
    headers = ["LLC MiB", "tables", "MB", "LLC misses", "fewer by", "instructions"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
