"""Checkpoints that are directories, need facts, or feed two tables from one input: converted, judged and verified."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from memrec_convert import convert, evaluate, verify
from memrec_convert.cli.commands import cli
from memrec_convert.clicklog import SyntheticSpec, write_synthetic_log
from memrec_convert.errors import CheckpointError

ROWS = (400, 30, 60)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log for three features and two dense values."""
    spec = SyntheticSpec(tables=ROWS, dense=2, train_rows=2000, val_rows=800, test_rows=800)
    return write_synthetic_log(spec, tmp_path_factory.mktemp("log"))


def deepfm():
    """A DeepFM of DeepCTR-Torch: two tables per feature."""
    torch.manual_seed(0)
    state = {f"embedding_dict.C{n}.weight": torch.randn(rows, 4) for n, rows in enumerate(ROWS, 1)}
    state |= {f"linear_model.embedding_dict.C{n}.weight": torch.randn(rows, 1) for n, rows in enumerate(ROWS, 1)}
    state |= {"dnn.linears.0.weight": torch.randn(6, 14), "dnn.linears.0.bias": torch.randn(6)}
    return state | {
        "dnn_linear.weight": torch.randn(1, 6),
        "out.bias": torch.zeros(1),
        "linear_model.weight": torch.randn(2, 1),
    }


def joint_table():
    """A DeepFM of pytorch-fm: one table for all fields."""
    torch.manual_seed(0)
    state = {"embedding.embedding.weight": torch.randn(sum(ROWS), 4), "linear.fc.weight": torch.randn(sum(ROWS), 1)}
    state |= {"linear.bias": torch.zeros(1), "mlp.mlp.0.weight": torch.randn(6, 12), "mlp.mlp.0.bias": torch.randn(6)}
    return state | {"mlp.mlp.4.weight": torch.randn(1, 6), "mlp.mlp.4.bias": torch.zeros(1)}


def save_directory(folder):
    """NVIDIA's directory, its tables in the network in another order than their numbers."""
    torch.manual_seed(0)
    folder.mkdir()
    for number, rows in enumerate(ROWS):
        (folder / f"bottom_model.embeddings.{number}.bin").write_bytes(torch.randn(rows, 4).numpy().tobytes())
        torch.save({"shape": (rows, 4)}, folder / f"embeddings.{number}.meta.pt")
    torch.save({"weights": [torch.randn(4, 2)], "biases": [torch.randn(4)]}, folder / "bottom_model.mlp.pt")
    torch.save({"weights": [torch.randn(5, 16)], "biases": [torch.randn(5)]}, folder / "top_model.mlp.pt")
    torch.save({"weight": torch.randn(1, 5), "bias": torch.zeros(1)}, folder / "top_model.out.pt")
    data = {"device_mapping": {"embedding": [[0, 2, 1]]}}
    torch.save({"data": data, "config": {"interaction_op": "dot"}}, folder / "metadata.pt")
    return folder


def round_trip(path, log, out, **facts):
    """Convert, evaluate against the original, verify against it; both agree on what the original is."""
    report = convert(path, 9000, data=log.train, val=log.val, eval=log.test, out=out, epochs=0, assume=facts)
    figures = evaluate(out, log.test, against=path)
    assert figures.auc.before == pytest.approx(report.auc.before, abs=1e-9)
    assert evaluate(path, log.test, assume=facts).auc == pytest.approx(report.auc.before, abs=1e-9)
    assert len(verify(out, against=path).against["tables"]) == len(report.tables)
    return report


def test_two_tables_of_one_input_are_judged_by_its_ids(log, tmp_path):
    """A DeepFM's log has one column per feature; slices, counts and logits of both tables follow it."""
    torch.save(deepfm(), tmp_path / "m.h5")
    report = round_trip(tmp_path / "m.h5", log, tmp_path / "small.safetensors")
    assert len(report.tables) == 6


def test_a_directory_is_converted_like_a_file(log, tmp_path):
    """Its digest and bytes are those of all its files, and the features keep their own columns."""
    folder = save_directory(tmp_path / "joint")
    report = round_trip(folder, log, tmp_path / "small.safetensors")
    again = convert(folder, 9000, out=tmp_path / "again.safetensors", epochs=0)
    assert again.provenance.source_digest == report.provenance.source_digest
    assert report.sizes.source.file == sum(file.stat().st_size for file in folder.iterdir())
    assert convert(folder, 9000, epochs=0).to_json()["artifact"]["path"] == str(tmp_path / "joint.safetensors")


def test_stated_facts_are_kept_with_the_artifact(log, tmp_path):
    """Field sizes are stated once, at conversion; evaluate and verify read them from the artifact."""
    torch.save(joint_table(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="--assume field_sizes="):
        convert(tmp_path / "m.pt", 9000)
    spec = SyntheticSpec(tables=ROWS, dense=0, train_rows=2000, val_rows=800, test_rows=800)
    bare = write_synthetic_log(spec, tmp_path / "bare")
    report = round_trip(tmp_path / "m.pt", bare, tmp_path / "small.safetensors", field_sizes=ROWS)
    assert len(report.tables) == 6


def test_field_sizes_reach_the_conversion_from_the_command_line_and_a_recipe(tmp_path):
    """--assume and the recipe's field_sizes say the same."""
    torch.save(joint_table(), tmp_path / "m.pt")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"field_sizes: {list(ROWS)}\nbudget: 9000\n")
    arguments = ["convert", str(tmp_path / "m.pt"), "--epochs", "0", "--quiet"]
    for name, extra in (
        ("a", ["--assume", "field_sizes=400,30,60", "--budget", "9000"]),
        ("b", ["--recipe", str(recipe)]),
    ):
        done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / f"{name}.safetensors"), *extra])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    done = CliRunner().invoke(cli, [*arguments, "--assume", "field_sizes=4,x"])
    assert "not whole numbers" in str(done.exception)
