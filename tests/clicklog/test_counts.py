"""Counts from elsewhere: the log's own profile in another file, and a sentence for every file that is none."""

from __future__ import annotations

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.clicklog import LogSchema, load_profile, open_log, read_counts, save_profile, take_profile
from memrec_convert.errors import IdRangeError, LogError

SCHEMA = LogSchema((("C1", 500), ("C2", 7)), 0)
INPUTS = {"C1": 0, "C2": 1}


def write(path, rows, **types):
    """A parquet file of (table, id, count) rows, its columns of other types where given."""
    columns = dict(zip(("table", "id", "count"), zip(*rows, strict=True), strict=True)) if rows else {}
    defaults = {"table": pa.string(), "id": pa.int64(), "count": pa.int64()}
    arrays = {name: pa.array(columns.get(name, ()), types.get(name, kind)) for name, kind in defaults.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=100)
    return path


def long_form(profile, names):
    """The counts of a profile as rows of (table, id, count), rows without lookups left out."""
    return [
        (name, int(row), int(counts[row]))
        for name, counts in zip(names, profile.counts, strict=True)
        for row in np.flatnonzero(counts)
    ]


def test_counts_give_the_logs_profile(parquet, schema, tmp_path):
    """Counts of a log in long form, shuffled, give the very arrays that counting the log gives."""
    expected = take_profile(open_log(parquet, schema))
    rows = long_form(expected, INPUTS)
    np.random.default_rng(0).shuffle(rows)
    found = read_counts(
        write(tmp_path / "counts.parquet", [(n, int(i), int(c)) for n, i, c in rows]), schema, INPUTS, samples=1003
    )
    assert found.samples == expected.samples
    for one, other in zip(found.counts, expected.counts, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found.digest.files == ()


@given(st.lists(st.tuples(st.sampled_from(["C1", "C2"]), st.integers(0, 6), st.integers(0, 9)), max_size=40), st.data())
@settings(max_examples=25, deadline=None)
def test_parts_are_summed(tmp_path_factory, rows, data):
    """However rows are cut into files, and whatever integer types they have, the sums and the digest are the same."""
    folder = tmp_path_factory.mktemp("parts")
    rows = [("C1", 0, 0), ("C2", 0, 0), *rows]
    cut = data.draw(st.integers(0, len(rows)))
    (folder / "_SUCCESS").touch()
    write(folder / "part-0.parquet", rows[:cut], id=pa.uint16(), count=pa.uint64())
    write(folder / "part-1.pq", rows[cut:], id=pa.int8(), table=pa.dictionary(pa.int8(), pa.string()))
    found = read_counts(folder, SCHEMA, INPUTS, samples=5)
    for table, name in enumerate(INPUTS):
        expected = np.zeros(SCHEMA.tables[table][1], np.int64)
        for _, row, count in (one for one in rows if one[0] == name):
            expected[row] += count
        np.testing.assert_array_equal(found.counts[table], expected)
    whole = write(folder.parent / f"{folder.name}.parquet", rows)
    assert found.digest == read_counts(whole, SCHEMA, INPUTS, samples=5).digest
    assert found.digest != read_counts(whole, SCHEMA, INPUTS, samples=6).digest


@pytest.mark.parametrize(
    ("rows", "types", "said"),
    [
        ([("C1", 500, 3), ("C2", 0, 1)], {}, "lie outside table 'C1' of 500 rows (first: 500)"),
        ([("C1", -1, 3), ("C2", 0, 1)], {}, "(first: -1)"),
        ([("C1", 1, -3), ("C2", 0, 1)], {}, "> count: found the count -3"),
        ([("C1", 1, 2**63), ("C2", 0, 1)], {"count": pa.uint64()}, "> count: found the count 9223372036854775808"),
        ([("C1", 1, 2**62), ("C2", 0, 2**62)], {}, "more than 2^62 lookups"),
        ([("C1", 1, 3), ("C3", 0, 1)], {}, "no table 'C3'; its tables are 'C1', 'C2'"),
        ([("C1", 1, 3), ("other", 0, 1)], {}, "no table 'other'; its tables are 'C1', 'C2'"),
        ([("C1", 1, 3)], {}, "lack the tables 'C2'"),
        ([], {}, "lack the tables 'C1', 'C2'"),
        ([(None, 1, 3), ("C2", 0, 1)], {}, "> table: found 1 missing names"),
        ([("C1", None, 3), ("C2", 0, 1)], {}, "> id: found 1 missing ids"),
        ([("C1", 1, None), ("C2", 0, 1)], {}, "> count: found 1 missing counts"),
        ([(1, 1, 3), (2, 0, 1)], {"table": pa.int64()}, "> table: found values of type int64"),
        ([("C1", 1.0, 3), ("C2", 0.0, 1)], {"id": pa.float64()}, "> id: found values of type double"),
        ([("C1", 1, 3.0), ("C2", 0, 1.0)], {"count": pa.float64()}, "CAST(... AS BIGINT)"),
    ],
)
def test_what_is_no_count_is_named(tmp_path, rows, types, said):
    """Ids, counts, names, types and gaps that cannot be are one sentence with the file and the column."""
    path = write(tmp_path / "counts.parquet", rows, **types)
    with pytest.raises(LogError) as refused:
        read_counts(path, SCHEMA, INPUTS, samples=5)
    assert said in str(refused.value)
    assert "counts.parquet" in str(refused.value)


def test_files_that_are_no_counts_are_named(tmp_path):
    """A missing path, an empty folder, other columns, no parquet, and text that is none."""
    for path, said in ((tmp_path / "none", "do not exist"), (tmp_path, "holds no counts")):
        with pytest.raises(LogError, match=said):
            read_counts(path, SCHEMA, INPUTS, samples=5)
    (tmp_path / "odd.parquet").write_text("no parquet")
    with pytest.raises(LogError, match=r"cannot read .*odd\.parquet"):
        read_counts(tmp_path, SCHEMA, INPUTS, samples=5)
    pq.write_table(pa.table({"table": ["C1"], "id": [1], "n": [2]}), tmp_path / "odd.parquet")
    with pytest.raises(LogError, match=r"have the columns table, id, n; expected table, id, count"):
        read_counts(tmp_path / "odd.parquet", SCHEMA, INPUTS, samples=5)
    names = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"table": names, "id": [1], "count": [2]}), tmp_path / "odd.parquet")
    with pytest.raises(LogError, match=r"cannot read .*odd\.parquet"):
        read_counts(tmp_path / "odd.parquet", SCHEMA, INPUTS, samples=5)


