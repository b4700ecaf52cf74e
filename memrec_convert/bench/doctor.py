"""What lookups run on: the path that they take, caches as the system states them and as reads find them, threads."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memrec_convert.errors import KernelError
from memrec_convert.exports.packed import load_operators
from memrec_convert.kernels.loading import KERNEL_VARIABLE, describe_path, import_native
from memrec_convert.lookup.memory import LARGE_PAGE_BYTES, OutputPool
from memrec_convert.models.narrow import list_fast
from memrec_convert.parallel import usable_cores
from memrec_convert.results import Result
from memrec_convert.version import __version__

CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
LARGE_PAGES_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PACKAGES = ("numpy", "safetensors", "fbgemm-gpu-cpu", "fbgemm-gpu")

LINE_BYTES = 64
SMALLEST_BYTES, LARGEST_BYTES = 1 << 18, 1 << 27
SIZES_PER_DOUBLING = 2
LANES = 1024
"""Chains that are followed side by side: with one alone, what the calls cost would hide what the reads cost."""
SECONDS = 1.2
LEAST_STEP = 1.7
"""How many times longer a read from memory takes than one from the last cache, at least, for the step to be told."""


@dataclass(frozen=True)
class Machine(Result):
    """What `doctor` says.

    operators        what stands in the way of the torch operators in C++, "" where nothing does
    kernel           {"path", "instruction_set", "available", "products", "variable", "problem"}
    caches           {"level", "kind", "bytes", "shared_by"} each, as the system states them
    effective_cache  {"bytes", "curve": [{"bytes", "ns"}]}: where random reads get slow; None where they show no step
    """

    kernel: Mapping[str, Any]
    caches: tuple[Mapping[str, Any], ...]
    effective_cache: Mapping[str, Any]
    threads: int
    cores: int
    processor: str
    large_pages: Mapping[str, Any]
    versions: Mapping[str, str]
    operators: str


def describe_machine(*, chase: bool = True) -> Machine:
    """Everything that `doctor` says. `chase` measures where random reads get slow (under two seconds)."""
    curve = measure_reads() if chase else []
    return Machine(
        kernel=describe_kernel(),
        caches=tuple(read_caches()),
        effective_cache={"bytes": find_step(curve), "curve": [{"bytes": size, "ns": ns} for size, ns in curve]},
        threads=torch.get_num_threads(),
        cores=usable_cores(),
        processor=read_processor(),
        large_pages=describe_large_pages(),
        versions=list_versions(),
        operators=find_operator_problem(),
    )


def describe_kernel() -> dict[str, Any]:
    """`describe_path`, what has fast "products" here, the environment's wish, and the kernel's "problem" or ""."""
    wish = os.environ.get(KERNEL_VARIABLE)
    native, problem = import_native()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the problem is told in its own place
            path = describe_path() | {"products": list_fast()}
    except KernelError as error:
        available = [] if native is None else list(native.instruction_sets())
        path = {"path": None, "instruction_set": None, "available": [*available, "reference"], "products": ["fp32"]}
        problem = str(error)
    return path | {"variable": wish, "problem": problem}


def find_operator_problem() -> str:
    """Why compiled programs have no operators in C++ here; "" where they have."""
    try:
        load_operators()
    except KernelError as error:
        return str(error)
    return ""


def read_caches(sysfs: Path = CPU_CACHES) -> list[dict[str, Any]]:
    """The caches of the first core that hold data, the smallest first; none where the system does not tell."""
    found = []
    for index in sorted(sysfs.glob("index*")):
        try:
            kind = (index / "type").read_text().strip().lower()
            level = int((index / "level").read_text())
            kibibytes = int((index / "size").read_text().strip().removesuffix("K"))
            shared = (index / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "instruction":
            found.append({"level": level, "kind": kind, "bytes": 1024 * kibibytes, "shared_by": count_cores(shared)})
    return sorted(found, key=lambda cache: (cache["level"], cache["bytes"]))


def count_cores(listed: str) -> int:
    """How many cores a list such as "0-3,8" names."""
    edges = [part.partition("-") for part in listed.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in edges)


def measure_reads(
    *, largest_bytes: int = LARGEST_BYTES, seconds: float = SECONDS, seed: int = 0
) -> list[tuple[int, float]]:
    """[(bytes, nanoseconds per read)]: random reads, one per line, from ever larger buffers that were read before.

    A buffer's lines form one circle in random order; each read says where the next one goes, and LANES of them
    are under way at once. It ends early where time runs out.
    """
    draw, curve = np.random.default_rng(seed), list[tuple[int, float]]()
    pool = OutputPool()
    stop = time.perf_counter() + seconds
    steps = SIZES_PER_DOUBLING * (largest_bytes // SMALLEST_BYTES).bit_length()
    for number in range(steps):
        nbytes = round(SMALLEST_BYTES * 2 ** (number / SIZES_PER_DOUBLING)) // LINE_BYTES * LINE_BYTES
        if nbytes > largest_bytes or time.perf_counter() > stop:
            break
        curve.append((nbytes, _time_reads(pool, nbytes // LINE_BYTES, draw)))
    return curve


def _time_reads(pool: OutputPool, lines: int, draw: np.random.Generator) -> float:
    """Nanoseconds per read of a circle of so many lines, the best of a few rounds."""
    words = LINE_BYTES // 8
    buffer = pool.take(lines, LINE_BYTES // 4).numpy().view(np.int64).reshape(-1)
    order = draw.permutation(lines) * words
    buffer[order] = np.roll(order, -1)
    at, beyond = order[:: max(lines // LANES, 1)][:LANES].copy(), np.empty(LANES, dtype=np.int64)
    best, rounds = float("inf"), 2 if lines * LINE_BYTES > 1 << 24 else 4
    for turn in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(lines // LANES):
            np.take(buffer, at, out=beyond, mode="clip")
            at, beyond = beyond, at
        spent = time.perf_counter_ns() - start
        best = min(best, spent / (lines // LANES * LANES)) if turn else best  # the first round fills the caches
    return best


def find_step(curve: Sequence[tuple[int, float]]) -> int | None:
    """The size up to which reads come from a cache: half-way, by ratio, from the caches' times to the memory's.

    None where the largest buffers are read as fast as the small ones.
    """
    if len(curve) < 6:
        return None
    times = np.array([ns for _, ns in curve])
    inside, outside = float(np.median(times[:4])), float(np.median(times[-2:]))
    if outside < LEAST_STEP * inside:
        return None
    slow = times > (inside * outside) ** 0.5
    first = len(slow) - int(np.argmin(slow[::-1])) if not slow.all() else 0  # after the last fast one
    return curve[max(first - 1, 0)][0]


def describe_large_pages(setting: Path = LARGE_PAGES_SETTING) -> dict[str, Any]:
    """{"setting": what the system says, or None, "given": whether memory that asks for large pages gets them}.

    "given" is None where it cannot be seen.
    """
    try:
        text = setting.read_text()
        chosen: str | None = text[text.index("[") + 1 : text.index("]")]
    except (OSError, ValueError):
        chosen = None
    before = _large_page_bytes()
    block = OutputPool().take(4, LARGE_PAGE_BYTES // 4).zero_()
    after = _large_page_bytes()
    given = None if before is None or after is None else after - before >= LARGE_PAGE_BYTES
    del block
    return {"setting": chosen, "given": given}


def _large_page_bytes() -> int | None:
    """Bytes of this process in large pages."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    values = [int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")]
    return 1024 * values[0] if values else None


def list_versions() -> dict[str, str]:
    """Versions of this package, Python, torch and what else decides about speed, where installed."""
    found = {"memrec-convert": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()
