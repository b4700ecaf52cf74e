"""The kernel without Python: every instruction set against the scalar one, here and on an emulated AArch64."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "memrec_convert" / "kernels" / "native"
CHECK = HERE / "native" / "check.cpp"
AVX2 = ["-mavx2", "-mf16c", "-mpopcnt", "-mbmi", "-mbmi2"]
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vbmi", "vbmi2", "vpopcntdq")]
WIDE = {"lookup_avx2.cpp": AVX2, "lookup_avx512.cpp": [*AVX2, *AVX512]}
AARCH64_LIBRARIES = Path("/usr/aarch64-linux-gnu")

pytestmark = pytest.mark.skipif(
    not SOURCES.is_dir() or os.name != "posix", reason="the kernel's sources are not here, or no Unix compiler is"
)


def build(compiler: str, folder: Path, *, wide: bool) -> Path:
    """Compiles the check; the wide instruction sets' files with their own options, as the package's build does."""
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-fopenmp-simd", f"-I{SOURCES}"]
    objects = []
    for source in [CHECK, *sorted(SOURCES.glob("*.cpp"))]:
        if source.name == "module.cpp":  # Python's side
            continue
        own = WIDE.get(source.name, []) if wide else []
        objects.append(folder / f"{source.stem}.o")
        subprocess.run([compiler, *options, *own, "-c", str(source), "-o", str(objects[-1])], check=True, timeout=300)
    program = folder / "check"
    subprocess.run([compiler, *map(str, objects), "-o", str(program), "-pthread"], check=True, timeout=300)
    return program


def run(command: list[str], cases: int) -> tuple[dict[str, int], str]:
    """Per instruction set how many runs differ from the scalar one, and the digest of the scalar bits."""
    ran = subprocess.run([*command, str(cases)], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    lines = re.findall(rf"^(\w+): {cases} cases, (\d+) differ$", ran.stdout, re.M)
    differ = {name: int(count) for name, count in lines}
    return differ, re.findall(r"^digest (\w{16})$", ran.stdout, re.M)[0]


def find_compiler() -> str:
    """The C++ compiler for this machine; the test is skipped without one."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no C++ compiler is here")
    return compiler


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The check for this machine."""
    return build(find_compiler(), tmp_path_factory.mktemp("here"), wide=os.uname().machine in ("x86_64", "amd64"))


def test_every_instruction_set_has_the_scalar_bits(here: Path) -> None:
    """100 random batches over tables of every form: grids and bags, on one thread and on two."""
    differ, digest = run([str(here)], 100)
    assert differ
    assert set(differ.values()) == {0}
    assert "scalar" in differ
    assert run([str(here)], 99)[1] != digest


@pytest.mark.engines
def test_neon_has_the_bits_of_this_machine(here: Path, tmp_path: Path) -> None:
    """Built for AArch64 and emulated, NEON equals that machine's scalar bits, and those equal this machine's."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if not compiler or not emulator or not AARCH64_LIBRARIES.is_dir():
        pytest.skip("no AArch64 cross compiler or emulator is here")
    program = build(compiler, tmp_path, wide=False)
    differ, digest = run([emulator, "-L", str(AARCH64_LIBRARIES), str(program)], 40)
    assert differ == {"neon": 0, "scalar": 0}
    assert run([str(here)], 40)[1] == digest
