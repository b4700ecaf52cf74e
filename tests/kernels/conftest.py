"""The kernel under test: the installed one, or the build that MEMREC_TEST_NATIVE names; and its instruction sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import named_kernel  # noqa: F401 - which loads the build that is named
import pytest
import torch


def instruction_sets() -> list[str]:
    """What the kernel under test can run on this machine."""
    from memrec_convert.kernels.loading import import_native

    native, _ = import_native()
    return [] if native is None else list(native.instruction_sets())


@pytest.fixture(scope="module")
def native() -> Iterator[ModuleType]:
    """The extension; whichever instruction set was active is so again afterwards. Skips where lookups use torch."""
    from memrec_convert.kernels.loading import KERNEL_VARIABLE, import_native, load_kernel

    if import_native()[0] is None or os.environ.get(KERNEL_VARIABLE) == "reference":
        pytest.skip("lookups run in torch here")
    native = load_kernel()
    assert native is not None
    before = native.active()
    yield native
    assert native.choose(before)


@pytest.fixture(scope="module", params=instruction_sets() or ["none"])
def instruction_set(request: pytest.FixtureRequest, native: ModuleType) -> str:
    """One instruction set after the other, each chosen while its tests run."""
    assert native.choose(request.param)
    assert native.active() == request.param
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's number of threads is the test's to change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
