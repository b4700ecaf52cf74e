"""Rows that are stored in another form come out as the network looks them up, whole and in chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memrec_convert.checkpoint.derived_rows import (
    Computed,
    ProjectedRows,
    QuantisedRows,
    QuotientRemainderRows,
    RowRange,
    WeightedRows,
)
from memrec_convert.checkpoint.tensor_ref import TensorRef, contiguous_strides


@pytest.fixture
def store(tmp_path):
    """A function that writes an array as a raw file and returns the reference."""
    count = iter(range(10_000))

    def write(values: np.ndarray) -> TensorRef:
        path: Path = tmp_path / f"{next(count)}.bin"
        path.write_bytes(values.tobytes())
        return TensorRef(path, 0, str(values.dtype), values.shape, contiguous_strides(values.shape))

    return write


def random(*shape: int) -> np.ndarray:
    """Float32 values."""
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(quotients=st.integers(1, 6), remainders=st.integers(1, 5), data=st.data())
def test_quotient_remainder_rows_follow_their_formula(store, quotients, remainders, data):
    """Row i is q[i // c] joined with r[i % c], for every operation and any range of rows."""
    upper, lower = random(quotients, 3), random(remainders, 3)
    rows = quotients * remainders
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start, rows + 1))
    for operation, join in (("mult", np.multiply), ("add", np.add), ("concat", lambda a, b: np.concatenate([a, b]))):
        width = 6 if operation == "concat" else 3
        derived = QuotientRemainderRows((rows, width), (store(upper), store(lower)), operation=operation)
        expected = [join(upper[i // remainders], lower[i % remainders]) for i in range(start, min(stop, rows))]
        np.testing.assert_array_equal(derived.read_rows(start, stop), np.array(expected).reshape(-1, width))
        assert derived.nbytes == upper.nbytes + lower.nbytes


def test_projected_and_weighted_rows_follow_their_formulas(store):
    """Mixed dimensions are multiplied out; a weight per row scales it; both know what is stored."""
    rows, projection, weights = random(9, 2), random(5, 2), random(9)
    projected = ProjectedRows((9, 5), (store(rows), store(projection)))
    np.testing.assert_allclose(projected.read_rows(2, 7), rows[2:7] @ projection.T, rtol=1e-6)
    assert (projected.stored_width, projected.rows, projected.nbytes) == (2, 9, rows.nbytes + projection.nbytes)
    weighted = WeightedRows((9, 2), (store(rows), store(weights)))
    np.testing.assert_array_equal(weighted.read_rows(3, 20), rows[3:] * weights[3:, None])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 9), dim=st.integers(1, 30))
def test_quantised_rows_follow_their_formula(store, rows, dim):
    """int8: code * scale + shift with both as fp16; fp16 and fp32: the values; the filling is not read."""
    generator = np.random.default_rng(rows * dim)
    codes = generator.integers(0, 256, (rows, dim), dtype=np.uint8)
    frame = generator.normal(size=(rows, 2)).astype("<f2")
    filling = np.full((rows, -(4 + dim) % 16), 255, dtype=np.uint8)
    stored = np.concatenate([frame.view(np.uint8), codes, filling], axis=1)
    expected = codes * frame[:, :1].astype(np.float32) + frame[:, 1:].astype(np.float32)
    np.testing.assert_array_equal(QuantisedRows((rows, dim), (store(stored),)).read(), expected)
    for kind, dtype in (("float16", "<f2"), ("float32", "<f4")):
        values = generator.normal(size=(rows, dim)).astype(dtype)
        stored = np.concatenate([values.view(np.uint8), np.full((rows, 5), 255, dtype=np.uint8)], axis=1)
        np.testing.assert_array_equal(QuantisedRows((rows, dim), (store(stored),), kind=kind).read(), values)


def test_a_row_range_is_its_own_rows_and_share(store):
    """A field of a joint table reads its rows alone, and counts its share of the bytes."""
    joint = random(10, 4)
    field = RowRange((3, 4), (store(joint),), start=5)
    np.testing.assert_array_equal(field.read(), joint[5:8])
    np.testing.assert_array_equal(field.read_rows(1, 99), joint[6:8])
    assert field.nbytes == 3 * 16


def test_a_computed_tensor_is_its_formula_in_float64(store):
    """Dense tensors that are folded into one are computed in double precision and rounded once."""
    values = random(4, 3)
    tripled = Computed((4, 3), (store(values), store(values)), formula=lambda a, b: a + 2 * b)
    np.testing.assert_array_equal(tripled.read_rows(1, 3), (3 * values.astype(np.float64))[1:3].astype(np.float32))
    assert tripled.as_tensor().shape == (4, 3)
