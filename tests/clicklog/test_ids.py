"""Id columns as people have them: too wide, whole floats, nulls, text; each says what was found and what to do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.errors import IdRangeError, LogError

SCHEMA = LogSchema((("C1", 600),), 0)
FILL = r"fillna\(ID\)\.astype\('int64'\)"


def read(path):
    """All ids of a log."""
    return [batch.ids for batch in open_log(path, SCHEMA).batches(8)]


@pytest.mark.parametrize(
    ("column", "error", "sentences"),
    [
        (pa.array([2**63 + 5, 1], pa.uint64()), IdRangeError, ["1 ids past 2^63 - 1", "first: 9223372036854775813"]),
        (pa.array([1, 2**64 - 1], pa.uint64()), IdRangeError, ["first: 18446744073709551615"]),
        (pa.array([[2**63 + 5], [1]], pa.list_(pa.uint64())), IdRangeError, ["first: 9223372036854775813"]),
        (pa.array([549.0, 1.0]), LogError, ["type double (first: '549.0')", "write whole numbers as integers"]),
        (pa.array([None, 549.0]), LogError, ["first: '549.0'", "give missing values an id of their own"]),
        (pa.array([[549.0], [1.0]]), LogError, ["first: '549.0'", "as integers"]),
        (pa.array([1, None]), LogError, ["1 missing ids among 2", "give missing values an id of their own"]),
        (pa.array(["a7", "b"]), LogError, ["type string (first: 'a7')", "expected integer ids"]),
        (pa.array([2**40, 1]), IdRangeError, ["first: 1099511627776", "outside table 'C1'"]),
    ],
)
def test_ids_that_are_no_rows_are_named(tmp_path, column, error, sentences):
    """Parquet: the value, the column, and the way."""
    pq.write_table(pa.table({"label": [0, 1], "C1": column}), tmp_path / "log.parquet")
    with pytest.raises(error) as caught:
        read(tmp_path / "log.parquet")
    assert all(sentence in str(caught.value) for sentence in ["log.parquet > C1", *sentences])


@pytest.mark.parametrize("value", ["549.0", "9223372036854775813", "a7"])
def test_text_that_is_no_id_is_named(tmp_path, value):
    """CSV: the value and the way."""
    (tmp_path / "log.csv").write_text(f"label,C1\n0,1\n1,{value}\n")
    with pytest.raises(LogError, match=f"invalid value '{value}', expected integer ids .*{FILL}"):
        read(tmp_path / "log.csv")


@pytest.mark.parametrize("kind", [pa.uint64(), pa.uint8(), pa.int16()])
def test_ids_of_any_width_are_read(tmp_path, kind):
    """Rows are rows, whatever integers say them."""
    pq.write_table(pa.table({"label": [0, 1], "C1": pa.array([7, 100], kind)}), tmp_path / "log.parquet")
    np.testing.assert_array_equal(read(tmp_path / "log.parquet")[0], [[7], [100]])
