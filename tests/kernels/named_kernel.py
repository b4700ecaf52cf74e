"""Imported before the kernel is used: puts the build that MEMREC_TEST_NATIVE names in the installed one's place."""

from __future__ import annotations

import importlib.util
import os
import sys

NAME = "memrec_convert.kernels._native"
FILE = os.environ.get("MEMREC_TEST_NATIVE")

if FILE:
    spec = importlib.util.spec_from_file_location(NAME, FILE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
