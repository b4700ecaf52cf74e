"""Which path lookups take, as the environment and the installation decide."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from native_tables import make_bag, same_bits, through_kernel

from memrec_convert.errors import KernelError
from memrec_convert.kernels import loading
from memrec_convert.kernels.loading import KERNEL_VARIABLE, describe_path, load_kernel


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The path is decided anew in each test, with nothing said by the environment, and after it."""
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
    load_kernel.cache_clear()
    yield
    load_kernel.cache_clear()


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension cannot be imported."""

    def fail() -> ModuleType:
        raise ImportError("No module named '_native'")

    monkeypatch.setattr(loading, "importlib_import", fail)


def check_lookup(*, kernel: bool) -> None:
    """A lookup takes the path and gives the reference's rows."""
    module, ids = make_bag(1), torch.arange(20)
    assert through_kernel(module) == kernel
    assert same_bits(module(ids.view(-1, 1)), module.lookup(ids))


@pytest.mark.parametrize("word", [None, "auto", "", " AUTO "])
def test_the_kernel_by_itself(native: ModuleType, monkeypatch: pytest.MonkeyPatch, word: str | None) -> None:
    """Without a word lookups run in the kernel, silently."""
    if word is not None:
        monkeypatch.setenv(KERNEL_VARIABLE, word)
    check_lookup(kernel=True)
    names = list(native.instruction_sets())
    found = {"path": "kernel", "instruction_set": native.active(), "available": [*names, "reference"]}
    assert describe_path() == found


def test_each_instruction_set_by_name(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name chooses, in any case, with spaces around it."""
    for name in native.instruction_sets():
        monkeypatch.setenv(KERNEL_VARIABLE, f" {name.upper()} ")
        load_kernel.cache_clear()
        check_lookup(kernel=True)
        assert describe_path()["instruction_set"] == native.active() == name


@pytest.mark.parametrize("installed", [True, False])
def test_the_reference_by_name(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, installed: bool
) -> None:
    """`reference` is silent, whether there is a kernel or not."""
    if not installed:
        request.getfixturevalue("missing")
    monkeypatch.setenv(KERNEL_VARIABLE, "reference")
    check_lookup(kernel=False)
    assert describe_path() == {"path": "reference", "instruction_set": None, "available": ["reference"]}


def test_unknown_names_are_refused(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name is an error that lists what there is."""
    monkeypatch.setenv(KERNEL_VARIABLE, "sse9")
    there = ", ".join([*native.instruction_sets(), "reference"])
    for _ in range(2):
        with pytest.raises(KernelError, match=f"sse9 is not available on this machine; available: {there}."):
            check_lookup(kernel=True)


@pytest.mark.usefixtures("missing")
def test_one_warning_without_the_extension() -> None:
    """Where it was not built, lookups run in torch and one warning says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            check_lookup(kernel=False)
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert "the C++ kernel of memrec-convert is not installed (No module named '_native')" in str(caught[0].message)


@pytest.mark.usefixtures("missing")
def test_a_name_without_the_extension_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instruction set asked for by name is an error where there is no kernel."""
    monkeypatch.setenv(KERNEL_VARIABLE, "avx2")
    with pytest.raises(KernelError, match="MEMREC_KERNEL=avx2: the C\\+\\+ kernel is not installed"):
        check_lookup(kernel=True)


def test_a_process_without_the_extension() -> None:
    """A package whose extension is not there works from its first import on, with the one warning."""
    code = """
        import sys
        sys.modules["memrec_convert.kernels._native"] = None
        import test_loading
        test_loading.check_lookup(kernel=False)
        test_loading.check_lookup(kernel=False)
    """
    environment = os.environ | {KERNEL_VARIABLE: "auto", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", "\n".join(line.strip() for line in code.splitlines())],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("RuntimeWarning: the C++ kernel of memrec-convert is not installed") == 1
