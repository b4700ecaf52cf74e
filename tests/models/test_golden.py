"""Rebuilt originals return what the frameworks' own forward returned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memrec_convert.checkpoint import read_source
from memrec_convert.models import build_original

pytestmark = pytest.mark.shared
TOLERANCE = 1e-6  # the frameworks' own float32 outputs lie within 2e-7 of a float64 evaluation


def load_golden(folder, framework, file):
    """The rebuilt model and its golden inputs and outputs."""
    with np.load(folder / f"zoo/golden/{framework}__{file}.npz", allow_pickle=False) as golden:
        arrays = {name: torch.from_numpy(golden[name]) for name in golden.files if name != "note"}
    return build_original(read_source(folder / f"zoo/{framework}/{file}.pt")), arrays


@pytest.mark.parametrize("file", ["plain_dot", "dot_itself", "cat", "kaggle_crit2", "tb_mlperf"])
def test_dlrm_files_give_the_frameworks_probabilities(shared_checkpoints, file):
    """facebookresearch/dlrm: every interaction, 5 and 26 tables; the sigmoid is theirs."""
    model, golden = load_golden(shared_checkpoints, "facebookresearch-dlrm", file)
    with torch.no_grad():
        got = model(golden["dense"], golden["ids"]).sigmoid()
    assert (got - golden["out"]).abs().max() <= TOLERANCE


def test_multi_hot_bags_give_the_frameworks_probabilities(shared_checkpoints):
    """Bags of none to four ids, repeated ids, and empty first and last bags."""
    model, golden = load_golden(shared_checkpoints, "facebookresearch-dlrm", "plain_dot")
    bags = [(golden[f"mh_ids_{table}"], golden[f"mh_offsets_{table}"]) for table in range(5)]
    with torch.no_grad():
        got = model(golden["dense"], bags).sigmoid()
    assert (got - golden["mh_out"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("file", ["dlrm_state_dict", "dlrm_whole_module"])
def test_torchrec_files_give_the_frameworks_logits(shared_checkpoints, file):
    """torchrec: pairs of the upper triangle, logits out; the whole module holds the same tensors."""
    model, golden = load_golden(shared_checkpoints, "torchrec", "dlrm_state_dict")
    if file != "dlrm_state_dict":
        model = build_original(read_source(shared_checkpoints / f"zoo/torchrec/{file}.pt"))
    with torch.no_grad():
        got = model(golden["dense"], golden["ids"])
    assert (got - golden["out"]).abs().max() <= TOLERANCE


def test_the_other_triangle_would_be_noticed(shared_checkpoints):
    """The golden inputs tell the orders of the pairs apart, so the tests above can fail."""
    source = read_source(shared_checkpoints / "zoo/torchrec/dlrm_state_dict.pt")
    _, golden = load_golden(shared_checkpoints, "torchrec", "dlrm_state_dict")
    source.architecture["pairs"] = "lower"
    with torch.no_grad():
        got = build_original(source)(golden["dense"], golden["ids"])
    assert (got - golden["out"]).abs().max() > 1e-3
