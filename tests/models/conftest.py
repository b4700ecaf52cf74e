"""The folder of real checkpoints, where it exists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_checkpoints() -> Path:
    """The folder of real checkpoints; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("MEMREC_SHARED", default)) / "checkpoints"
    if not folder.is_dir():
        pytest.skip("the shared checkpoints are not here")
    return folder
