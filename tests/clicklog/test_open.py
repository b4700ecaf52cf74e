"""Opening logs: one file or many, by suffix or content, and what is refused."""

from __future__ import annotations

import gzip
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.errors import LogError


def read_dense(log) -> np.ndarray:
    """The dense values of the whole log."""
    return torch.cat([batch.dense for batch in log.batches(77)]).numpy()


@pytest.fixture
def csv_text(columns) -> bytes:
    """The log as CSV."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(str(value) for value in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def parts(tmp_path, columns):
    """The log as three parquet files whose numbers do not sort as text, with a file beside them that is no log."""
    folder = tmp_path / "parts"
    folder.mkdir()
    table = pa.table(columns)
    for number, start in ((2, 0), (9, 400), (10, 800)):
        pq.write_table(table.slice(start, 400), folder / f"part-{number}.parquet", row_group_size=150)
    (folder / "meta.json").write_text("{}")
    (folder / "_SUCCESS").write_text("")
    return folder


def test_many_files_are_one_log(parts, parquet, schema):
    """A directory, a glob, and the files in any order equal the single file."""
    whole = read_dense(open_log(parquet, schema))
    files = [parts / f"part-{number}.parquet" for number in (10, 2, 9)]
    for source in (parts, str(parts), str(parts / "part-*.parquet"), str(parts.parent / "**" / "part-*"), files):
        log = open_log(source, schema)
        assert [path.name for path in log.paths] == ["part-2.parquet", "part-9.parquet", "part-10.parquet"]
        assert (log.rows, log.kind) == (1003, "parquet")
        np.testing.assert_array_equal(read_dense(log), whole)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.gz", "log.txt", "log.tsv", "log"])
def test_csv_equals_parquet(tmp_path, parquet, csv_text, schema, name):
    """CSV gives what parquet gives, plain or zipped, separated by commas or tabs, whatever its suffix."""
    text = csv_text.replace(b",", b"\t") if name.endswith(".tsv") else csv_text
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    log, original = open_log(tmp_path / name, schema), open_log(parquet, schema)
    assert (log.kind, log.rows) == ("csv", None)
    for ours, theirs in zip(log.batches(100), original.batches(100), strict=True):
        torch.testing.assert_close(ours.dense, theirs.dense, rtol=1e-6, atol=0)
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.labels, theirs.labels)


def test_joined_gzip_members_are_one_file(tmp_path, csv_text, schema):
    """A gzip file put together from several is read to its end."""
    middle = csv_text.index(b"\n", len(csv_text) // 2) + 1
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(csv_text[:middle]) + gzip.compress(csv_text[middle:]))
    assert len(read_dense(open_log(tmp_path / "log.csv.gz", schema))) == 1003


def test_large_csv_streams_in_blocks(tmp_path):
    """A CSV file of many blocks is read whole and in order."""
    rows = 900_000
    ids = np.arange(rows) % 1000
    (tmp_path / "log.csv").write_text("C1\n" + "\n".join(f"{i:06d}" for i in ids) + "\n")
    log = open_log(tmp_path / "log.csv", LogSchema((("C1", 1000),), 0))
    read = torch.cat([batch.ids for batch in log.batches(4096)])[:, 0].numpy()
    np.testing.assert_array_equal(read, ids)


@pytest.mark.parametrize(
    ("line", "message"),
    [("0,1,2,x,3", "invalid value .x., expected integer ids"), ("0,1,2,,3", "missing ids"), ("0,1,2", "columns")],
)
def test_damaged_csv_line(tmp_path, schema, line, message):
    """A value that is no number, a blank id and a short line are refused with the file's name."""
    (tmp_path / "log.csv").write_text(f"label,I1,I2,C1,C2\n{line}\n")
    with pytest.raises(LogError, match=message) as caught:
        list(open_log(tmp_path / "log.csv", schema).batches(10))
    assert "log.csv" in str(caught.value)


