"""Every network and form of table goes through the whole conversion: file in, artifact out, model back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memrec_convert import convert, load
from memrec_convert.clicklog import LogSchema, SyntheticSpec, open_log, take_profile, write_synthetic_log
from memrec_convert.conversion.inputs.from_checkpoint import LogChoices, make_schema, make_subject, read_checked

pytestmark = pytest.mark.shared
ROWS = (1000, 50, 20000, 3, 300)
FILES = [
    ("facebookresearch-dlrm__qr_mult", "facebookresearch-dlrm/qr_mult.pt", True),
    ("facebookresearch-dlrm__md_thr0", "facebookresearch-dlrm/md_thr0.pt", True),
    ("facebookresearch-dlrm__wp_learned", "facebookresearch-dlrm/wp_learned.pt", True),
    ("torchrec__dlrm_dcn_train_ckpt", "torchrec/dlrm_dcn_train_ckpt.pt", False),
    ("torchrec__dlrm_quant_state_dict", "torchrec/dlrm_quant_state_dict.pt", False),
    ("deepctr-torch__deepfm_weights", "deepctr-torch/deepfm_weights.h5", True),
    ("torch-rechub__model", "torch-rechub/deepfm/model.pth", True),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log for five features and 13 dense values."""
    spec = SyntheticSpec(tables=ROWS, dense=13, train_rows=3000, val_rows=1000, test_rows=1000)
    return write_synthetic_log(spec, tmp_path_factory.mktemp("log"))


@pytest.mark.parametrize(("name", "file", "sigmoid"), FILES)
def test_with_room_for_everything_the_artifact_gives_the_frameworks_outputs(
    shared_checkpoints, tmp_path, name, file, sigmoid
):
    """Tables that are kept at fp32 are the rows of the original, whatever form it stored them in."""
    out = tmp_path / "large.safetensors"
    convert(shared_checkpoints / "zoo" / file, "4MB", out=out, threshold="1GB", epochs=0)
    with np.load(shared_checkpoints / f"zoo/golden/{name}.npz", allow_pickle=False) as golden:
        dense, ids, expected = (torch.from_numpy(golden[key]) for key in ("dense", "ids", "out"))
    with torch.no_grad():
        got = load(out)(dense, ids)
    assert ((got.sigmoid() if sigmoid else got) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize(("name", "file", "sigmoid"), FILES)
def test_a_tight_budget_is_kept_and_the_model_runs(shared_checkpoints, log, tmp_path, name, file, sigmoid):
    """Profile, sensitivities and plan work for every network; the file keeps its budget and gives finite logits."""
    out = tmp_path / "small.safetensors"
    convert(shared_checkpoints / "zoo" / file, 120_000, data=log.train, val=log.val, out=out, method="int8", epochs=0)
    assert out.stat().st_size <= 120_000
    model = load(out)
    schema = LogSchema(tuple((f"C{n + 1}", rows) for n, rows in enumerate(ROWS)), 13)
    batch = next(iter(open_log(log.test, schema).batches(500)))
    with torch.no_grad():
        logits = model(batch.dense, batch.ids)
    assert bool(torch.isfinite(logits).all())
    assert logits.std() > 0


def test_counts_of_an_input_serve_every_table_that_it_feeds(shared_checkpoints, log):
    """A DeepFM's log has one column per feature, and both tables of a feature are weighted by its lookups."""
    source = read_checked(shared_checkpoints / "zoo/deepctr-torch/deepfm_weights.h5")
    schema = make_schema(source.architecture, [table.name for table in source.tables], LogChoices({}))
    assert schema.tables == tuple((f"C{n + 1}", rows) for n, rows in enumerate(ROWS))
    profile = take_profile(open_log(log.train, schema))
    subject, _ = make_subject(source, train=None, hold_out=None, profile=profile, allow_nonfinite=False)
    assert [len(counts) for counts in subject.counts] == [*ROWS, *ROWS]
    assert all(np.array_equal(subject.counts[n], subject.counts[n + 5]) for n in range(5))
