"""The frameworks' own files: each is read, or refused by the name of what it is."""

from __future__ import annotations

import pytest

from memrec_convert.checkpoint import read_source, verify_storage
from memrec_convert.checkpoint.inspection import inspect
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

pytestmark = pytest.mark.shared
DLRM, TORCHREC = "zoo/facebookresearch-dlrm", "zoo/torchrec"


@pytest.mark.parametrize(
    ("file", "tables", "optimizer"),
    [
        (f"{DLRM}/plain_dot.pt", 5, None),
        (f"{DLRM}/dot_itself.pt", 5, None),
        (f"{DLRM}/cat.pt", 5, None),
        (f"{DLRM}/rwsadagrad.pt", 5, "rowwise-adagrad"),
        (f"{DLRM}/kaggle_crit2.pt", 26, None),
        (f"{DLRM}/tb_mlperf.pt", 26, None),
        (f"{TORCHREC}/dlrm_state_dict.pt", 5, None),
        (f"{TORCHREC}/dlrm_whole_module.pt", 5, None),
        ("ml1m/dlrm.pt", 9, "adagrad"),
        ("ml1m/torchrec_dlrm.pt", 9, None),
    ],
)
def test_real_files_are_read_for_conversion(shared_checkpoints, file, tables, optimizer):
    """The frameworks' own files give their tables, and their bytes match the archive's checksums."""
    source = read_source(shared_checkpoints / file)
    assert (len(source.tables), source.optimizer) == (tables, optimizer)
    assert all((table.optimizer is not None) == (optimizer is not None) for table in source.tables)
    verify_storage(source)


@pytest.mark.parametrize(
    ("file", "tables", "error", "sentence"),
    [
        (f"{DLRM}/qr_mult.pt", 5, CheckpointError, "quotient-remainder"),
        (f"{DLRM}/md_thr0.pt", 5, CheckpointError, "mixed dimensions"),
        (f"{DLRM}/wp_learned.pt", 5, CheckpointError, "weighted pooling"),
        (f"{DLRM}/dist2_gloo.pt", 3, IncompleteCheckpointError, "tables are missing"),
        (f"{TORCHREC}/dlrm_dcn_train_ckpt.pt", 5, CheckpointError, "DLRM_DCN"),
        (f"{TORCHREC}/dlrm_quant_state_dict.pt", 5, CheckpointError, "quantised"),
    ],
)
def test_real_files_of_other_forms_are_inspected_only(shared_checkpoints, file, tables, error, sentence):
    """What cannot be converted yet is listed with a warning, and refused for conversion with the same sentence."""
    report = inspect(shared_checkpoints / file)
    assert len(report["tables"]) == tables
    assert any(sentence in warning for warning in report["warnings"])
    with pytest.raises(error, match=sentence):
        read_source(shared_checkpoints / file)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("zoo/deepctr-torch/deepfm.h5", "embedding_dict.C1.weight"),
        ("zoo/recbole/DeepFM.pth", "token_embedding_table.embedding.weight"),
        ("zoo/torchrec/dmp_w2/state_dict_rank0.pt", "ShardedTensor"),
        ("zoo/torchrec/dmp_w2/dcp", "torch.distributed.checkpoint"),
        ("zoo/torchrec/dmp_w2/snapshot", "torchsnapshot"),
        ("zoo/nvidia-dlrm/joint", "NVIDIA"),
        ("zoo", "a directory"),
    ],
)
def test_real_files_of_other_frameworks_are_named(shared_checkpoints, file, sentence):
    """Files that are not read say what they hold."""
    with pytest.raises(CheckpointError, match=sentence):
        inspect(shared_checkpoints / file)


def test_the_stored_auc_is_the_trainers_own(shared_checkpoints):
    """`test_auc` of the real file is the figure of its validation split."""
    metrics = inspect(shared_checkpoints / "ml1m/dlrm.pt")["stored_metrics"]
    assert metrics["test_auc"] == pytest.approx(0.807499, abs=1e-6)
