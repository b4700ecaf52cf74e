"""The frameworks' own files: every one is read, or refused by the name of what it is."""

from __future__ import annotations

import numpy as np
import pytest

from memrec_convert.checkpoint import Facts, read_source, verify_storage
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

pytestmark = pytest.mark.shared
DLRM, TORCHREC = "zoo/facebookresearch-dlrm", "zoo/torchrec"
FIVE = [(1000, 16), (50, 16), (20000, 16), (3, 16), (300, 16)]
EIGHT = [(rows, 8) for rows, _ in FIVE]
SGD = "sgd (not used: it does not tell how often rows were read)"
FIELDS = (50, 30, 1000, 50, 20000, 3, 300)


@pytest.mark.parametrize(
    ("file", "layout", "tables"),
    [
        *[
            (f"{DLRM}/{name}.pt", "facebookresearch-dlrm", FIVE)
            for name in ("plain_dot", "dot_itself", "cat", "qr_mult", "wp_learned", "rwsadagrad")
        ],
        (f"{DLRM}/md_thr0.pt", "facebookresearch-dlrm", [(1000, 3), (50, 7), (20000, 1), (3, 16), (300, 4)]),
        (f"{DLRM}/dist2_gloo.pt", "facebookresearch-dlrm", FIVE[:3]),
        *[
            (f"{TORCHREC}/{name}", "torchrec-dlrm", FIVE)
            for name in (
                "dlrm_state_dict.pt",
                "dlrm_dcn_train_ckpt.pt",
                "dlrm_whole_module.pt",
                "dlrm_quant_state_dict.pt",
                "dmp_w2/dcp",
                "dmp_w2/snapshot",
                "dmp_w2",
                "dmp_rw_w2/dcp",
                "dmp_rw_w2/snapshot",
                "dmp_rw_w2",
            )
        ],
        ("zoo/deepctr-torch/deepfm.h5", "deepctr-torch", [*EIGHT, *[(rows, 1) for rows, _ in FIVE]]),
        ("zoo/deepctr-torch/deepfm_weights.h5", "deepctr-torch", [*EIGHT, *[(rows, 1) for rows, _ in FIVE]]),
        ("zoo/pytorch-fm/dfm.pt", "pytorch-fm", [(21433, 16), (21433, 1)]),
        ("zoo/pytorch-fm/dfm_sd.pt", "pytorch-fm", [(21433, 16), (21433, 1)]),
        ("zoo/nvidia-dlrm/joint", "nvidia-dlrm", FIVE),
        ("zoo/recbole/DeepFM.pth", "recbole", [(1778, 8), (1778, 1)]),
        ("zoo/torch-rechub/deepfm/model.pth", "torch-rechub", EIGHT),
    ],
)
def test_every_real_checkpoint_is_inspected(shared_checkpoints, file, layout, tables):
    """Each framework's own file, or directory, shows its tables with their rows and widths."""
    report = inspect(shared_checkpoints / file)
    assert report.layout == layout
    assert [(table["rows"], table["dim"]) for table in report.tables] == tables
    assert report.file_bytes >= sum(table["bytes"] for table in report.tables)


@pytest.mark.parametrize(
    ("file", "tables", "optimizer"),
    [
        (f"{DLRM}/plain_dot.pt", 5, SGD),
        (f"{DLRM}/qr_mult.pt", 5, SGD),
        (f"{DLRM}/rwsadagrad.pt", 5, "rowwise-adagrad"),
        (f"{DLRM}/kaggle_crit2.pt", 26, SGD),
        (f"{DLRM}/tb_mlperf.pt", 26, SGD),
        (f"{TORCHREC}/dlrm_state_dict.pt", 5, None),
        (f"{TORCHREC}/dlrm_dcn_train_ckpt.pt", 5, "adagrad"),
        (f"{TORCHREC}/dmp_rw_w2/dcp", 5, None),
        (f"{TORCHREC}/dmp_rw_w2/snapshot", 5, None),
        (f"{TORCHREC}/dmp_rw_w2", 5, None),
        ("zoo/nvidia-dlrm/joint", 5, None),
        ("ml1m/dlrm.pt", 9, "adagrad"),
        ("ml1m/torchrec_dlrm.pt", 9, None),
    ],
)
def test_real_files_are_read_for_conversion(shared_checkpoints, file, tables, optimizer):
    """The frameworks' own files give their tables, and their bytes match the archive's checksums."""
    source = read_source(shared_checkpoints / file)
    assert (len(source.tables), source.optimizer) == (tables, optimizer)
    assert all((table.optimizer is not None) == (optimizer not in (None, SGD)) for table in source.tables)
    verify_storage(source)


