"""Conversions of real checkpoints, where they are at hand: what they may cost, and that the file serves by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memrec_convert import convert, evaluate, verify

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def converted(shared, tmp_path_factory):
    """MovieLens-1M's DLRM at a hundredth of its tables, not trained, with its report."""
    folder, data = tmp_path_factory.mktemp("real"), shared / "data" / "ml1m"
    out = folder / "ml1m.safetensors"
    checkpoint = shared / "checkpoints" / "ml1m" / "dlrm.pt"
    report = convert(checkpoint, "100x", data=data / "train.parquet", eval=data / "test.parquet", out=out, epochs=0)
    return out, report


def test_the_original_scores_as_it_should(converted):
    """The rebuilt original has the AUC and log loss that its makers measured."""
    _, report = converted
    assert report.auc.before == pytest.approx(0.805756, abs=1e-5)
    assert report.log_loss.before == pytest.approx(0.524324, abs=1e-5)


def test_a_hundredth_of_the_tables_costs_no_more_than_a_thousandth_of_auc(converted):
    """Conversion alone, without training."""
    out, report = converted
    assert report.auc.delta >= -0.0010
    assert out.stat().st_size <= report.budget_bytes


def test_the_artifact_is_sound_and_was_made_from_its_source(converted, shared):
    """Every digest holds, and every row decodes to something near its source."""
    found = verify(converted[0], against=shared / "checkpoints" / "ml1m" / "dlrm.pt")
    errors = {table["name"]: table["relative_error"] for table in found.against["tables"]}
    assert len(errors) == 9
    assert all(error < 1 for error in errors.values())


SERVE = """
import sys
import numpy as np, pyarrow.parquet as pq, torch
from memrec_convert import load
model = load(sys.argv[1])
table = pq.read_table(sys.argv[2]).slice(0, 3 * 4096)
dense = torch.from_numpy(np.stack([table[f"I{j + 1}"].to_numpy() for j in range(4)], axis=1)).log1p()
ids = torch.from_numpy(np.stack([table[f"C{j + 1}"].to_numpy() for j in range(9)], axis=1).astype(np.int64))
with torch.no_grad():
    parts = [model(dense[at : at + 4096], ids[at : at + 4096]) for at in range(0, len(ids), 4096)]
np.save(sys.argv[3], torch.cat(parts).numpy())
"""


def test_another_process_gets_the_same_bits(converted, shared, tmp_path):
    """What load() answers in a fresh process is what evaluate() wrote, at the same batch size and threads."""
    test = shared / "data" / "ml1m" / "test.parquet"
    evaluate(converted[0], test, scores=tmp_path / "scores.npy")
    command = [sys.executable, "-c", SERVE, str(converted[0]), str(test), str(tmp_path / "served.npy")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    served = np.load(tmp_path / "served.npy")
    assert np.array_equal(served, np.load(tmp_path / "scores.npy")[: len(served)])


def test_no_data_at_all_is_enough_where_the_optimizer_left_its_state(shared, tmp_path):
    """The bare command on a checkpoint with Adagrad's state costs no more than a thousandth of AUC."""
    report = convert(
        shared / "checkpoints" / "ml1m" / "dlrm.pt",
        "100x",
        eval=shared / "data" / "ml1m" / "test.parquet",
        out=tmp_path / "bare.safetensors",
    )
    assert report.weights == "optimizer"
    assert report.auc.delta >= -0.0010