def test_counts_are_read_by_url(tmp_path):
    """A directory in a store gives the same profile; a missing one is the same kind of sentence."""
    store = fsspec.filesystem("memory")
    for part, rows in enumerate(([("C1", 3, 4), ("C2", 1, 4)], [("C1", 3, 2)])):
        store.pipe_file(f"/bucket/counts/{part}.parquet", write(tmp_path / f"{part}.parquet", rows).read_bytes())
    found = read_counts("memory://bucket/counts", SCHEMA, INPUTS, samples=6)
    assert found.digest == read_counts(tmp_path, SCHEMA, INPUTS, samples=6).digest
    with pytest.raises(LogError, match=r"memory://bucket/counts/2\.parquet do not exist"):
        read_counts("memory://bucket/counts/2.parquet", SCHEMA, INPUTS, samples=6)
    with pytest.raises(LogError, match="nosuchstore"):
        read_counts("nosuchstore://a/b", SCHEMA, INPUTS, samples=6)


def test_tables_of_one_input_agree(tmp_path):
    """Tables that read the same ids may be counted once or alike, never differently."""
    inputs = {"wide.C1": 0, "deep.C1": 0, "deep.C2": 1}
    rows = [("deep.C1", 3, 4), ("deep.C2", 1, 4)]
    once = read_counts(write(tmp_path / "a.parquet", rows), SCHEMA, inputs, samples=4)
    alike = read_counts(write(tmp_path / "b.parquet", [*rows, ("wide.C1", 3, 4)]), SCHEMA, inputs, samples=4)
    assert once.digest == alike.digest
    with pytest.raises(LogError, match=r"differ for 'deep\.C1' and 'wide\.C1'"):
        read_counts(write(tmp_path / "c.parquet", [*rows, ("wide.C1", 3, 5)]), SCHEMA, inputs, samples=4)


@pytest.mark.parametrize("oov", ["clip", "hash", "zero", "error"])
def test_ids_outside_count_as_in_the_log(tmp_path, oov):
    """Raw ids outside their table are moved, dropped or refused as the log's own would be."""
    ids = [0, 3, 3, -1, 8, 9]
    schema = LogSchema((("C1", 5),), 0, oov=oov)
    pq.write_table(pa.table({"C1": ids}), tmp_path / "log.parquet")
    path = write(tmp_path / "counts.parquet", [("C1", one, ids.count(one)) for one in set(ids)])
    if oov == "error":
        with pytest.raises(IdRangeError):
            read_counts(path, schema, {"C1": 0}, samples=6)
        return
    found = read_counts(path, schema, {"C1": 0}, samples=6)
    np.testing.assert_array_equal(found.counts[0], take_profile(open_log(tmp_path / "log.parquet", schema)).counts[0])


def test_a_profile_from_counts_can_be_kept(tmp_path):
    """It is stored and read again as any other."""
    found = read_counts(write(tmp_path / "a.parquet", [("C1", 3, 4), ("C2", 1, 4)]), SCHEMA, INPUTS, samples=4)
    save_profile(found, tmp_path / "p.npz")
    again = load_profile(tmp_path / "p.npz", SCHEMA)
    assert (again.digest, again.samples) == (found.digest, 4)
    np.testing.assert_array_equal(again.counts[0], found.counts[0])


def test_names_may_be_string_views_and_paths_are_not_empty(tmp_path):
    """What newer writers give is read; an unset variable is not the working directory."""
    rows = [("C1", 3, 2), ("C2", 1, 5)]
    plain = read_counts(write(tmp_path / "a.parquet", rows), SCHEMA, INPUTS, samples=9)
    if hasattr(pa, "string_view"):
        viewed = read_counts(write(tmp_path / "b.parquet", rows, table=pa.string_view()), SCHEMA, INPUTS, samples=9)
        assert viewed.digest == plain.digest
    with pytest.raises(LogError, match="an empty path"):
        read_counts("", SCHEMA, INPUTS, samples=9)
