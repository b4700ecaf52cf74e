"""Fine-tuning within a conversion: it can only help on the hold-out, and says what it did."""

from __future__ import annotations

import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memrec_convert import convert
from memrec_convert.conversion.options import Options
from memrec_convert.errors import LogError
from memrec_convert.finetune import loop

CHOICES = {"method": "codes", "batch_size": 256}


def run(tiny, tmp_path, name="a", **choices):
    """A conversion that trains; (bytes of the file, report)."""
    out = tmp_path / f"{name}.safetensors"
    report = convert(tiny.checkpoint, 8_000, data=tiny.train, out=out, **{"val": tiny.val} | CHOICES | choices)
    return out.read_bytes(), report


def test_training_that_hurts_is_not_kept(tiny, tmp_path, monkeypatch):
    """At an absurd rate every later state is worse: the file is that of no training, byte for byte."""
    untrained, _ = run(tiny, tmp_path, "untrained", epochs=0)
    monkeypatch.setattr(loop.TrainingPlan, "__init__", _with_rate(loop.TrainingPlan.__init__, 100.0))
    trained, report = run(tiny, tmp_path, "hurt")
    assert report.fine_tune["best_step"] == 0
    assert report.fine_tune["gain"] == 0
    assert min(entry["score"] for entry in report.fine_tune["history"]) < report.fine_tune["history"][0]["score"]
    assert trained == untrained


def test_rows_of_one_group_are_one_witness(tiny, tmp_path):
    """A hold-out that is all one request supports no gain, though its rows one by one would: the report says so."""
    table = pq.read_table(tiny.val)
    val = tmp_path / "val.parquet"
    pq.write_table(table.append_column("request", pa.array(["one"] * len(table))), val)
    choices = {"method": "int8", "train_dense": True, "targets": "labels", "epochs": 2, "val": val}
    loose, alone = run(tiny, tmp_path, "loose", **choices)
    grouped, report = run(tiny, tmp_path, "grouped", group="request", **choices)
    assert alone.fine_tune["best_step"] > 0 == report.fine_tune["best_step"]
    assert "within its standard error" in report.fine_tune["refused"]
    assert any("may be luck" in warning for warning in report.warnings)
    assert len(loose) == len(grouped)
    assert loose != grouped


def _with_rate(init, rate):
    def start(self, *args, **kwargs):
        init(self, *args, **kwargs | {"codebook_rate": rate})

    return start


