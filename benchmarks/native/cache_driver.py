"""Runs lookups under a simulator: `python -I -S cache_driver.py JOB.json`; imports nothing large, prints nothing.

JOB.json: {"kernel": extension module, "instruction_set", "gather": shared library, "blob": file of the tables' tensors,
"ids": file of int32 [batches, tables, batch], "batch", "batches", "tables", "dim", "rows", "descriptions": null for the
plain gather, else what the kernel makes tables of, their addresses as offsets into the blob or, where "full", into
untouched memory of the full tables' size}.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import sys

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


def address_of(block: mmap.mmap) -> int:
    """Where a writable mapping lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(block))


def map_file(path: str) -> mmap.mmap:
    """A file in memory of its own."""
    with open(path, "rb") as stream:  # noqa: PTH123 - pathlib is a large import here
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


def resolve(plain: dict, start: int) -> None:
    """Offsets become addresses, in levels too; -1 is no tensor."""
    for key in ADDRESSES:
        if key in plain:
            plain[key] = 0 if plain[key] < 0 else start + plain[key]
    for level in plain.get("levels", ()):
        resolve(level, start)


def main() -> None:
    """Looks up all batches of the job."""
    with open(sys.argv[1], encoding="utf-8") as stream:  # noqa: PTH123
        job = json.load(stream)
    library = ctypes.CDLL(job["gather"])
    ids, batch, tables, dim = map_file(job["ids"]), job["batch"], job["tables"], job["dim"]
    out = mmap.mmap(-1, batch * tables * dim * 4)
    long = ctypes.c_int64
    id_start, out_start, step = address_of(ids), address_of(out), 4 * tables * batch
    full = job["descriptions"] is None or job["full"]
    blob = mmap.mmap(-1, job["rows"] * tables * dim * 4) if full else map_file(job["blob"])
    start = address_of(blob)
    if job["descriptions"] is None:
        pointer, rows = ctypes.c_void_p(start), long(job["rows"])
        sizes = rows, long(tables), long(dim)
        for number in range(job["batches"]):
            at = ctypes.c_void_p(id_start + number * step)
            library.gather(pointer, *sizes, at, long(batch), ctypes.c_void_p(out_start))
        return
    spec = importlib.util.spec_from_file_location("memrec_convert.kernels._native", job["kernel"])
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    if not native.choose(job["instruction_set"]):
        sys.exit(f"{job['instruction_set']} is not available")
    for plain in job["descriptions"]:
        resolve(plain, start)
    if not full:
        library.touch(ctypes.c_void_p(start), long(len(blob)))
    made = native.make_tables(job["descriptions"])
    for number in range(job["batches"]):
        fault = native.look_up_grid(
            made, id_start + number * step, True, 1, batch, batch, out_start, tables * dim, False, 1, 0
        )
        if fault is not None:
            sys.exit(f"fault {fault}")


main()
