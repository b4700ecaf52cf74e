"""The kernel without Python: every instruction set against the scalar one, here and on an emulated AArch64."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import TESTS, build_program, find_compiler, is_x86

CHECK = TESTS / "kernels" / "native" / "check.cpp"
AARCH64_LIBRARIES = Path("/usr/aarch64-linux-gnu")


def run(command: list[str], cases: int) -> tuple[dict[str, int], str]:
    """Per instruction set how many runs differ from the scalar one, and the digest of the scalar bits."""
    ran = subprocess.run([*command, str(cases)], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    lines = re.findall(rf"^(\w+): {cases} cases, (\d+) differ$", ran.stdout, re.M)
    differ = {name: int(count) for name, count in lines}
    return differ, re.findall(r"^digest (\w{16})$", ran.stdout, re.M)[0]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The check for this machine."""
    return build_program(CHECK, tmp_path_factory.mktemp("here"), compiler=find_compiler(), wide=is_x86())


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
    program = build_program(CHECK, tmp_path, compiler=compiler, wide=False)
    differ, digest = run([emulator, "-L", str(AARCH64_LIBRARIES), str(program)], 40)
    assert differ == {"neon": 0, "scalar": 0}
    assert run([str(here)], 40)[1] == digest