@pytest.mark.parametrize("name", ["cut.parquet", "cut.csv", "cut.csv.gz"])
def test_truncated_files(tmp_path, parquet, csv_text, schema, name):
    """A file that was cut off is refused, not read in part."""
    content = {"cut.parquet": parquet.read_bytes(), "cut.csv": csv_text, "cut.csv.gz": gzip.compress(csv_text)}[name]
    cut = csv_text.rindex(b",") - 1 if name == "cut.csv" else len(content) * 2 // 3
    (tmp_path / name).write_bytes(content[:cut])
    with pytest.raises(LogError, match="cut"):
        list(open_log(tmp_path / name, schema).batches(64))


def test_damaged_row_group(tmp_path, parquet, schema):
    """Bytes flipped inside a parquet file raise a LogError where they cannot be decoded."""
    content = bytearray(parquet.read_bytes())
    content[4:400] = bytes(396)
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(LogError, match=r"bad\.parquet"):
        list(open_log(tmp_path / "bad.parquet", schema).batches(64))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "empty"),
        ("log.parquet", b"", "cannot read"),
        ("log.parquet", b"version https://git-lfs", "cannot read"),
        ("log.txt", b"hello world\n", "no known kind"),
        ("log.txt", b"\xff\xfe\x00binary", "cannot read"),
        ("log.npz", b"PK\x03\x04", "numpy or zip"),
        ("log.gz", b"\x1f\x8bnot gzip at all", "cannot read"),
        ("log.csv", b"label,I1,I2,C1,C2\n", "no rows"),
    ],
)
def test_files_that_are_no_logs(tmp_path, schema, name, content, message):
    """Empty, foreign and damaged files are refused in a sentence with their name."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LogError, match=message) as caught:
        list(open_log(tmp_path / name, schema).batches(1))
    assert name in str(caught.value)


def test_sources_that_mean_nothing(tmp_path, parquet, schema):
    """A missing file, an empty list, an empty directory, a pattern without match and a file named twice are refused."""
    (tmp_path / "empty").mkdir()
    sources = (tmp_path / "no.csv", [], tmp_path / "empty", str(tmp_path / "*.csv"), [parquet, str(parquet)])
    for source, message in zip(sources, ("exist", "no log", "no log files", "matches", "twice"), strict=True):
        with pytest.raises(LogError, match=message):
            open_log(source, schema)


def test_files_must_agree(tmp_path, parquet, csv_text, columns, schema):
    """Files of two kinds, or with and without labels, do not make one log."""
    (tmp_path / "other.csv").write_bytes(csv_text)
    with pytest.raises(LogError, match="one kind"):
        open_log(tmp_path, schema)
    unlabelled = {name: column for name, column in columns.items() if name != "label"}
    pq.write_table(pa.table(unlabelled), tmp_path / "unlabelled.parquet")
    with pytest.raises(LogError, match="labels"):
        open_log([parquet, tmp_path / "unlabelled.parquet"], schema)


def test_token_options_are_for_criteo(parquet):
    """An id map or modulus beside a log whose ids are rows already is refused, not ignored."""
    with pytest.raises(LogError, match="modulus"):
        open_log(parquet, LogSchema((("C1", 500), ("C2", 7)), 2, modulus=10))


def test_digest_follows_contents(tmp_path, parts, parquet, schema):
    """The digest changes with a byte, and not with names or order of the files."""
    copy = shutil.copytree(parts, tmp_path / "copy")
    (copy / "part-2.parquet").rename(copy / "part-99.parquet")
    first, renamed = open_log(parts, schema).digest(), open_log(copy, schema).digest()
    assert first.combined == renamed.combined
    assert sorted(first.files) == sorted(renamed.files)
    assert [len(first.combined), *map(len, first.files)] == [32, 16, 16, 16]
    shutil.copy(parquet, copy / "part-99.parquet")
    assert open_log(copy, schema).digest().combined != first.combined
