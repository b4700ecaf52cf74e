"""Lookup profiles: counts as numpy counts, files that round-trip, and the guard against leaks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.clicklog import (
    LogDigest,
    LogSchema,
    Profile,
    Sensitivity,
    load_profile,
    open_log,
    refuse_leak,
    save_profile,
    take_profile,
)
from memrec_convert.errors import LogError, OutputError, ProfileLeakError


@pytest.fixture
def profile(parquet, schema) -> Profile:
    """The profile of the small log."""
    return take_profile(open_log(parquet, schema))


@pytest.mark.parametrize("workers", [1, 3])
def test_profile_is_bincount(parquet, schema, columns, workers):
    """Counts are numpy's, whatever the number of workers."""
    profile = take_profile(open_log(parquet, schema), workers=workers)
    assert profile.samples == 1003
    for counts, (name, rows) in zip(profile.counts, schema.tables, strict=True):
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, np.bincount(columns[name], minlength=rows))


@given(bags=st.lists(st.lists(st.integers(-3, 8), max_size=4), min_size=1, max_size=30), rows=st.integers(6, 2000))
@settings(max_examples=30, deadline=None)
def test_profile_counts_every_lookup_of_a_bag(tmp_path_factory, bags, rows):
    """A multi-hot row counts each of its ids; dropped lookups count nowhere."""
    path = tmp_path_factory.mktemp("bags") / "log.parquet"
    pq.write_table(pa.table({"C1": pa.array(bags, pa.list_(pa.int16()))}), path)
    profile = take_profile(open_log(path, LogSchema((("C1", rows),), 0, oov="zero")))
    ids = [i for bag in bags for i in bag if 0 <= i < rows]
    np.testing.assert_array_equal(profile.counts[0], np.bincount(np.array(ids, int), minlength=rows))
    assert profile.samples == len(bags)


def test_dropped_single_ids_count_nowhere(tmp_path):
    """The same holds for a single-valued column under oov=zero."""
    pq.write_table(pa.table({"C1": [0, -1, 2, 99]}), tmp_path / "log.parquet")
    profile = take_profile(open_log(tmp_path / "log.parquet", LogSchema((("C1", 3),), 0, oov="zero")))
    assert profile.counts[0].tolist() == [1, 0, 1]


def test_round_trip(profile, schema, tmp_path):
    """A saved profile is loaded as it was, and nothing else is left in the folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    save_profile(profile, folder / "profile.npz")
    loaded = load_profile(folder / "profile.npz", schema)
    assert [path.name for path in folder.iterdir()] == ["profile.npz"]
    assert (loaded.samples, loaded.digest, loaded.digest.names) == (1003, profile.digest, ("log.parquet",))
    for ours, theirs in zip(loaded.counts, profile.counts, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def felt(profile) -> Profile:
    """The profile with what a model of 2 tables feels."""
    generator = np.random.default_rng(0)
    found = tuple(
        Sensitivity(
            generator.random(rows, dtype=np.float32), generator.integers(0, 9, rows, np.int32), np.eye(dim) * dim, 1003
        )
        for rows, dim in ((500, 4), (7, 2))
    )
    return replace(profile, sensitivities=found, model="0123")


def test_sensitivities_go_along(felt, tmp_path):
    """They are loaded as they were, with the mark of their model; a profile without them keeps the older format."""
    save_profile(felt, tmp_path / "p.npz")
    loaded = load_profile(tmp_path / "p.npz")
    assert loaded.model == "0123"
    for ours, theirs in zip(loaded.sensitivities, felt.sensitivities, strict=True):
        for name in ("squares", "seen", "moment"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.lookups == 1003
    formats = []
    for one in (felt, replace(felt, sensitivities=())):
        save_profile(one, tmp_path / "q.npz")
        with np.load(tmp_path / "q.npz") as arrays:
            formats.append(str(arrays["format"]))
    assert formats == ["memrec-profile/2", "memrec-profile/1"]


@pytest.mark.parametrize(
    "change",
    [
        {"squares": np.array([1, np.nan], np.float32)},
        {"squares": np.array([1, -1], np.float32)},
        {"squares": np.zeros(3, np.float32)},
        {"squares": np.zeros(2)},
        {"seen": np.array([1, -1], np.int32)},
        {"moment": np.zeros((2, 3))},
        {"moment": np.full((2, 2), np.inf)},
        {"moment": np.zeros(2)},
    ],
)
def test_impossible_sensitivities(felt, tmp_path, change):
    """No sums of squares, or of another shape or type: refused by the file's name."""
    sound = Sensitivity(np.ones(2, np.float32), np.ones(2, np.int32), np.eye(2), 3)
    save_profile(replace(felt, sensitivities=(sound,)), tmp_path / "p.npz")
    assert load_profile(tmp_path / "p.npz").sensitivities[0].lookups == 3
    save_profile(replace(felt, sensitivities=(replace(sound, **change),)), tmp_path / "p.npz")
    with pytest.raises(LogError, match=r"p\.npz holds sensitivities"):
        load_profile(tmp_path / "p.npz")


