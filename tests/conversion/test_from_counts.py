"""Conversions from counts that were made elsewhere: as from the log's own profile, and said so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memrec_convert import convert, evaluate, plan
from memrec_convert.clicklog import LogDigest, LogSchema, load_profile, open_log, save_profile, take_profile
from memrec_convert.errors import OptionError, ProfileLeakError

ROWS = (2000, 300, 40)


@pytest.fixture(scope="module")
def counts(tiny, tmp_path_factory):
    """The tiny log's counts in long form, a file per table."""
    folder = tmp_path_factory.mktemp("counts")
    log = pq.read_table(tiny.train)
    for number in range(len(ROWS)):
        grouped = log.group_by(f"C{number + 1}").aggregate([([], "count_all")])
        table = pa.array([f"emb_l.{number}"] * len(grouped))
        ids, times = grouped[f"C{number + 1}"], grouped["count_all"]
        pq.write_table(pa.table({"table": table, "id": ids, "count": times}), folder / f"{number}.parquet")
    return folder


def test_counts_plan_as_the_logs_profile_does(tiny, counts, tmp_path):
    """The plan from the counts is the one from the log's own profile, once that holds no digests of files either."""
    schema = LogSchema(tuple((f"C{number + 1}", rows) for number, rows in enumerate(ROWS)), 2)
    profile = take_profile(open_log(tiny.train, schema))
    save_profile(replace(profile, digest=LogDigest("0" * 32, ())), tmp_path / "p.npz")
    stored = plan(tiny.checkpoint, "12kB", profile=tmp_path / "p.npz")
    counted = plan(tiny.checkpoint, "12kB", counts=counts, samples=12_000)
    assert (counted.tables, counted.weights, counted.predicted_bytes) == (stored.tables, "log", stored.predicted_bytes)


def test_a_conversion_from_counts_says_that_test_data_cannot_be_refused(tiny, counts, tmp_path):
    """The report warns, and nothing can stop an evaluation on what was counted."""
    out = tmp_path / "a.safetensors"
    report = convert(tiny.checkpoint, "12kB", counts=counts, samples=12_000, method="int8", out=out)
    assert any("cannot be refused" in warning for warning in report.warnings)
    assert evaluate(out, eval=tiny.train).auc is not None
    choices = {"counts": counts, "samples": 12_000, "data": tiny.train, "eval": tiny.train}
    with pytest.raises(ProfileLeakError):  # what is known to be training data still is
        convert(tiny.checkpoint, "12kB", **choices, out=out, force=True)


def test_counts_stand_beside_a_sample_of_the_log(tiny, counts, tmp_path):
    """The profile is the counts', written where asked; the data only tells what the model feels."""
    profile = tmp_path / "p.npz"
    plan(tiny.checkpoint, "12kB", counts=counts, samples=12_000, data=tiny.val, profile=profile)
    kept = load_profile(profile)
    expected = np.bincount(pq.read_table(tiny.train)["C3"].to_numpy(), minlength=ROWS[2])
    np.testing.assert_array_equal(kept.counts[2], expected)
    assert (kept.samples, len(kept.sensitivities)) == (12_000, 3)
    again = plan(tiny.checkpoint, "12kB", profile=profile)
    assert any("counted elsewhere" in warning for warning in again.warnings)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"counts": "counts"}, "--counts needs --samples N"),
        ({"samples": 5}, "--samples needs --counts PATH"),
        ({"counts": "counts", "samples": 0}, "samples is 0"),
        ({"counts": "counts", "samples": 2.5}, "samples is 2.5"),
    ],
)
def test_counts_and_samples_come_together(tiny, choices, said):
    """One without the other, or samples that are no number of rows, are refused before anything is read."""
    with pytest.raises(OptionError, match=said):
        plan(tiny.checkpoint, "12kB", **choices)
