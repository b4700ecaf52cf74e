"""What all tests of stores share."""

from __future__ import annotations

import pytest
from faulty_store import Faulty

from memrec_convert.remote import store as store_module


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """No waiting between tries, and an empty store."""
    monkeypatch.setattr(store_module, "_WAITS", (0, 0, 0))
    Faulty.faults, Faulty.moved, Faulty.requests = [], 0, 0
    Faulty.store.clear()
