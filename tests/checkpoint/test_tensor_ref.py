"""References to tensors on disk: whatever torch saved is read back, row by row."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memrec_convert.checkpoint.containers import open_checkpoint
from memrec_convert.checkpoint.tensor_ref import FLOATING, TensorRef
from memrec_convert.errors import CheckpointError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def save_and_open(tensor: torch.Tensor, path: Path, *, legacy: bool = False) -> TensorRef:
    """The reference to a tensor after a round trip through a file."""
    torch.save({"x": tensor}, path, _use_new_zipfile_serialization=not legacy)
    return open_checkpoint(path).root["x"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_torch_wrote_it(dtype, legacy, tmp_path):
    """Floating dtypes come as float32, the others as they are, in both forms of torch.save."""
    tensor = (torch.randn(6, 4) * 50).to(dtype)
    ref = save_and_open(tensor, tmp_path / "x.pt", legacy=legacy)
    expected = tensor.to(torch.float32).numpy() if ref.dtype in FLOATING else tensor.numpy()
    got = ref.read()
    assert (ref.shape, ref.nbytes) == ((6, 4), 24 * tensor.element_size())
    assert got.dtype == expected.dtype
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_strided_view_is_read_like_torch_reads_it(data, tmp_path):
    """Permuted, sliced and offset views equal torch's own values, whole and in chunks."""
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    tensor = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    start, step = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    tensor = tensor[start::step]
    ref = save_and_open(tensor, tmp_path / "x.pt")
    np.testing.assert_array_equal(ref.read(), tensor.numpy())
    np.testing.assert_array_equal(ref.as_tensor().numpy(), tensor.numpy())
    rows_per_chunk = data.draw(st.integers(1, 4))
    chunks = list(ref.chunks(rows_per_chunk))
    assert [start for start, _ in chunks] == list(range(0, ref.rows, rows_per_chunk))
    if chunks:
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks]), tensor.numpy())


def test_a_transposed_table_is_read_without_its_whole_storage(tmp_path, monkeypatch):
    """A few rows of a column-major table cost reads of those rows, not of the storage."""
    ref = save_and_open(torch.randn(16, 5000).t(), tmp_path / "x.pt")
    reads: list[int] = []
    original = TensorRef._read_span
    monkeypatch.setattr(
        TensorRef, "_read_span", lambda self, file, at, count: reads.append(count) or original(self, file, at, count)
    )
    assert ref.read_rows(100, 110).shape == (10, 16)
    assert sum(reads) == 160


def test_rows_past_the_end_are_cut_as_slices_are(tmp_path):
    """`read_rows` follows Python's slices."""
    tensor = torch.randn(5, 2)
    ref = save_and_open(tensor, tmp_path / "x.pt")
    for start, stop in itertools.product((0, 3, 9), (0, 4, 99)):
        np.testing.assert_array_equal(ref.read_rows(start, stop), tensor[start:stop].numpy())


def test_tied_tensors_share_their_place(tmp_path):
    """A parameter saved under two names is one storage, and a slice of it lies inside."""
    whole = torch.randn(6, 4)
    torch.save({"a": whole, "b": whole, "c": whole[2:4]}, tmp_path / "x.pt")
    root = open_checkpoint(tmp_path / "x.pt").root
    assert root["a"] == root["b"]
    assert root["c"].offset == root["a"].offset + 2 * 4 * 4


def test_scalars_and_empty_tensors_are_read(tmp_path):
    """Tensors without dimensions or without elements have their shape and values."""
    assert save_and_open(torch.tensor(2.5), tmp_path / "x.pt").read() == np.float32(2.5)
    assert save_and_open(torch.zeros(0, 4), tmp_path / "y.pt").read().shape == (0, 4)


def test_float64_beyond_float32_becomes_infinite(tmp_path):
    """A value that float32 cannot hold is inf, which the conversion reports as a row."""
    assert np.isinf(save_and_open(torch.tensor([1e300], dtype=torch.float64), tmp_path / "x.pt").read()).all()


def test_a_file_cut_after_opening_is_an_error(tmp_path):
    """Bytes that have gone since the file was opened end in one sentence."""
    ref = save_and_open(torch.randn(500, 4), tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:1500])
    with pytest.raises(CheckpointError, match="changed or cut"):
        ref.read()
    (tmp_path / "x.pt").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        ref.read()