def test_saving_is_deterministic(profile, tmp_path):
    """The same profile makes the same bytes."""
    save_profile(profile, tmp_path / "a")
    save_profile(profile, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_tables_are_refused(profile, tmp_path):
    """A profile of other tables than the model's is refused with both."""
    save_profile(profile, tmp_path / "p.npz")
    with pytest.raises(LogError, match=r"\[500, 7\].*C1 \(500 rows\), C2 \(8 rows\)"):
        load_profile(tmp_path / "p.npz", LogSchema((("C1", 500), ("C2", 8)), 2))


def test_damaged_profiles(profile, tmp_path):
    """A missing, cut, foreign or object-bearing file is refused in a sentence, never unpickled."""
    save_profile(profile, tmp_path / "p.npz")
    content = (tmp_path / "p.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "flipped.npz").write_bytes(content[:200] + bytes(40) + content[240:])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    np.savez(tmp_path / "objects.npz", format=np.array([{}], dtype=object))
    for name in ("no", "cut", "flipped", "text", "empty", "foreign", "objects"):
        with pytest.raises(LogError, match=f"{name}.npz"):
            load_profile(tmp_path / f"{name}.npz")
    with pytest.raises(LogError, match="array"):
        load_profile(tmp_path / "array.npz.npy")


@pytest.mark.parametrize("counts", [np.array([-1, 2]), np.array([0.5, 2]), np.zeros((2, 2), np.int64)])
def test_impossible_counts(profile, tmp_path, counts):
    """Negative, fractional or two-dimensional counts are refused."""
    save_profile(Profile((counts,), 3, profile.digest), tmp_path / "p.npz")
    with pytest.raises(LogError, match="counts"):
        load_profile(tmp_path / "p.npz")


def test_unwritable_target(profile, tmp_path):
    """A target in a missing folder is an OutputError."""
    with pytest.raises(OutputError, match="missing"):
        save_profile(profile, tmp_path / "missing" / "p.npz")


def test_leak_is_refused():
    """Evaluation on any file that the profile was taken from is refused; on others it is not."""
    profile = LogDigest("a" * 32, ("1" * 16, "2" * 16), ("day_0", "day_1"))
    refuse_leak(profile, LogDigest("b" * 32, ("3" * 16,), ("day_2",)))
    with pytest.raises(ProfileLeakError, match="renamed_day"):
        refuse_leak(profile, LogDigest("c" * 32, ("3" * 16, "2" * 16), ("day_2", "renamed_day")))


def test_real_profile(shared_data):
    """The profile of the real news log equals numpy's counts over its columns."""
    folder = shared_data / "globo"
    rows = json.loads((folder / "meta.json").read_text())["cardinalities"]
    schema = LogSchema(tuple((f"C{i + 1}", count) for i, count in enumerate(rows)), 4)
    profile = take_profile(open_log(folder / "train.parquet", schema))
    assert profile.samples == 1_200_000
    table = pq.read_table(folder / "train.parquet")
    for i, counts in enumerate(profile.counts):
        np.testing.assert_array_equal(counts, np.bincount(table[f"C{i + 1}"].to_numpy(), minlength=rows[i]))