@pytest.mark.parametrize(
    ("file", "error", "sentence"),
    [
        (f"{DLRM}/dist2_gloo.pt", IncompleteCheckpointError, "tables are missing"),
        ("zoo/recbole/DeepFM.pth", CheckpointError, "how its network reads these tables is not known"),
        ("zoo/pytorch-fm/dfm_sd.pt", CheckpointError, "state the field sizes"),
    ],
)
def test_real_files_that_do_not_say_enough_are_inspected_only(shared_checkpoints, file, error, sentence):
    """What cannot be converted is listed with a warning, and refused for conversion with the same sentence."""
    assert any(sentence in warning for warning in inspect(shared_checkpoints / file).warnings)
    with pytest.raises(error, match=sentence):
        read_source(shared_checkpoints / file)


@pytest.mark.parametrize("run", ["dmp_w2", "dmp_rw_w2"])
def test_all_forms_of_a_distributed_run_hold_the_same_rows(shared_checkpoints, run):
    """Rank files, torch.distributed.checkpoint and torchsnapshot agree bit for bit, whatever way they are cut."""
    folder = shared_checkpoints / TORCHREC / run
    ranks = ",".join(str(folder / f"state_dict_rank{rank}.pt") for rank in (0, 1))
    sources = [read_source(path) for path in (ranks, folder, folder / "dcp", folder / "snapshot")]
    for tables in zip(*(source.tables for source in sources), strict=True):
        first = tables[0].weight.read()
        assert all(np.array_equal(first, table.weight.read()) for table in tables[1:])
        border = slice(len(first) // 2 - 1, len(first) // 2 + 2)  # between the shards of two ranks
        for table in tables:
            np.testing.assert_array_equal(table.weight.read_rows(border.start, border.stop), first[border])
    for name in sources[0].dense:
        assert len({source.dense[name].read().tobytes() for source in sources}) == 1


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (f"{TORCHREC}/dmp_w2/state_dict_rank0.pt", "0 of the 1 shards of this ShardedTensor .*directory.*dmp_w2"),
        (f"{TORCHREC}/dmp_rw_w2/state_dict_rank1.pt", "1 of the 2 shards .*directory.*dmp_rw_w2"),
        (f"{TORCHREC}/dmp_w2/dcp/__0_0.distcp", "a part of a torch.distributed.checkpoint.*dmp_w2/dcp"),
        (f"{TORCHREC}/dmp_w2/dcp/.metadata", "a part of a torch.distributed.checkpoint"),
        (f"{TORCHREC}/dmp_w2/snapshot/batched", "a part of a torchsnapshot.*dmp_w2/snapshot"),
        (f"{TORCHREC}/dmp_rw_w2/snapshot/0/model", "a part of a torchsnapshot"),
        ("zoo/nvidia-dlrm/joint/bottom_model.embeddings.0.bin", "a part of a checkpoint of NVIDIA's DLRM.*joint"),
        ("zoo/nvidia-dlrm/joint/top_model.mlp.pt", "a part of a checkpoint of NVIDIA's DLRM"),
        ("zoo/nvidia-dlrm", "a directory above a checkpoint"),
        ("zoo", "a directory"),
    ],
)
def test_parts_of_real_checkpoints_name_the_whole(shared_checkpoints, file, sentence):
    """A part of a checkpoint given alone is refused, and the sentence names the directory to give."""
    with pytest.raises(CheckpointError, match=sentence):
        inspect(shared_checkpoints / file)


def test_field_sizes_split_the_joint_table(shared_checkpoints):
    """With the field sizes stated, each field's rows are the joint table's from its offset on."""
    path = shared_checkpoints / "zoo/pytorch-fm/dfm_sd.pt"
    joint = read_source(path, for_conversion=False).tables[0].weight.read()
    tables = read_source(path, facts=Facts(field_sizes=FIELDS)).tables
    assert [(table.rows, table.dim) for table in tables] == [(n, 16) for n in FIELDS] + [(n, 1) for n in FIELDS]
    np.testing.assert_array_equal(np.concatenate([table.weight.read() for table in tables[: len(FIELDS)]]), joint)
    assert sum(table.nbytes for table in tables) == 21433 * 17 * 4


def test_the_stored_auc_is_the_trainers_own(shared_checkpoints):
    """`test_auc` of the real file is the figure of its validation split."""
    metrics = inspect(shared_checkpoints / "ml1m/dlrm.pt").stored_metrics
    assert metrics["test_auc"] == pytest.approx(0.807499, abs=1e-6)
