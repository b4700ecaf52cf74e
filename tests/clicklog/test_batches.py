"""Batches: the whole log, in exact sizes, in order or permuted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.clicklog import Bag, Batch, ClickLog, LogSchema, open_log
from memrec_convert.clicklog import log as log_module
from memrec_convert.clicklog.block import Block, Ragged, join_blocks, rebatch
from memrec_convert.errors import LogError


def read_all(log: ClickLog, batch_size: int = 64, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dense values, ids and labels of all batches."""
    batches = list(log.batches(batch_size, **options))
    dense, ids, labels = zip(*((b.dense, b.ids, b.labels) for b in batches), strict=True)
    return torch.cat(dense).numpy(), torch.cat(ids).numpy(), torch.cat(labels).numpy()


@pytest.mark.parametrize("batch_size", [1, 7, 100, 128, 1003, 5000])
def test_batches_are_the_file(parquet, schema, columns, batch_size):
    """Batches of any size, put together, are the file's columns; all but the last have exactly that size."""
    log = open_log(parquet, schema)
    dense, ids, labels = read_all(log, batch_size)
    np.testing.assert_array_equal(dense, np.stack([columns["I1"], columns["I2"]], axis=1))
    np.testing.assert_array_equal(ids, np.stack([columns["C1"], columns["C2"]], axis=1))
    np.testing.assert_array_equal(labels, columns["label"])
    sizes = [batch.rows for batch in log.batches(batch_size)]
    assert set(sizes[:-1]) <= {batch_size}
    assert 0 < sizes[-1] <= batch_size


def test_types_of_a_batch(parquet, schema):
    """Dense and labels are float32, ids int64 whatever the file's integers are."""
    batch = next(open_log(parquet, schema).batches(10))
    assert (batch.dense.dtype, batch.ids.dtype, batch.labels.dtype) == (torch.float32, torch.int64, torch.float32)
    assert batch.dense.shape == (10, 2)
    assert batch.ids.shape == (10, 2)


@pytest.mark.parametrize("window_rows", [1 << 22, 250])
def test_shuffle_is_a_permutation(parquet, schema, columns, monkeypatch, window_rows):
    """A shuffled log holds every row once, whole, in another order, also when it is larger than the window."""
    monkeypatch.setattr(log_module, "SHUFFLE_WINDOW_ROWS", window_rows)
    dense, ids, labels = read_all(open_log(parquet, schema), shuffle_seed=3)
    rows = dense[:, 0].astype(int)
    assert sorted(rows) == list(range(len(columns["I1"])))
    assert (np.diff(rows) == 1).mean() < 0.02
    np.testing.assert_array_equal(ids[:, 0], columns["C1"][rows])
    np.testing.assert_array_equal(labels, columns["label"][rows])


