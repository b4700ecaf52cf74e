"""Programs over the sources of the engine, compiled as the package's build compiles them, but quickly."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from contextlib import suppress
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


def compile_engine(folder: Path, compiler: str, *, wide: bool) -> list[str]:
    """The engine's object files in a folder, which several processes fill together.

    Those of the wide instruction sets are made with their own options.
    """
    folder.mkdir(exist_ok=True)
    options = WIDE | {name: (*own, *newer) for name, (own, newer) in NEWER.items() if wide and _knows(compiler, newer)}
    objects = {source: folder / f"{source.stem}.o" for source in sorted(RUNTIME.rglob("*.cpp"))}
    for source, made in objects.items():
        with suppress(FileExistsError):  # another process makes it
            made.with_suffix(".claim").touch(exist_ok=False)
            own, part = options.get(source.name, ()) if wide else (), made.with_suffix(".part")
            subprocess.run([compiler, *OPTIONS, *own, "-c", str(source), "-o", str(part)], check=True, timeout=300)
            part.rename(made)
    end = time.monotonic() + 300
    while missing := [made for made in objects.values() if not made.exists()]:
        assert time.monotonic() < end, f"no process has made {missing[0]}"
        time.sleep(0.05)
    return [str(made) for made in objects.values()]


def _find_shared(folder: Path) -> Path:
    """A folder of this run of the tests, which its processes share, from one of a test."""
    return next((place for place in folder.parents if place.parent.name.startswith("pytest-of-")), folder.parent)


@functools.cache
def _knows(compiler: str, options: tuple[str, ...]) -> bool:
    tried = [compiler, *options, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(tried, capture_output=True, timeout=60, check=False).returncode == 0


def build_program(source: Path, folder: Path, *, compiler: str, wide: bool) -> Path:
    """A test's program in the test's folder, linked with the engine."""
    program = folder / source.stem
    place = _find_shared(folder) / f"engine-{Path(compiler).name}-{'wide' if wide else 'plain'}"
    objects = compile_engine(place, compiler, wide=wide)
    subprocess.run([compiler, *OPTIONS, str(source), *objects, "-o", str(program), "-pthread"], check=True, timeout=300)
    return program
