"""The library under test: the installed one, or the build that MEMREC_TEST_LIBRARY names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from memrec_convert.errors import KernelError
from memrec_convert.kernels.library import find_library

TESTS = Path(__file__).resolve().parents[1]
for folder in ("artifact", "encoding", "kernels"):  # small_models, random_tables, native_tables
    sys.path.insert(0, str(TESTS / folder))

from c_library import Library  # noqa: E402


@pytest.fixture(scope="session")
def library() -> Library:
    """libmemrec through ctypes; the test is skipped where the package was installed without a compiler."""
    try:
        return Library(os.environ.get("MEMREC_TEST_LIBRARY") or find_library()["library"])
    except KernelError as error:
        pytest.skip(str(error))
