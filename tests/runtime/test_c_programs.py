"""Programs over the library: the examples, built as a user builds them, and one that opens mutated artifacts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from c_library import Library
from native_build import TESTS, build_program, find_compiler, is_x86
from small_models import DIM, make_dlrm, make_own, save_dlrm, save_tiny

from memrec_convert import save
from memrec_convert.errors import KernelError
from memrec_convert.kernels.library import find_library

ROOT = TESTS.parent
EXAMPLES = ROOT / "examples" / "c"


@pytest.fixture(scope="module")
def places() -> dict[str, str]:
    """What `doctor --paths` says."""
    try:
        return find_library()
    except KernelError as error:
        pytest.skip(str(error))


def run(*command: object, **environment: str) -> str:
    """The standard output of a command that ends well."""
    ran = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env=os.environ | environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def check_examples(look_up: Path, serve: Path, folder: Path, **environment: str) -> None:
    """Both examples give the rows of the model that Python has."""
    model, path = make_dlrm(), save_dlrm(folder)
    printed = run(look_up, path, "tables.1", 0, 39, 17, -5, 40, **environment)
    found = np.array([line.split() for line in printed.splitlines()], dtype=np.float32)
    expected = model.tables[1].lookup(torch.tensor([0, 39, 17])).numpy()
    assert found.shape == (5, DIM)
    assert np.array_equal(found[:3], expected)  # nine digits tell any two float32 apart
    assert not found[3:].any()
    for threads in (1, 2):
        printed = run(serve, path, 100, threads, **environment)
        sums = dict(line.split() for line in printed.splitlines())
        for number, table in enumerate(model.tables):
            ids = torch.arange(100) * 7919 % table.spec.rows
            expected_sum = table.lookup(ids).to(torch.float64).sum().item()
            assert float(sums[f"tables.{number}"]) == pytest.approx(expected_sum, rel=1e-6, abs=1e-6)


def test_doctor_says_where_everything_is(places: dict[str, str]) -> None:
    """Each place exists, and the command prints them and nothing else."""
    assert (Path(places["include"]) / "memrec.h").is_file()
    assert Path(places["library"]).is_file()
    assert (Path(places["cmake"]) / "memrec-config.cmake").is_file()
    assert (Path(places["pkgconfig"]) / "memrec.pc").is_file()
    printed = run(sys.executable, "-c", "from memrec_convert.cli import main; main()", "doctor", "--paths")
    assert dict(line.split(": ", 1) for line in printed.splitlines()) == places


def test_examples_build_with_a_compiler_alone(places: dict[str, str], tmp_path: Path) -> None:
    """C and C++ against the installed header and library, strictly and without a warning."""
    library = Path(places["library"])
    options = [f"-I{places['include']}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    linking = [f"-L{library.parent}", "-lmemrec", f"-Wl,-rpath,{library.parent}"]
    built = {}
    for name, standard, compiler in (
        ("look_up.c", "-std=c99", find_compiler("gcc", "clang")),
        ("serve.cpp", "-std=c++17", find_compiler()),
    ):
        built[name] = tmp_path / Path(name).stem
        run(compiler, standard, *options, EXAMPLES / name, *linking, "-o", built[name])
    check_examples(built["look_up.c"], built["serve.cpp"], tmp_path)


def test_examples_build_with_cmake_and_pkg_config(places: dict[str, str], tmp_path: Path) -> None:
    """find_package and pkg-config find the library where `doctor --paths` says it is."""
    compiler = find_compiler()
    tools = [shutil.which(tool) for tool in ("cmake", "pkg-config")]
    if not all(tools):
        pytest.skip("cmake or pkg-config is not here")
    run("cmake", "-S", EXAMPLES, "-B", tmp_path / "build", f"-Dmemrec_DIR={places['cmake']}")
    run("cmake", "--build", tmp_path / "build")
    check_examples(tmp_path / "build" / "look_up", tmp_path / "build" / "serve", tmp_path)
    flags = run("pkg-config", "--cflags", "--libs", "memrec", PKG_CONFIG_PATH=places["pkgconfig"]).split()
    run(compiler, "-std=c++17", EXAMPLES / "serve.cpp", *flags, "-o", tmp_path / "serve")
    check_examples(
        tmp_path / "build" / "look_up",
        tmp_path / "serve",
        tmp_path,
        LD_LIBRARY_PATH=str(Path(places["library"]).parent),
    )


def make_artifacts(folder: Path) -> list[Path]:
    """Small artifacts that hold every form, and the golden ones."""
    own = folder / "own.safetensors"
    save(make_own(), own)
    golden = sorted((TESTS / "artifact" / "golden").glob("*.safetensors"))
    return [save_tiny(folder), save_dlrm(folder), own, *golden]


@pytest.mark.parametrize("cases", [1000, pytest.param(4000, marks=pytest.mark.engines)])
def test_mutated_artifacts_are_refused_or_harmless(library: Library, tmp_path: Path, cases: int) -> None:
    """Changed files, half of them with fitting digests, through open, lookups and verify.

    The core has 1,000 of them and the tier `engines` 4,000.
    `.ci/sanitize` has 20,000 of them, in a program built with AddressSanitizer and UndefinedBehaviorSanitizer.
    """
    given, asked = os.environ.get("MEMREC_TEST_MUTATE"), int(os.environ.get("MEMREC_TEST_CASES", cases))
    source = TESTS / "runtime" / "native" / "mutate.cpp"
    program = given or build_program(source, tmp_path, compiler=find_compiler(), wide=is_x86())
    printed = run(program, asked, *make_artifacts(tmp_path))
    made, refused, accepted, unchanged = map(int, re.findall(r"\d+", printed.splitlines()[0]))
    assert made == asked == refused + accepted
    assert refused > 0.7 * made
    assert accepted > 2 * unchanged  # bytes of the rows may be any, once the digests fit
