"""The original's answers to the training log: found once, kept by where a sample stands, the same however found."""

from __future__ import annotations

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert import convert
from memrec_convert.clicklog import Batch, LogSchema, open_log
from memrec_convert.conversion.steps import teaching
from memrec_convert.evaluation.answers import Answers, PassOver

SCHEMA = LogSchema((("C1", 500), ("C2", 7)), 2, dense_transform="identity")


def know(log, *, batch_size: int) -> Answers:
    """Answers that are each sample's first dense value."""
    found, answers = PassOver(), Answers()
    for batch in log.batches(batch_size):
        found.add(batch, batch.dense[:, 0])
    assert not answers
    answers.keep(found, limit=10_000)
    assert answers
    return answers


@pytest.mark.parametrize("batch_size", [1, 64, 5000])
@pytest.mark.parametrize("kind", ["parquet", "csv", "several", "empty parts"])
def test_every_sample_finds_its_own(log_rows, tmp_path, kind, batch_size):
    """In any order, over row groups, files and parts without rows, and in pieces of a batch."""
    table = log_rows
    paths = [tmp_path / f"{number}.{'csv' if kind == 'csv' else 'parquet'}" for number in range(3)]
    for number, path in enumerate(paths):
        part = table.slice(0 if kind == "empty parts" and number == 1 else number * 300, 300)
        part = part.slice(0, 0) if kind == "empty parts" and number == 1 else part
        if kind == "csv":
            pa_csv.write_csv(part, path)
        else:
            pq.write_table(part, path, row_group_size=70)
    log = open_log(paths if kind != "parquet" else paths[:1], SCHEMA)
    answers = know(log, batch_size=batch_size)
    for seed in (None, 3, 4):
        for batch in log.batches(128, shuffle_seed=seed):
            assert torch.equal(answers.of(batch), batch.dense[:, 0])
            half = batch.cut(batch.rows // 3, batch.rows)
            assert torch.equal(answers.of(half), half.dense[:, 0])


@pytest.fixture
def log_rows():
    """A log of 900 rows whose first dense value is the row's number."""
    import numpy as np
    import pyarrow as pa

    rng, rows = np.random.default_rng(0), 900
    return pa.table(
        {
            "label": rng.integers(0, 2, rows).astype(np.int8),
            "I1": np.arange(rows, dtype=np.float32),
            "I2": rng.random(rows).astype(np.float32),
            "C1": rng.integers(0, 500, rows).astype(np.int32),
            "C2": rng.integers(0, 7, rows).astype(np.int8),
        }
    )


def train(tiny, out, *, kept=True, **choices) -> bytes:
    """The bytes of a conversion that trains."""
    plain = {"data": tiny.train, "val": tiny.val, "method": "auto", "batch_size": 96, "epochs": 2, "out": out}
    report = convert(tiny.checkpoint, 6_000, **plain | choices)
    assert report.fine_tune["steps"] > 0
    assert report.fine_tune["best_step"] > 0 or not kept  # else no target would show in the bytes
    return out.read_bytes()


def test_a_profile_that_knows_the_sensitivities_gives_the_same_bytes(tiny, tmp_path, monkeypatch):
    """With a profile there is no pass that measures them: one for the answers alone finds the same, to the bit."""
    plain = train(tiny, tmp_path / "plain.safetensors")
    passes = []
    own = teaching.answer_batches
    monkeypatch.setattr(teaching, "answer_batches", lambda *a, **k: passes.append(1) or own(*a, **k))
    first = train(tiny, tmp_path / "first.safetensors", profile=tmp_path / "profile")
    assert not passes
    again = train(tiny, tmp_path / "again.safetensors", profile=tmp_path / "profile", threads=1)
    assert passes == [1]
    assert first == again == plain


def test_the_original_is_not_asked_again(tiny, tmp_path, monkeypatch):
    """Two epochs learn from what one pass found; where answers are not kept, each batch is asked for."""
    asked = []
    own = teaching.make_targets

    def watch(subject, source, batch, targets, answers=None):
        assert isinstance(batch, Batch)
        asked.append(answers is not None)
        return own(subject, source, batch, targets, answers)

    monkeypatch.setattr(teaching, "make_targets", watch)
    train(tiny, tmp_path / "kept.safetensors")
    assert set(asked) == {True}
    asked.clear()
    monkeypatch.setattr("memrec_convert.conversion.steps.weighting.SENSITIVITY_SAMPLES", 500)
    train(tiny, tmp_path / "asked.safetensors", kept=False)
    assert set(asked) == {False}


@pytest.mark.parametrize("known", [False, True])
def test_a_count_of_another_log_keeps_nothing(tiny, tmp_path, monkeypatch, known):
    """A profile may say fewer samples than the log has: a pass that is cut leaves each batch to be asked for."""
    for module in ("weighting", "teaching"):
        monkeypatch.setattr(f"memrec_convert.conversion.steps.{module}.SENSITIVITY_SAMPLES", 500)
    monkeypatch.setattr(teaching, "keeps_answers", lambda _: True)
    monkeypatch.setattr("memrec_convert.conversion.steps.weighting.keeps_answers", lambda _: True)
    profile = {"profile": tmp_path / "profile"} if known else {}
    first = train(tiny, tmp_path / "first.safetensors", kept=False, **profile)
    assert train(tiny, tmp_path / "again.safetensors", kept=False, **profile) == first
