"""Rebuilt originals return what the frameworks' own forward returned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memrec_convert.checkpoint import Facts, read_source
from memrec_convert.errors import ModelError
from memrec_convert.models import build_original

pytestmark = pytest.mark.shared
TOLERANCE = 1e-6  # the frameworks' own float32 outputs lie within 2e-7 of a float64 evaluation
FIELDS = (50, 30, 1000, 50, 20000, 3, 300)


def load_golden(folder, name):
    """Golden inputs and outputs as tensors."""
    with np.load(folder / f"zoo/golden/{name}.npz", allow_pickle=False) as golden:
        return {key: torch.from_numpy(golden[key]) for key in golden.files if key != "note"}


def load_bags(golden):
    """The multi-hot inputs, per table (ids, offsets)."""
    tables = sum(name.startswith("mh_ids_") for name in golden)
    return [(golden[f"mh_ids_{table}"], golden[f"mh_offsets_{table}"]) for table in range(tables)]


@pytest.mark.parametrize(
    "file", ["plain_dot", "dot_itself", "cat", "qr_mult", "md_thr0", "wp_learned", "kaggle_crit2", "tb_mlperf"]
)
def test_dlrm_files_give_the_frameworks_probabilities(shared_checkpoints, file):
    """facebookresearch/dlrm: every interaction and form of table; the sigmoid is theirs."""
    golden = load_golden(shared_checkpoints, f"facebookresearch-dlrm__{file}")
    model = build_original(read_source(shared_checkpoints / f"zoo/facebookresearch-dlrm/{file}.pt"))
    with torch.no_grad():
        got = model(golden["dense"], golden["ids"]).sigmoid()
    assert (got - golden["out"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("file", ["plain_dot", "wp_learned"])
def test_multi_hot_bags_give_the_frameworks_probabilities(shared_checkpoints, file):
    """Bags of none to four ids, repeated ids, and empty first and last bags; learned weights act inside the sums."""
    golden = load_golden(shared_checkpoints, f"facebookresearch-dlrm__{file}")
    model = build_original(read_source(shared_checkpoints / f"zoo/facebookresearch-dlrm/{file}.pt"))
    with torch.no_grad():
        got = model(golden["dense"], load_bags(golden)).sigmoid()
    assert (got - golden["mh_out"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "file", "sigmoid"),
    [
        ("torchrec__dlrm_state_dict", "torchrec/dlrm_state_dict.pt", False),
        ("torchrec__dlrm_state_dict", "torchrec/dlrm_whole_module.pt", False),
        ("torchrec__dlrm_dcn_train_ckpt", "torchrec/dlrm_dcn_train_ckpt.pt", False),
        ("torchrec__dlrm_quant_state_dict", "torchrec/dlrm_quant_state_dict.pt", False),
        ("nvidia-dlrm__joint", "nvidia-dlrm/joint", False),
        ("deepctr-torch__deepfm_weights", "deepctr-torch/deepfm_weights.h5", True),
        ("deepctr-torch__deepfm_weights", "deepctr-torch/deepfm.h5", True),
        ("torch-rechub__model", "torch-rechub/deepfm/model.pth", True),
        ("pytorch-fm__dfm_sd", "pytorch-fm/dfm_sd.pt", True),
        ("pytorch-fm__dfm_sd", "pytorch-fm/dfm.pt", True),
    ],
)
def test_other_frameworks_files_give_their_outputs(shared_checkpoints, name, file, sigmoid):
    """torchrec, NVIDIA and three DeepFMs: logits, or probabilities where the framework gives those."""
    golden = load_golden(shared_checkpoints, name)
    facts = Facts(field_sizes=FIELDS) if "pytorch-fm" in name else Facts()
    model = build_original(read_source(shared_checkpoints / "zoo" / file, facts=facts))
    with torch.no_grad():
        got = model(golden["dense"], golden["ids"])
    assert ((got.sigmoid() if sigmoid else got) - golden["out"]).abs().max() <= TOLERANCE


def test_a_bag_of_several_ids_is_refused_where_rows_are_multiplied(shared_checkpoints):
    """Quotient and remainder are pooled before they are multiplied, so no table of rows stands for such a bag."""
    model = build_original(read_source(shared_checkpoints / "zoo/facebookresearch-dlrm/qr_mult.pt"))
    golden = load_golden(shared_checkpoints, "facebookresearch-dlrm__qr_mult")
    single = [(column, torch.arange(64)) for column in golden["ids"].t()]
    with torch.no_grad():
        torch.testing.assert_close(model(golden["dense"], single).sigmoid(), golden["out"], rtol=0, atol=TOLERANCE)
    with pytest.raises(ModelError, match="one id per sample"):
        model(golden["dense"][:32], [(column, torch.arange(32) * 2) for column in golden["ids"].t()])


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("torchrec__dlrm_state_dict", "torchrec/dlrm_state_dict.pt", {"pairs": "lower"}),
        ("nvidia-dlrm__joint", "nvidia-dlrm/joint", {"pairs": "upper"}),
        ("nvidia-dlrm__joint", "nvidia-dlrm/joint", {"table_inputs": [2, 0, 4, 1, 3]}),
    ],
)
def test_another_order_would_be_noticed(shared_checkpoints, name, file, change):
    """The golden inputs tell orders of pairs and of tables apart, so the tests above can fail."""
    source, golden = read_source(shared_checkpoints / "zoo" / file), load_golden(shared_checkpoints, name)
    source.architecture.update(change)
    with torch.no_grad():
        got = build_original(source)(golden["dense"], golden["ids"] % 3)
        right = build_original(read_source(shared_checkpoints / "zoo" / file))(golden["dense"], golden["ids"] % 3)
    assert (got - right).abs().max() > 1e-3
