"""Raw Criteo logs: their lines, and how tokens become rows."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.clicklog.criteo import is_criteo_line, parse_tokens
from memrec_convert.errors import IdRangeError, LogError


def make_schema(rows: int = 100, **options) -> LogSchema:
    """Criteo's inputs, with tables of one size."""
    return LogSchema(tuple((f"C{i + 1}", rows) for i in range(26)), 13, **options)


def make_line(label: str = "1", integer: str = "7", token: str = "0000000a") -> str:
    """A line of equal integers and equal tokens."""
    return "\t".join([*([label] if label else []), *[integer] * 13, *[token] * 26])


def write_log(folder, *lines: str, name: str = "day_0"):
    """The lines as a file, zipped where its name says so."""
    path = folder / name
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return path


@pytest.mark.parametrize("name", ["day_0", "day_0.gz", "train.txt", "train.tsv"])
def test_modulus(tmp_path, name):
    """With a modulus the row is the token's number modulo it; blanks are token 0 and integer 0."""
    path = write_log(tmp_path, make_line(), make_line("0", "", ""), make_line("1", "-2", "FFFFFFFF"), name=name)
    log = open_log(path, make_schema(modulus=100))
    (batch,) = log.batches(10)
    assert log.kind == "criteo"
    assert batch.labels.tolist() == [1, 0, 1]
    assert batch.ids[:, 25].tolist() == [10, 0, 0xFFFFFFFF % 100]
    np.testing.assert_allclose(batch.dense[:, 12].numpy(), np.log1p([7, 0, 0]), rtol=1e-6)


@pytest.mark.parametrize(("transform", "expected"), [("log1p", np.log(1)), ("log(x+3)", np.log(2)), ("identity", 0)])
def test_negative_integers(tmp_path, transform, expected):
    """A negative integer counts as 0, but goes as it is into log(x+3), which is made for it."""
    path = write_log(tmp_path, make_line(integer="-1"))
    (batch,) = open_log(path, make_schema(modulus=100, dense_transform=transform)).batches(1)
    np.testing.assert_allclose(batch.dense.numpy(), expected, rtol=1e-6)


def test_without_labels(tmp_path):
    """A test set without the label column is read, without labels."""
    (batch,) = open_log(write_log(tmp_path, make_line(label="")), make_schema(modulus=100)).batches(1)
    assert batch.labels is None


def test_tokens_alone_are_refused(tmp_path):
    """Without id map or modulus a raw log is refused, with the reason."""
    with pytest.raises(LogError, match="tokens are not rows"):
        open_log(write_log(tmp_path, make_line()), make_schema())


def test_modulus_beyond_the_table(tmp_path):
    """A modulus larger than the table does not shrink the ids: they are out of range."""
    path = write_log(tmp_path, make_line(token="000000ff"))
    with pytest.raises(IdRangeError, match="255"):
        list(open_log(path, make_schema(modulus=1000)).batches(1))


def write_map(folder, suffix: str, tokens: dict[str, int]):
    """An id map that is the same for every column."""
    path = folder / f"map.{suffix}"
    names = [f"C{i + 1}" for i in range(26)]
    numbers, rows = [int(token, 16) for token in tokens], list(tokens.values())
    if suffix == "json":
        path.write_text(json.dumps(dict.fromkeys(names, tokens)))
    elif suffix == "npz":
        np.savez(path, **{f"{n}_tokens": numbers for n in names}, **{f"{n}_rows": rows for n in names})
    else:
        column = np.repeat(names, len(rows)).tolist()
        pq.write_table(pa.table({"column": column, "token": numbers * 26, "row": rows * 26}), path)
    return path


@pytest.mark.parametrize("suffix", ["json", "npz", "parquet"])
def test_id_map_forms(tmp_path, suffix):
    """The three forms of an id map say the same; an unknown token is out of range."""
    id_map = write_map(tmp_path, suffix, {"0000000a": 3, "68fd1e64": 1})
    path = write_log(tmp_path, make_line(token="68fd1e64"), make_line(), make_line(token="00000001"))
    (batch,) = open_log(path, make_schema(id_map=id_map, oov="zero")).batches(10)
    assert batch.ids[0].ids.tolist() == [1, 3]
    assert batch.ids[0].offsets.tolist() == [0, 1, 2]
    with pytest.raises(IdRangeError, match="--oov"):
        list(open_log(path, make_schema(id_map=id_map)).batches(10))