def test_the_history_begins_at_step_zero_and_holds_the_best(tiny, tmp_path):
    """Scores by step, at least four an epoch; the gain is that of the best over the first."""
    _, report = run(tiny, tmp_path, epochs=2)
    told = report.fine_tune
    steps = [entry["step"] for entry in told["history"]]
    scores = {entry["step"]: entry["score"] for entry in told["history"]}
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert told["planned_steps"] == 2 * -(-12_000 // 256)
    assert told["steps"] == steps[-1]
    assert told["steps"] == told["planned_steps"] or sum(step > told["best_step"] for step in steps) == loop.PATIENCE
    assert told["metric"] == "auc"
    assert scores[told["best_step"]] == max(scores.values()) or "refused" in told
    kept = told.get("recoded", scores[told["best_step"]])
    assert told["gain"] == pytest.approx(kept - scores[0])


def test_the_kept_state_is_the_one_that_is_written(tiny, tmp_path):
    """The hold-out measured on the written file gives the score of the step that was kept."""
    from memrec_convert import evaluate

    _, report = run(tiny, tmp_path)
    measured = evaluate(tmp_path / "a.safetensors", tiny.val).auc
    told = report.fine_tune
    scores = {entry["step"]: entry["score"] for entry in told["history"]}
    kept = told.get("recoded", scores[told["best_step"]])
    assert measured == pytest.approx(kept, abs=1e-6)


@pytest.mark.parametrize("method", ["codes", "int8"])
def test_threads_change_no_byte_of_what_is_trained(tiny, tmp_path, method):
    """The original answers ahead of the student where there are threads: file and history stay the same."""
    choices = {"method": method, "epochs": 2, "train_dense": True}
    one, alone = run(tiny, tmp_path, "one", threads=1, **choices)
    three, together = run(tiny, tmp_path, "three", threads=3, **choices)
    assert len({entry["score"] for entry in alone.fine_tune["history"]}) > 1  # it has moved, for better or worse
    assert together.fine_tune == alone.fine_tune
    assert three == one


def test_an_end_before_the_last_batch_leaves_no_thread(tiny, tmp_path, monkeypatch):
    """Training that stalls ends while the original is ahead of it; no thread of it lives on."""
    before = set(threading.enumerate())
    monkeypatch.setattr(loop, "PATIENCE", 1)
    monkeypatch.setattr(loop.TrainingPlan, "__init__", _with_rate(loop.TrainingPlan.__init__, 100.0))
    _, report = run(tiny, tmp_path, threads=3)
    assert report.fine_tune["steps"] < report.fine_tune["planned_steps"]
    assert set(threading.enumerate()) <= before


def test_training_changes_no_byte_count(tiny, tmp_path):
    """What is trained was there before: the file is as long as without training, and differs where training won."""
    untrained, _ = run(tiny, tmp_path, "untrained", epochs=0)
    trained, report = run(tiny, tmp_path, "trained", epochs=2, targets="labels")
    assert len(trained) == len(untrained)
    assert (trained == untrained) == (report.fine_tune["best_step"] == 0)


def test_without_labels_the_divergence_decides(tiny, tmp_path):
    """Soft targets need no labels, neither in the training data nor in the hold-out."""
    logs = {}
    for name in ("train", "val"):
        table = pq.read_table(getattr(tiny, name))
        logs[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({c: table[c] for c in table.column_names if c != "label"}), logs[name])
    out = tmp_path / "a.safetensors"
    report = convert(tiny.checkpoint, 8_000, data=logs["train"], val=logs["val"], out=out, **CHOICES)
    assert report.fine_tune["metric"] == "-divergence"
    assert report.fine_tune["gain"] >= 0
    with pytest.raises(LogError, match="targets"):
        convert(
            tiny.checkpoint,
            8_000,
            data=logs["train"],
            val=logs["val"],
            out=tmp_path / "b.safetensors",
            targets="labels",
            **CHOICES,
        )


def test_without_a_hold_out_nothing_is_trained(tiny, tmp_path):
    """It would overfit unseen: no fine-tuning, and a warning that says what it needs."""
    out = tmp_path / "a.safetensors"
    report = convert(tiny.checkpoint, 8_000, data=tiny.train, out=out, method="int8")
    assert report.fine_tune is None
    assert any("--val" in warning for warning in report.warnings)
    report = convert(tiny.checkpoint, 8_000, val=tiny.val, out=out, method="int8", force=True)
    assert report.fine_tune is None
    assert any("--data" in warning for warning in report.warnings)


def test_the_dense_part_stays_unless_asked(tiny, tmp_path):
    """train_dense moves the MLPs, and nothing else does."""
    import torch

    from memrec_convert import load

    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    run(tiny, tmp_path, "still", method="int8")
    assert torch.equal(load(tmp_path / "still.safetensors").bottom[0].weight, state["bot_l.0.weight"])
    _, report = run(tiny, tmp_path, "moved", method="int8", train_dense=True, targets="labels", epochs=2)
    moved = not torch.equal(load(tmp_path / "moved.safetensors").bottom[0].weight, state["bot_l.0.weight"])
    assert moved == (report.fine_tune["best_step"] > 0)
    assert moved


def test_mixed_targets_lie_between_the_originals_answer_and_the_label():
    """A fixed share of each; without labels they are the original's own answers."""
    from types import SimpleNamespace

    import torch

    from memrec_convert.conversion.steps.teaching import LABEL_SHARE, make_targets

    subject = SimpleNamespace(model=None, forward=lambda _model, batch: batch)
    logits, labels = torch.tensor([[2.0], [-1.0], [0.0]]), torch.tensor([1.0, 0.0, 1.0])
    train = SimpleNamespace(has_labels=True, labels_of=lambda _batch: labels)
    soft = make_targets(subject, train, logits, "soft")
    assert torch.equal(soft, torch.sigmoid(logits.flatten()))
    assert torch.equal(make_targets(subject, train, logits, "labels"), labels)
    mixed = make_targets(subject, train, logits, "mixed")
    assert torch.allclose(mixed, soft + LABEL_SHARE * (labels - soft))
    unlabelled = SimpleNamespace(has_labels=False)
    assert torch.equal(make_targets(subject, unlabelled, logits, "mixed"), soft)


def test_the_control_of_soft_targets_learns_labels(tiny, tmp_path, monkeypatch):
    """Its own answers would teach the original nothing; other targets are those of the conversion."""
    from memrec_convert.conversion.steps import teaching

    asked = []

    def note(_subject, _options, targets):
        asked.append(targets)
        raise LogError("stop here")

    monkeypatch.setattr(teaching, "_make_lessons", note)
    for targets in ("soft", "mixed", "labels"):
        subject = _subject_of(tiny)
        with pytest.raises(LogError, match="stop here"):
            teaching.teach_control(subject, Options(targets=targets), progress=lambda *_: None)
    assert asked == ["labels", "mixed", "labels"]


def _subject_of(tiny):
    """The tiny model with its logs."""
    from memrec_convert.checkpoint import read_source
    from memrec_convert.conversion.inputs.from_checkpoint import LogChoices, make_schema, make_subject, open_batches

    source = read_source(tiny.checkpoint)
    schema = make_schema(source.architecture, [table.name for table in source.tables], LogChoices({}))
    train, val = (open_batches(path, schema, 512) for path in (tiny.train, tiny.val))
    return make_subject(source, train=train, hold_out=val, profile=None, allow_nonfinite=False)[0]
