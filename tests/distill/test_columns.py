"""Numbers per row in memory and in files without a name: the same to whoever reads slices."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.distill.columns import Memory, Scratch, ScratchColumn, gather, slices
from memrec_convert.errors import OutputError


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12), st.sampled_from([0, 3]))
def test_a_column_in_a_file_reads_like_an_array(writes, width):
    """Whatever slices are written, both hold the same, zeros where nobody wrote."""
    array = Memory().column(50, np.float32, width=width)
    column = Scratch(memory_bytes=0).column(50, np.float32, width=width)
    assert isinstance(column, ScratchColumn)
    for number, (start, stop) in enumerate(writes):
        part = slice(start, max(start, stop))
        values = np.arange(array[part].size, dtype=np.float32).reshape(array[part].shape) + number
        array[part] = values
        column[part] = values
    assert (len(column), column.dtype, column.shape) == (len(array), array.dtype, array.shape)
    for start, stop in [(0, 50), (7, 19), (40, 99), (30, 30), (0, -5)]:
        assert np.array_equal(column[start:stop], array[start:stop])


def test_memory_is_used_up_to_its_share():
    """Columns are arrays until the share is taken, files from then on."""
    scratch = Scratch(memory_bytes=100)
    assert isinstance(scratch.column(20, np.float32), np.ndarray)
    assert isinstance(scratch.column(20, np.float32), ScratchColumn)
    assert isinstance(scratch.column(20, np.int8), np.ndarray)


def test_a_scratch_file_has_no_name(tmp_path):
    """Nothing lies in the folder while a column lives, so nothing can be left there."""
    column = Scratch(tmp_path, memory_bytes=0).column(1000, np.float64)
    column[0:1000] = np.ones(1000)
    assert list(tmp_path.iterdir()) == []
    assert float(column[0:1000].sum()) == 1000.0


def test_a_folder_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    """The folder is named, and what to do."""
    with pytest.raises(OutputError, match=r"intermediate results in .*missing.*--work or TMPDIR"):
        Scratch(tmp_path / "missing", memory_bytes=0).column(1, np.int8)


def test_a_full_disk_is_refused_in_a_sentence(monkeypatch):
    """A write that the system refuses becomes an OutputError."""

    def refuse(*_):
        raise OSError(28, "No space left on device")

    column = Scratch(memory_bytes=0).column(10, np.int8)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OutputError, match="No space left on device"):
        column[0:3] = np.ones(3, dtype=np.int8)


def test_gathering_takes_the_named_rows(monkeypatch):
    """From an array and from a file, across the borders of slices."""
    monkeypatch.setattr("memrec_convert.distill.columns.slices", lambda rows: slices(rows, step=7))
    array, column = np.arange(40, dtype=np.int32), Scratch(memory_bytes=0).column(40, np.int32)
    column[0:40] = array
    for numbers in ([], [0], [39], [0, 6, 7, 8, 20, 39]):
        wanted = np.array(numbers, dtype=np.int64)
        assert gather(array, wanted).tolist() == gather(column, wanted).tolist() == numbers
