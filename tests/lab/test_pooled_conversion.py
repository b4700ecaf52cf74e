"""`--method sample-pooled` from checkpoint to artifact: bytes, evaluation, and what its start is worth."""

import numpy as np
import pytest
import torch

from memrec_convert import evaluate, load, verify
from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.errors import BudgetTooSmallError, LogError, OptionError
from memrec_convert.finetune.loop import FineTuning
from memrec_convert.lab.pooled.convert import convert_pooled as convert
from memrec_convert.lab.pooled.finetune import epochs_to_gain
from memrec_convert.lab.pooled.training import parse_pooled, split_batch


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """The tiny model pooled into 12 kB, with its report."""
    out = tmp_path_factory.mktemp("pooled") / "pooled.safetensors"
    report = convert(
        tiny.checkpoint,
        "12kB",
        data=tiny.train,
        val=tiny.val,
        eval=tiny.test,
        out=out,
        method="sample-pooled",
        epochs=2,
    )
    return out, report


def test_the_file_is_within_its_budget_to_the_byte_that_was_predicted(converted):
    """The largest D that fits was taken: one token more would not."""
    out, report = converted
    size = out.stat().st_size
    width = report.architecture["l"]
    assert report.plan["predicted_bytes"] == size <= 12_000
    assert size + 4 * (width + 1) + 8 > 12_000
    assert report.sizes.artifact.total == size


def test_the_artifact_loads_verifies_and_evaluates_as_reported(converted, tiny):
    """What the report measured is what the file gives."""
    out, report = converted
    found = evaluate(out, tiny.test, against=tiny.checkpoint)
    assert found.auc.after == pytest.approx(report.auc.after, abs=1e-12)
    assert verify(out).tables == 0
    assert not [name for name, _ in load(out).named_parameters() if name.startswith("tables")]


def test_training_taught_it_something(converted):
    """Better than chance by far, and the history starts with the untrained top."""
    _, report = converted
    assert report.auc.after > 0.6
    assert report.fine_tune["history"][0]["step"] == 0
    assert 0 < report.fine_tune["epochs_to_99_percent"] <= 2


def test_equal_seeds_give_equal_files(tiny, tmp_path):
    """Nothing but the seed decides."""
    for name in ("a", "b"):
        convert(
            tiny.checkpoint,
            "12kB",
            data=tiny.train,
            val=tiny.val,
            out=tmp_path / f"{name}.safetensors",
            method="sample-pooled",
        )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_warm_start_is_ahead_of_the_released_one(tiny, tmp_path):
    """After one epoch, with the same steps and teacher."""
    scores = {}
    for start in ("warm", "released"):
        report = convert(
            tiny.checkpoint,
            "16kB",
            data=tiny.train,
            val=tiny.val,
            eval=tiny.test,
            method="sample-pooled",
            out=tmp_path / f"{start}.safetensors",
            pooled=f"start={start}" + (",optimizer=sgd" * (start == "released")),
        )
        scores[start] = report.auc.after
    assert scores["warm"] > scores["released"] + 0.01


def test_sizes_can_be_named(tiny, tmp_path):
    """D, K, dw, kw and l by their names; the file is then as large as they make it."""
    report = convert(
        tiny.checkpoint,
        "40kB",
        data=tiny.train,
        val=tiny.val,
        out=tmp_path / "x.safetensors",
        method="sample-pooled",
        pooled="D=100,K=2,dw=50,kw=4,l=6",
        targets="labels",
    )
    assert {name: report.architecture[name] for name in ("D", "K", "dw", "kw", "l")} == {
        "D": 100,
        "K": 2,
        "dw": 50,
        "kw": 4,
        "l": 6,
    }
    assert report.sizes.artifact.tables == 4 * (100 * 6 + 50)


def test_what_does_not_go_with_it_is_refused(tiny, tmp_path):
    """No data, a bound, a budget below the layers, D beyond the budget; nothing is written."""
    common = {"method": "sample-pooled", "out": tmp_path / "x.safetensors"}
    logs = {"data": tiny.train, "val": tiny.val}
    with pytest.raises(LogError, match="needs training data"):
        convert(tiny.checkpoint, "12kB", **common)
    with pytest.raises(OptionError, match="a bound on the AUC drop does not go"):
        convert(tiny.checkpoint, "12kB", **logs, max_auc_drop=0.1, **common)
    with pytest.raises(BudgetTooSmallError, match="cannot hold the sample-pooled model"):
        convert(tiny.checkpoint, "2kB", **logs, **common)
    with pytest.raises(BudgetTooSmallError, match="D = 75000"):
        convert(tiny.checkpoint, "12kB", **logs, pooled="D=75000", **common)
    with pytest.raises(OptionError, match="stores all in fp32"):
        convert(tiny.checkpoint, "12kB", **logs, dense="bf16", **common)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["D=0", "K=0", "E=5", "D", "D=1e3", "start=cold", "optimizer=x", "D=-1", "D=9" * 20])
def test_choices_that_cannot_be_are_refused(text):
    """One sentence with what was expected."""
    with pytest.raises(OptionError, match="sample-pooled model"):
        parse_pooled(text)


def test_pieces_of_a_batch_are_the_batch(tiny):
    """Training steps take 1,024 rows of a batch at a time, none twice."""
    log = open_log(tiny.train, LogSchema((("C1", 2000), ("C2", 300), ("C3", 40)), 2))
    batch = next(iter(log.batches(2500)))
    pieces = list(split_batch(batch, batch.labels, rows=1024))
    assert [piece.rows for piece, _ in pieces] == [1024, 1024, 452]
    assert torch.equal(torch.cat([piece.ids for piece, _ in pieces]), batch.ids)
    assert torch.equal(torch.cat([targets for _, targets in pieces]), batch.labels)


def test_epochs_to_a_share_of_the_gain_count_from_chance():
    """0.99 of what lies between 0.5 and the best: reached at the first check at or above it."""
    training = FineTuning("auc", ((0, 0.5), (5, 0.69), (10, 0.699), (20, 0.7)), 20, 20)
    assert epochs_to_gain(training, 10) == 1.0
    assert np.isclose(epochs_to_gain(training, 10, share=0.9), 0.5)
