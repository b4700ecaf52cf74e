"""Programs over the sources of the engine, compiled as the package's build compiles them, but quickly."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
RUNTIME = TESTS.parent / "memrec_convert" / "runtime"
AVX2 = ("-mavx2", "-mf16c", "-mpopcnt", "-mbmi", "-mbmi2")
AVX512 = tuple(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vbmi", "vbmi2", "vpopcntdq"))
AVX512_VNNI = (*AVX2, *AVX512, "-mavx512vnni")
WIDE = {
    "lookup_avx2.cpp": AVX2,
    "lookup_avx512.cpp": (*AVX2, *AVX512),
    "encoder_avx2.cpp": AVX2,
    "encoder_avx512.cpp": AVX512_VNNI,
    "products_avx2.cpp": AVX2,
    "products_avx512.cpp": AVX512_VNNI,
    "dense_avx2.cpp": (*AVX2, "-mfma"),
    "dense_avx512.cpp": AVX512_VNNI,
    "dense_avx512_bf16.cpp": (*AVX512_VNNI, "-mavx512bf16"),
}
AMX = ("-mamx-tile", "-mamx-int8", "-mamx-bf16")
AVX_VNNI = ("-mavxvnni",)
NEWER = {
    "encoder_avx_vnni.cpp": (AVX2, AVX_VNNI),
    "products_avx_vnni.cpp": (AVX2, AVX_VNNI),
    "encoder_amx.cpp": (AVX512_VNNI, AMX),
    "dense_amx.cpp": ((*AVX512_VNNI, "-mavx512bf16"), AMX),
}
"""Options that a compiler may lack, after those that it has."""
OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fopenmp-simd", "-Wno-psabi", f"-I{RUNTIME}")


def find_compiler(name: str = "g++", other: str = "clang++") -> str:
    """The C++ compiler for this machine; the test is skipped without one, or without the sources."""
    if not (RUNTIME / "api.cpp").is_file() or os.name != "posix":
        pytest.skip("the engine's sources are not here, or no Unix compiler is")
    compiler = (os.environ.get("CXX") if name == "g++" else None) or shutil.which(name) or shutil.which(other)
    if not compiler:
        pytest.skip(f"no {name} is here")
    return compiler


def is_x86() -> bool:
    """Whether this machine has the wide instruction sets' architecture."""
    return os.uname().machine in ("x86_64", "amd64")


@functools.cache
def compile_engine(compiler: str, *, wide: bool) -> tuple[str, ...]:
    """The engine's object files; those of the wide instruction sets with their own options."""
    folder = Path(tempfile.mkdtemp(prefix="memrec-engine-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = WIDE | {name: (*own, *newer) for name, (own, newer) in NEWER.items() if wide and _knows(compiler, newer)}
    objects = []
    for source in sorted(RUNTIME.rglob("*.cpp")):
        own = options.get(source.name, ()) if wide else ()
        objects.append(str(folder / f"{source.stem}.o"))
        subprocess.run([compiler, *OPTIONS, *own, "-c", str(source), "-o", objects[-1]], check=True, timeout=300)
    return tuple(objects)


@functools.cache
def _knows(compiler: str, options: tuple[str, ...]) -> bool:
    tried = [compiler, *options, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(tried, capture_output=True, timeout=60, check=False).returncode == 0


def build_program(source: Path, folder: Path, *, compiler: str, wide: bool) -> Path:
    """A test's program, linked with the engine."""
    program = folder / source.stem
    objects = compile_engine(compiler, wide=wide)
    subprocess.run([compiler, *OPTIONS, str(source), *objects, "-o", str(program), "-pthread"], check=True, timeout=300)
    return program
