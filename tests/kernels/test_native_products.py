"""Products of int8 matrices: every instruction set against plain loops, here and on an emulated AArch64."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import TESTS, build_program, find_compiler, is_x86

CHECK = TESTS / "kernels" / "native" / "products.cpp"
AARCH64_LIBRARIES = Path("/usr/aarch64-linux-gnu")
CASES = 8 * 8 * 9


def run(command: list[str]) -> dict[str, int]:
    """Per instruction set how many of all cases are wrong."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    return {name: int(count) for name, count in re.findall(rf"^(\w+): {CASES} cases, (\d+) wrong$", ran.stdout, re.M)}


def test_every_instruction_set_has_the_exact_sums(tmp_path: Path) -> None:
    """Shapes that fill tiles and such that do not, with the extremes of int8 everywhere."""
    wrong = run([str(build_program(CHECK, tmp_path, compiler=find_compiler(), wide=is_x86()))])
    assert "scalar" in wrong
    assert set(wrong.values()) == {0}


@pytest.mark.engines
def test_neon_has_the_exact_sums(tmp_path: Path) -> None:
    """Built for AArch64 and emulated."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if not compiler or not emulator or not AARCH64_LIBRARIES.is_dir():
        pytest.skip("no AArch64 cross compiler or emulator is here")
    program = build_program(CHECK, tmp_path, compiler=compiler, wide=False)
    assert run([emulator, "-L", str(AARCH64_LIBRARIES), str(program)]) == {"neon": 0, "scalar": 0}