def test_unknown_tokens_hash_apart(tmp_path):
    """Under oov=hash two unknown tokens do not meet in one row for being unknown."""
    id_map = write_map(tmp_path, "json", {"0000000a": 3})
    path = write_log(tmp_path, make_line(token="00000001"), make_line(token="00000002"))
    (batch,) = open_log(path, make_schema(id_map=id_map, oov="hash")).batches(10)
    assert batch.ids[0, 0] != batch.ids[1, 0]


def test_map_of_remainders(tmp_path):
    """With both, the map is of the tokens' remainders (dlrm's max_ind_range)."""
    id_map = write_map(tmp_path, "json", {"5": 42})
    path = write_log(tmp_path, make_line(token="0000000f"))
    (batch,) = open_log(path, make_schema(id_map=id_map, modulus=10)).batches(10)
    assert batch.ids[0].tolist() == [42] * 26


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("map.csv", b"", "unknown kind"),
        ("map.json", b"[", "cannot read"),
        ("map.json", b"[]", "lacks the columns C1"),
        ("map.json", json.dumps({f"C{i}": {"zz": 1} for i in range(1, 27)}).encode(), "hex digits"),
        ("map.json", json.dumps({f"C{i}": {"a": 1.5} for i in range(1, 27)}).encode(), "integer row"),
        ("map.json", json.dumps({f"C{i}": {"a": 1, "A": 2} for i in range(1, 27)}).encode(), "twice"),
        ("map.npz", b"PK\x03\x04", "cannot read"),
        ("map.parquet", b"", "cannot read"),
    ],
)
def test_damaged_id_maps(tmp_path, name, content, message):
    """An id map that is damaged, incomplete or ambiguous is refused with its name."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LogError, match=message):
        open_log(write_log(tmp_path, make_line()), make_schema(id_map=tmp_path / name))


def test_object_arrays_are_never_unpickled(tmp_path):
    """An .npz map with Python objects is refused, not unpickled."""
    np.savez(tmp_path / "map.npz", C1_tokens=np.array([{}], dtype=object), C1_rows=np.array([0]))
    with pytest.raises(LogError, match="cannot read"):
        open_log(write_log(tmp_path, make_line()), make_schema(id_map=tmp_path / "map.npz"))


@pytest.mark.parametrize("line", [make_line(token="0000zz0a"), make_line(integer="x"), make_line() + "\t1"])
def test_damaged_lines(tmp_path, line):
    """A token that is no hex number, an integer that is none and a line too long are refused."""
    path = write_log(tmp_path, make_line(), line)
    with pytest.raises(LogError, match="day_0"):
        list(open_log(path, make_schema(modulus=10)).batches(10))


def test_recognised_lines():
    """Only Criteo's own form is taken for Criteo."""
    assert is_criteo_line(make_line())
    assert is_criteo_line(make_line("0", "-3", ""))
    assert is_criteo_line(make_line(label=""))
    for other in (make_line(label="2"), make_line(token="12"), make_line(integer="a"), "label\tI1", "0,1"):
        assert not is_criteo_line(other)


@given(st.lists(st.one_of(st.none(), st.integers(0, 2**32 - 1))))
def test_tokens_are_hex_numbers(numbers):
    """Tokens are read as Python reads hex digits; a missing one is 0."""
    tokens = pa.array([None if number is None else f"{number:08x}" for number in numbers], pa.string())
    assert parse_tokens(tokens, where="log").tolist() == [number or 0 for number in numbers]


@pytest.mark.parametrize(("name", "rows"), [("kaggle_head_2000.tsv", 2000), ("terabyte_head_1000.tsv", 1000)])
def test_real_heads(shared_data, name, rows):
    """The heads of the real files parse to what Python's own reading of their lines gives."""
    path = shared_data / "criteo" / name
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    batches = list(open_log(path, make_schema(10_000, modulus=10_000)).batches(512))
    assert sum(batch.rows for batch in batches) == rows
    ids = np.concatenate([batch.ids.numpy() for batch in batches])
    dense = np.concatenate([batch.dense.numpy() for batch in batches])
    np.testing.assert_array_equal(ids, [[int(token or "0", 16) % 10_000 for token in line[14:]] for line in lines])
    expected = np.log1p([[max(0, int(text or "0")) for text in line[1:14]] for line in lines])
    np.testing.assert_allclose(dense, expected, rtol=1e-6)
