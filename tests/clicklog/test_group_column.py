"""The group column: which one a name means, and that its values group the rows the same way in every container."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.errors import LogError

TWO = (("user", 500), ("item", 7))
KINDS = {
    "int32": lambda draw: draw.astype(np.int32),
    "uint8": lambda draw: draw.astype(np.uint8),
    "text": lambda draw: [f"u{value}" for value in draw],
    "dictionary": lambda draw: pa.array([f"u{value}" for value in draw]).dictionary_encode(),
    "float": lambda draw: draw / 4,
    "date": lambda draw: pa.array(draw.astype(np.int32), pa.date32()),
    "bool": lambda draw: draw > 5,
}


def read_groups(path, schema, **options):
    """The groups of a whole log, int64 [rows]."""
    return np.concatenate([batch.groups.numpy() for batch in open_log(path, schema).batches(100, **options)])


def same_partition(one, other):
    """Whether two labellings put the same rows together."""
    pairs = {(a, b) for a, b in zip(one.tolist(), list(other), strict=True)}
    return len(pairs) == len(set(one.tolist())) == len(set(other))


@pytest.mark.parametrize("kind", KINDS)
def test_any_column_of_single_values_groups_the_rows(tmp_path, columns, schema, kind):
    """Rows are together exactly where the values are equal, across row groups and batches."""
    draw = np.random.default_rng(3).integers(0, 12, len(columns["label"]))
    values = KINDS[kind](draw)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({**columns, "session": values}), path, row_group_size=100)
    groups = read_groups(path, replace(schema, group="session"))
    assert groups.dtype == np.int64
    assert same_partition(groups, draw > 5 if kind == "bool" else draw)


def test_csv_groups_are_those_of_parquet(tmp_path, columns, schema):
    """A text column that begins with numbers, and a table's column, group alike in both containers."""
    draw = np.random.default_rng(4).integers(0, 9, len(columns["label"]))
    session = ["7" if n < 900 else f"s{value}" for n, value in enumerate(draw)]
    table = pa.table({**columns, "session": session})
    pq.write_table(table, tmp_path / "log.parquet")
    pacsv.write_csv(table, tmp_path / "log.csv")
    for group in ("session", "C1"):
        own = replace(schema, group=group)
        assert np.array_equal(read_groups(tmp_path / "log.csv", own), read_groups(tmp_path / "log.parquet", own))
    assert np.array_equal(read_groups(tmp_path / "log.csv", replace(schema, group="C1")), columns["C1"])


def test_groups_stay_with_their_rows_when_shuffled(parquet, columns, schema):
    """A shuffled stream permutes groups, ids and labels together."""
    log = open_log(parquet, replace(schema, group="C1"))
    for batch in log.batches(64, shuffle_seed=5):
        assert np.array_equal(batch.groups.numpy(), batch.ids[:, 0].numpy())


def test_a_columns_own_name_comes_before_an_inputs(tmp_path):
    """The log's column of the name is meant; without one, the column that serves the input of that name."""
    path = tmp_path / "log.parquet"
    rows = {"label": [0, 1, 0], "C1": [5, 6, 7], "C2": [1, 2, 3]}
    pq.write_table(pa.table(rows), path)
    assert read_groups(path, LogSchema(TWO, 0, group="user")).tolist() == [5, 6, 7]
    assert read_groups(path, LogSchema(TWO, 0, group="C2")).tolist() == [1, 2, 3]
    pq.write_table(pa.table(rows | {"who": [9, 9, 8]}), path)
    mapped = LogSchema(TWO, 0, columns={"user": "who"}, group="user")
    assert read_groups(path, mapped).tolist() == [9, 9, 8]
    pq.write_table(pa.table(rows | {"user": [4, 4, 4]}), path)
    assert read_groups(path, replace(mapped, columns={"user": "C1"})).tolist() == [4, 4, 4]


def test_without_a_group_column_there_are_no_groups(parquet, schema):
    """Nothing is read that nobody asked for."""
    assert all(batch.groups is None for batch in open_log(parquet, schema).batches(100))


def test_a_missing_group_column_names_those_that_are_there(parquet, schema):
    """The error has the name, the log's columns and the model's tables."""
    with pytest.raises(LogError, match=r"no group column 'session'.*label, I1, I2, C1, C2.*C1 \(500 rows\)"):
        open_log(parquet, replace(schema, group="session"))


def test_lists_and_missing_values_are_no_groups(tmp_path, columns, schema):
    """A list column and a null are refused with the column's name."""
    rows = len(columns["label"])
    for values, said in (([[1]] * rows, "expected one group a row"), ([None, *[1] * (rows - 1)], "1 missing groups")):
        path = tmp_path / "log.parquet"
        pq.write_table(pa.table({**columns, "session": values}), path)
        with pytest.raises(LogError, match=rf"> session: .*{said}"):
            read_groups(path, replace(schema, group="session"))


def test_a_group_column_named_twice_is_refused(tmp_path, columns, schema):
    """Which of two equal names is meant, nobody can say."""
    path = tmp_path / "log.parquet"
    names = [*columns, "session", "session"]
    arrays = [*columns.values(), columns["C1"], columns["C2"]]
    pq.write_table(pa.Table.from_arrays([pa.array(one) for one in arrays], names=names), path)
    with pytest.raises(LogError, match=r"session.*more than once"):
        open_log(path, replace(schema, group="session"))


def test_raw_criteo_groups_by_its_tokens(tmp_path):
    """A raw log's token column groups by the rows that the tokens became."""
    tokens = ["0000000a", "0000000b", "0000001a", "0000000b"]
    lines = ["\t".join(["1", *["3"] * 13, token, *["00000001"] * 25]) for token in tokens]
    path = tmp_path / "day_0"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    schema = LogSchema(tuple((f"C{n + 1}", 16) for n in range(26)), 13, modulus=16, group="C1")
    assert read_groups(path, schema).tolist() == [10, 11, 10, 11]
