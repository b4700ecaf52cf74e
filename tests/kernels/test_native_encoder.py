"""Integer products, layers and the encoder without Python: every instruction set, here and on an emulated AArch64."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import TESTS, build_program, find_compiler, is_x86

from memrec_convert.kernels.loading import import_native

PRODUCTS = TESTS / "kernels" / "native" / "products.cpp"
ENCODER = TESTS / "kernels" / "native" / "encoder.cpp"
AARCH64_LIBRARIES = Path("/usr/aarch64-linux-gnu")
CASES = 8 * 8 * 9
CODED = 7 * 3
LAYERS = TESTS / "kernels" / "native" / "layers.cpp"
LAYER_CASES = 3 * 5 * 4 * 7


def run(command: list[str], cases: int = CASES) -> dict[str, int]:
    """Per instruction set how many of all cases are wrong."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    return {name: int(count) for name, count in re.findall(rf"^(\w+): {cases} cases, (\d+) wrong$", ran.stdout, re.M)}


def test_every_instruction_set_has_the_exact_sums(tmp_path: Path) -> None:
    """Shapes that fill tiles and such that do not, with the extremes of int8 everywhere."""
    wrong = run([str(build_program(PRODUCTS, tmp_path, compiler=find_compiler(), wide=is_x86()))])
    assert "scalar" in wrong
    assert set(wrong.values()) == {0}


def test_every_instruction_set_has_its_layers_right(tmp_path: Path) -> None:
    """Int8 has the scalar bits, the others are near exact sums, and a row has the same bits alone and among others."""
    wrong = run([str(build_program(LAYERS, tmp_path, compiler=find_compiler(), wide=is_x86()))], LAYER_CASES)
    assert "scalar" in wrong
    native, _ = import_native()
    assert "avx2" in wrong or native is None or "avx2" not in native.instruction_sets()
    assert set(wrong.values()) == {0}


def code(command: list[str]) -> tuple[dict[str, int], str]:
    """Per instruction set how many cases differ from the scalar one's, and the digest of the scalar bits."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    lines = re.findall(rf"^(\w+): {CODED} cases, (\d+) differ$", ran.stdout, re.M)
    return {name: int(count) for name, count in lines}, re.findall(r"^digest (\w{16})$", ran.stdout, re.M)[0]


def test_every_instruction_set_codes_alike(tmp_path: Path) -> None:
    """Codes and distances of rows in a metric, to any depth, greedily and by beam."""
    differ, _ = code([str(build_program(ENCODER, tmp_path, compiler=find_compiler(), wide=is_x86()))])
    assert "scalar" in differ
    assert set(differ.values()) == {0}


@pytest.mark.engines
def test_neon_has_the_same_bits(tmp_path: Path) -> None:
    """Built for AArch64 and emulated: exact sums, and codes and distances as here."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if not compiler or not emulator or not AARCH64_LIBRARIES.is_dir():
        pytest.skip("no AArch64 cross compiler or emulator is here")
    emulated = [emulator, "-L", str(AARCH64_LIBRARIES)]
    program = build_program(PRODUCTS, tmp_path, compiler=compiler, wide=False)
    assert run([*emulated, str(program)]) == {"neon": 0, "scalar": 0}
    differ, digest = code([*emulated, str(build_program(ENCODER, tmp_path, compiler=compiler, wide=False))])
    assert differ == {"neon": 0, "scalar": 0}
    (tmp_path / "here").mkdir()
    here = build_program(ENCODER, tmp_path / "here", compiler=find_compiler(), wide=is_x86())
    assert code([str(here)])[1] == digest
