"""`inspect --scan`: what the rows of a checkpoint are like."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memrec_convert.checkpoint import scan as scan_module
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.checkpoint.scan import hash_rows


def save_table(path, rows):
    """A state dict of one table."""
    torch.save({"item_embedding.weight": torch.as_tensor(rows)}, path)
    return path


def odd_rows():
    """Rows of which the counts are known."""
    rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    rows[10:13] = 0.0
    rows[12] = -0.0
    rows[20] = 2.5
    rows[30] = rows[31] = rows[29]
    rows[40, 1], rows[41, 0] = float("nan"), float("-inf")
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1 << 25, 64])
def test_odd_rows_are_counted(tmp_path, monkeypatch, dtype, at_once):
    """Zero, constant, repeated and non-finite rows, however many hashes are held at a time."""
    monkeypatch.setattr(scan_module, "HASHES_AT_ONCE", at_once)
    monkeypatch.setattr(scan_module, "BYTES_PER_CHUNK", 7 * 16)
    rows = odd_rows().to(dtype)
    found = inspect(save_table(tmp_path / "m.pt", rows), scan=True).tables[0]["scan"]
    finite = rows.float()[torch.isfinite(rows.float()).all(dim=1)]
    norms = np.sort(finite.double().norm(dim=1).numpy())
    counts = [found[name] for name in ("zero_rows", "constant_rows", "duplicate_rows", "nonfinite_rows")]
    assert counts == [3, 1, 4, 2]
    assert found["norm_min"] == 0.0
    assert found["norm_median"] == pytest.approx(norms[len(norms) // 2], rel=1e-6)
    assert found["norm_max"] == pytest.approx(norms[-1], rel=1e-6)


def test_a_table_without_a_finite_row_has_no_norms(tmp_path):
    """None stands where there is nothing to say."""
    found = inspect(save_table(tmp_path / "m.pt", torch.full((3, 2), float("nan"))), scan=True).tables[0]["scan"]
    assert (found["nonfinite_rows"], found["zero_rows"], found["duplicate_rows"]) == (3, 0, 0)
    assert found["norm_min"] is found["norm_median"] is found["norm_max"] is None


def test_without_scan_no_row_is_read(tmp_path, monkeypatch):
    """Plain inspection says nothing of rows, and reads none."""
    path = save_table(tmp_path / "m.pt", odd_rows())
    monkeypatch.setattr(scan_module, "scan_rows", lambda *_: pytest.fail("rows were read"))
    assert "scan" not in inspect(path).tables[0]


def test_progress_counts_the_bytes(tmp_path):
    """The last thing that is told is that all of them were read."""
    told = []
    inspect(save_table(tmp_path / "m.pt", odd_rows()), scan=True, progress=lambda *one: told.append(one))
    assert told[-1] == ("scan rows", 200 * 4 * 4, 200 * 4 * 4)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), column=st.integers(0, 7), bit=st.integers(0, 31))
@example(seed=46, column=1, bit=30)  # a NaN that arithmetic would alter
def test_rows_that_differ_in_one_bit_have_other_hashes(seed, column, bit):
    """Also where it is one of the upper bits alone, as between rows that were once fp16."""
    row = np.random.default_rng(seed).standard_normal((1, 8)).astype(np.float16).astype(np.float32)
    other = row.copy()
    other.view(np.uint32)[0, column] ^= np.uint32(1 << bit)
    assert hash_rows(row) != hash_rows(other)
    assert hash_rows(row) == hash_rows(row.copy())
