"""Fits on disk: they come back as they were, belong to their facts, and damage means a new fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from memrec_convert.conversion.inputs.kept_fits import FitStore
from memrec_convert.lab import own
from memrec_convert.lab.compare import compare


@dataclass(frozen=True)
class Inner:
    codebook: torch.Tensor
    shift: int


@dataclass(frozen=True)
class Outer:
    lists: dict
    losses: np.ndarray
    name: str
    scale: float
    parts: tuple
    nothing: None = None


def make_outer():
    """Everything that a fit may hold."""
    inner = Inner(torch.arange(6, dtype=torch.int8).reshape(2, 3), 3)
    return Outer({(2, 4): inner, (): [inner, True]}, np.linspace(0, 1, 5), "x", 0.1 + 0.2, (1, np.float64(0.3), ("y",)))


def refuse():
    """For a fit that must not be made."""
    pytest.fail("the fit was made although it was there")


CLASSES = (Inner, Outer)


def test_a_fit_comes_back_as_it_was(tmp_path):
    """Tensors, arrays, nested dataclasses, keys that are tuples, floats to the last bit."""
    store = FitStore(tmp_path, {"log": "a"})
    first = store.recall("t", make_outer, CLASSES)
    again = store.recall("t", refuse, CLASSES)
    assert list(again.lists) == list(first.lists)
    assert torch.equal(again.lists[2, 4].codebook, first.lists[2, 4].codebook)
    assert again.lists[2, 4].codebook.dtype == torch.int8
    assert again.lists[()][1] is True
    assert np.array_equal(again.losses, first.losses)
    assert again.losses.dtype == np.float64
    assert (again.name, again.scale, again.parts, again.nothing) == (first.name, first.scale, first.parts, None)


def test_fits_belong_to_their_facts(tmp_path):
    """Another log, another name or no folder: another fit."""
    made = []
    for store in (FitStore(tmp_path, {"log": "a"}), FitStore(tmp_path, {"log": "b"}), FitStore(None, {"log": "a"})):
        store.recall("t", lambda: made.append(1) or 7, ())
        store.recall("u", lambda: made.append(1) or 7, ())
    assert len(made) == 6
    assert FitStore(tmp_path, {"log": "b"}).recall("u", refuse, ()) == 7


def test_a_damaged_fit_is_made_anew(tmp_path):
    """Cut off, overwritten, or of classes that are not known."""
    store = FitStore(tmp_path, {})
    store.recall("t", make_outer, CLASSES)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"\xff" * 40, whole.replace(b"Inner", b"Other")):
        path.write_bytes(damage)
        assert store.recall("t", lambda: 5, ()) == 5
    path.write_bytes(whole)
    assert store.recall("t", refuse, CLASSES).name == "x"


def test_another_budget_needs_no_new_fit(tiny, tmp_path, monkeypatch):
    """A second run in the same folder fits nothing, and its rows are those of a run that did."""
    choices = {"data": tiny.train, "eval": tiny.test, "epochs": 0, "only": ["memrec-convert", "product", "residual"]}
    compare(tiny.bare, 9_000, work=tmp_path, **choices)
    with monkeypatch.context() as patch:
        patch.setattr(own, "fit_subject", lambda *_: refuse())
        patch.setattr("memrec_convert.lab.rivals.residual._fit_stages", lambda *_: refuse())
        again = compare(tiny.bare, 14_000, work=tmp_path, **choices)
    fresh = compare(tiny.bare, 14_000, **choices)
    for new, old in zip(again.budgets[0]["rows"], fresh.budgets[0]["rows"], strict=True):
        assert new | {"seconds": 0} == old | {"seconds": 0}
