"""Which column serves which input, and what values may stand in it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.clicklog.schema import choose_columns
from memrec_convert.errors import IdRangeError, LogError

TWO = (("user", 10), ("item", 20))


def write(path, **columns):
    """The columns as a parquet file."""
    pq.write_table(pa.table(columns), path / "log.parquet")
    return path / "log.parquet"


def test_columns_by_mapping_name_and_position():
    """A table is found under its mapped column, else its own name, else its position."""
    mapped = LogSchema(TWO, 1, columns={"user": "u", "I1": "age", "label": "click"})
    choice = choose_columns(["click", "age", "u", "item"], mapped, where="log")
    assert (choice.label, choice.dense, choice.tables) == ("click", ("age",), ("u", "item"))
    choice = choose_columns(["I1", "C1", "C2"], LogSchema(TWO, 1), where="log")
    assert (choice.label, choice.tables) == (None, ("C1", "C2"))


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["I1", "C1"], {}, "lacks C2"),
        (["C1", "C2"], {}, "lacks I1"),
        (["I1", "C1", "C2"], {"user": "nobody"}, "lacks nobody"),
        (["I1", "C1", "C2"], {"label": "click"}, "lacks click"),
        (["I1", "C1", "C2", "C2"], {}, "more than once"),
        (["I1", "C1", "C2", "C3"], {}, "goes on with C3"),
        (["I1", "I2", "C1", "C2"], {}, "goes on with I2"),
    ],
)
def test_mismatch_names_both_sides(names, columns, message):
    """A log that does not fit is refused with the log's columns and the model's tables."""
    with pytest.raises(LogError, match=message) as caught:
        choose_columns(names, LogSchema(TWO, 1, columns=columns), where="my.parquet")
    for part in ("my.parquet", ", ".join(names), "user (10 rows)", "item (20 rows)"):
        assert part in str(caught.value)


def test_two_tables_share_a_column_only_when_told():
    """A name and a position that meet in one column are refused; an explicit mapping to one column is obeyed."""
    crossed = (("C2", 10), ("other", 20))
    with pytest.raises(LogError, match="more than one table"):
        choose_columns(["C1", "C2"], LogSchema(crossed, 0), where="log")
    both = LogSchema(TWO, 0, columns={"user": "id", "item": "id"})
    assert choose_columns(["id"], both, where="log").tables == ("id", "id")


@pytest.mark.parametrize(
    "options", [{"dense_transform": "sqrt"}, {"oov": "skip"}, {"modulus": 0}, {"columns": {"usr": "u"}}]
)
def test_unknown_choices_are_refused(options):
    """A transform, an oov choice, a modulus or a mapped input that does not exist is an error at once."""
    with pytest.raises(LogError):
        LogSchema(TWO, 1, **options)


@pytest.mark.parametrize(
    ("oov", "expected"), [("clip", [0, 9, 9, 4]), ("hash", [9, 0, 3, 4]), ("zero", [None, None, None, 4])]
)
def test_ids_outside_a_table(tmp_path, oov, expected):
    """Clip takes the nearest row, hash the remainder, zero drops the lookup."""
    path = write(tmp_path, C1=[-1, 10, 23, 4])
    (batch,) = open_log(path, LogSchema((("C1", 10),), 0, oov=oov)).batches(10)
    if oov == "zero":
        assert batch.ids[0].ids.tolist() == [4]
        assert batch.ids[0].offsets.tolist() == [0, 0, 0, 0]
    else:
        assert batch.ids[:, 0].tolist() == expected


@pytest.mark.parametrize("oov", ["clip", "hash", "zero"])
def test_ids_outside_a_table_inside_bags(tmp_path, oov):
    """The same holds for the ids of a multi-hot column."""
    path = write(tmp_path, C1=[[-1, 5], [12], [4]])
    (batch,) = open_log(path, LogSchema((("C1", 10),), 0, oov=oov)).batches(10)
    expected = {"clip": [0, 5, 9, 4], "hash": [9, 5, 2, 4], "zero": [5, 4]}
    assert batch.ids[0].ids.tolist() == expected[oov]
    assert batch.ids[0].offsets.tolist() == ([0, 1, 1] if oov == "zero" else [0, 2, 3])


def test_zero_leaves_clean_batches_alone(tmp_path):
    """Under oov=zero only batches with a dropped lookup become bags."""
    path = write(tmp_path, C1=[1, 2, 99, 3])
    clean, dropped = open_log(path, LogSchema((("C1", 10),), 0, oov="zero")).batches(2)
    assert clean.ids.tolist() == [[1], [2]]
    assert isinstance(dropped.ids, tuple)


def test_range_error_says_everything(tmp_path):
    """By default an id outside its table is an error with table, rows, count, example and the way out."""
    path = write(tmp_path, user=[1, 99, -5], item=[0, 0, 0])
    with pytest.raises(IdRangeError) as caught:
        list(open_log(path, LogSchema(TWO, 0)).batches(10))
    for part in (str(path), "2 of the 3", "'user' of 10 rows", "99", "--oov"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_every_integer_type_is_an_id(tmp_path, kind):
    """Ids may be integers of any width, signed or not."""
    path = write(tmp_path, C1=np.array([0, 100], kind))
    (batch,) = open_log(path, LogSchema((("C1", 101),), 0)).batches(10)
    assert batch.ids[:, 0].tolist() == [0, 100]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"C1": [1, None]}, "1 missing ids among 2"),
        ({"C1": [[1, None]]}, "1 missing ids"),
        ({"C1": ["a", "b"]}, "type string"),
        ({"C1": [1.0, 2.0]}, "type double"),
        ({"C1": np.array([1, 2**64 - 1], np.uint64)}, "1 ids past 2.63 - 1"),
        ({"C1": [1, 2], "label": [0, 5]}, "label 5"),
        ({"C1": [1, 2], "label": [0, None]}, "missing values"),
        ({"C1": [1, 2], "label": ["yes", "no"]}, "expected numbers"),
        ({"C1": [1, 2], "label": [0.0, np.nan]}, "label nan"),
    ],
)
def test_values_that_cannot_be_meant(tmp_path, columns, message):
    """Missing ids, ids that are no integers and labels outside [0, 1] are refused with file and column."""
    path = write(tmp_path, **columns)
    with pytest.raises(LogError, match=message) as caught:
        list(open_log(path, LogSchema((("C1", 10),), 0)).batches(10))
    assert f"{path} > " in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, None, -1.0])
def test_dense_values_must_be_finite(tmp_path, value):
    """NaN, infinite, too large and missing dense values, and those without a logarithm, are refused."""
    path = write(tmp_path, I1=[0.5, value])
    with pytest.raises(LogError, match="I1"):
        list(open_log(path, LogSchema((), 1)).batches(10))


@pytest.mark.parametrize(
    ("transform", "function"), [("log1p", np.log1p), ("log(x+3)", lambda x: np.log(x + 3)), ("identity", np.array)]
)
def test_dense_transforms(tmp_path, transform, function):
    """Each transform is what its name says, in float32."""
    values = np.array([0, 0.5, 3, 1e6], np.float32)
    (batch,) = open_log(write(tmp_path, I1=values), LogSchema((), 1, dense_transform=transform)).batches(10)
    np.testing.assert_allclose(batch.dense[:, 0].numpy(), function(values), rtol=3e-7)