def test_shuffle_is_full_inside_the_window(parquet, schema):
    """A log that fits the window is shuffled fully: a batch holds rows of all its parts."""
    rows = next(open_log(parquet, schema).batches(200, shuffle_seed=0)).dense[:, 0]
    assert set(range(10)) <= set((rows // 100).int().tolist())


def test_shuffle_is_deterministic(parquet, schema):
    """The same seed gives the same order, another seed another."""
    log = open_log(parquet, schema)
    first, again, other = (read_all(log, shuffle_seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("shuffle_seed", [None, 5])
@pytest.mark.parametrize("limit", [1, 63, 64, 500, 1003, 9999])
def test_limit_ends_the_stream(parquet, schema, limit, shuffle_seed):
    """A limited stream is the beginning of the unlimited one."""
    log = open_log(parquet, schema)
    whole = read_all(log, shuffle_seed=shuffle_seed)[0]
    np.testing.assert_array_equal(read_all(log, shuffle_seed=shuffle_seed, limit=limit)[0], whole[:limit])


@pytest.mark.parametrize(("batch_size", "limit"), [(0, None), (-1, None), (1, 0)])
def test_sizes_must_be_positive(parquet, schema, batch_size, limit):
    """A batch size or a limit of zero is refused."""
    with pytest.raises(LogError, match="above zero"):
        list(open_log(parquet, schema).batches(batch_size, limit=limit))


def test_lists_become_bags(tmp_path):
    """A list column makes every table a bag; a null list is an empty bag, as an empty list is."""
    table = pa.table({"I1": [0.0, 1.0, 2.0, 3.0], "C1": [[1, 2], None, [], [3]], "C2": [4, 5, 6, 7]})
    pq.write_table(table, tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet", LogSchema((("C1", 10), ("C2", 10)), 1))
    first, second = list(log.batches(3))
    assert first.labels is None
    assert isinstance(first.ids[0], Bag)
    assert first.ids[0].ids.tolist() == [1, 2]
    assert first.ids[0].offsets.tolist() == [0, 2, 2]
    assert first.ids[1].ids.tolist() == [4, 5, 6]
    assert second.ids[0].ids.tolist() == [3]
    assert second.ids[0].offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("kind", "second"),  # nulls of a fixed size cannot be written by every pyarrow
    [(pa.list_(pa.int8()), None), (pa.large_list(pa.int64()), None), (pa.list_(pa.uint16(), 2), [5, 6])],
)
def test_every_list_type_is_read(tmp_path, kind, second):
    """Lists, large lists and lists of fixed size, of any integer type, are bags."""
    pq.write_table(pa.table({"C1": pa.array([[1, 2], second, [3, 4]], kind)}), tmp_path / "log.parquet")
    (batch,) = open_log(tmp_path / "log.parquet", LogSchema((("C1", 10),), 0)).batches(5)
    assert batch.dense.shape == (3, 0)
    second = second or []
    assert batch.ids[0].ids.tolist() == [1, 2, *second, 3, 4]
    assert batch.ids[0].offsets.tolist() == [0, 2, 2 + len(second)]


def test_a_file_of_lists_makes_the_whole_log_bags(tmp_path):
    """Where one file of a log is multi-hot, the batches of its other files are bags as well."""
    pq.write_table(pa.table({"C1": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"C1": [[3, 4]]}), tmp_path / "b.parquet")
    (batch,) = open_log(tmp_path, LogSchema((("C1", 10),), 0)).batches(5)
    assert batch.ids[0].ids.tolist() == [1, 2, 3, 4]
    assert batch.ids[0].offsets.tolist() == [0, 1, 2]


@given(
    st.lists(st.lists(st.lists(st.integers(-1, 9), max_size=3), max_size=8), max_size=6),
    st.integers(1, 10),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_ragged_rows_survive_any_cutting(parts, batch_size, random):
    """Joining, cutting and permuting ragged rows keeps every row's ids in order, without the dropped ones (-1)."""
    rows = [[i for i in row if i >= 0] for part in parts for row in part]
    blocks = [make_ragged_block(part) for part in parts]
    batches = list(rebatch((block for block in blocks if block.rows), batch_size))
    assert [row for batch in batches for row in to_lists(batch.ids[0])] == rows
    assert all(batch.rows == batch_size for batch in batches[:-1])
    if rows:
        order = list(range(len(rows)))
        random.shuffle(order)
        shuffled = join_blocks([block for block in blocks if block.rows]).take(np.array(order))
        assert to_lists(shuffled.ids[0]) == [rows[place] for place in order]


def make_ragged_block(rows: list[list[int]]) -> Block:
    """A block of one multi-hot table."""
    values = np.array([i for row in rows for i in row], dtype=np.int64)
    ragged = Ragged.from_lengths(values, np.array([len(row) for row in rows], dtype=np.int64))
    return Block(np.zeros((len(rows), 0), np.float32), (ragged,), None)


def to_lists(column: Ragged) -> list[list[int]]:
    """Each row's ids."""
    return [column.values[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


def test_real_log_end_to_end(shared_data: Path):
    """The real news log is read row for row as pyarrow reads it."""
    path = shared_data / "ml1m" / "val.parquet"
    log = open_log(path, LogSchema(tuple((f"C{i + 1}", 300_000) for i in range(9)), 4))
    dense, ids, labels = read_all(log, 4096)
    table = pq.read_table(path)
    np.testing.assert_array_equal(ids[:, 8], table["C9"].to_numpy())
    np.testing.assert_array_equal(labels, table["label"].to_numpy())
    np.testing.assert_allclose(dense[:, 1], np.log(1 + table["I2"].to_numpy().astype(np.float64)), rtol=1e-6)
    assert log.rows == len(labels) == 100_020


def test_a_batch_is_cut_into_batches():
    """Samples with their bags, weights, labels and groups; an empty bag and the last one too."""
    bag = Bag(torch.arange(6), torch.tensor([0, 2, 2, 5]), torch.arange(6) / 2)
    batch = Batch(torch.arange(8.0).reshape(4, 2), (bag,), torch.arange(4.0), torch.arange(4) // 2)
    first, last = batch.cut(0, 2), batch.cut(2, 4)
    assert (first.rows, last.rows) == (2, 2)
    assert first.ids[0].ids.tolist() == [0, 1]
    assert first.ids[0].offsets.tolist() == [0, 2]
    assert last.ids[0].ids.tolist() == [2, 3, 4, 5]
    assert last.ids[0].offsets.tolist() == [0, 3]
    assert last.ids[0].weights.tolist() == [1.0, 1.5, 2.0, 2.5]
    assert last.labels.tolist() == [2.0, 3.0]
    assert last.groups.tolist() == [1, 1]
    plain = Batch(batch.dense, torch.arange(8).reshape(4, 2), None).cut(1, 3)
    assert plain.ids.tolist() == [[2, 3], [4, 5]]
    assert (plain.labels, plain.groups) == (None, None)
