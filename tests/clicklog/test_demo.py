"""The demo's checkpoint: in the layout of facebookresearch/dlrm, and of a model that has learned."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from memrec_convert.clicklog import LogSchema, SyntheticSpec, open_log

SPEC = SyntheticSpec(tables=(300, 20), dense=3, train_rows=40_000, val_rows=2000, test_rows=4000, id_effect=2.0)


@pytest.fixture(scope="module")
def demo():
    """The example as a module."""
    path = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
    description = importlib.util.spec_from_file_location("demo", path)
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(demo, tmp_path_factory) -> dict[str, object]:
    """A checkpoint of a tiny log, read without unpickling objects."""
    path = demo.prepare(tmp_path_factory.mktemp("demo"), SPEC)
    return torch.load(path, weights_only=True) | {"path": path}


def test_layout_is_dlrms(checkpoint):
    """Tables, bottom and top have dlrm's keys and order, and Adagrad's sums have the parameters' shapes."""
    state = checkpoint["state_dict"]
    layers = [
        f"{mlp}.{i}.{kind}"
        for mlp, last in (("bot_l", 2), ("top_l", 4))
        for i in range(0, last + 1, 2)
        for kind in ("weight", "bias")
    ]
    assert list(state) == ["emb_l.0.weight", "emb_l.1.weight", *layers]
    assert state["top_l.0.weight"].shape[1] == 16 + 3
    sums = [entry["sum"].shape for entry in checkpoint["opt_state_dict"]["state"].values()]
    assert sums == [weight.shape for weight in state.values()]
    assert type(checkpoint["test_auc"]) is float


def test_pairs_are_the_strictly_lower_triangle(demo):
    """The products reach the top MLP in dlrm's order: (1, 0), (2, 0), (2, 1), ..."""
    pairs = demo.Dlrm((5, 5, 5), dense=2).pairs
    assert list(zip(*pairs.tolist(), strict=True)) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


def test_mean_rows_leave_the_model_as_it_was(demo, checkpoint, monkeypatch):
    """Measuring with mean rows costs AUC where tables count as large, and changes no weight."""
    monkeypatch.setattr(demo, "LARGE_ROWS", 100)
    model = demo.Dlrm(SPEC.tables, dense=SPEC.dense)
    model.load_state_dict(checkpoint["state_dict"])
    schema = LogSchema((("C1", 300), ("C2", 20)), 3)
    log = open_log(checkpoint["path"].parent / "test.parquet", schema)
    before = demo.measure_auc(model, log)
    assert before > demo.measure_auc_of_mean_rows(model, log) + 0.05
    assert np.isclose(demo.measure_auc(model, log), before, rtol=0, atol=0)
