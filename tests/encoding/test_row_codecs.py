"""Row codecs: what is exact is exact, and int8 is as near as it promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from memrec_convert.encoding.codecs import BF16, CODECS, FP32, INT8

LARGEST = 127 * 65504.0


def draw_rows(seed: int, exponent: float, *, rows: int = 20, dim: int = 7) -> Tensor:
    """Normal rows scaled by a power of ten."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent


def roundtrip(name: str, rows: Tensor) -> Tensor:
    """Rows encoded and decoded in order."""
    return CODECS[name].decode(CODECS[name].encode(rows), torch.arange(len(rows)), rows.shape[1])


@pytest.mark.parametrize("name", CODECS)
def test_parts_are_as_announced(name: str) -> None:
    """A codec's parts have the dtypes and shapes that it announces, for no rows too."""
    for count in (0, 1, 5):
        parts = CODECS[name].encode(torch.randn(count, 3))
        assert {part: (t.dtype, tuple(t.shape)) for part, t in parts.items()} == CODECS[name].parts(count, 3)
    assert CODECS[name].name == name


@pytest.mark.parametrize("name", CODECS)
def test_rows_are_picked_by_number(name: str) -> None:
    """Decoding takes any numbers in any order, repeated or none, and gives float32."""
    rows = draw_rows(1, 0)
    parts, numbers = CODECS[name].encode(rows), torch.tensor([3, 0, 3, 19])
    assert torch.equal(CODECS[name].decode(parts, numbers, 7), roundtrip(name, rows)[numbers])
    empty = CODECS[name].decode(parts, numbers[:0], 7)
    assert (empty.shape, empty.dtype) == ((0, 7), torch.float32)


def test_floats_are_exact() -> None:
    """fp32 keeps every bit, the smallest and largest numbers included; bf16 keeps every bf16 number."""
    rows = torch.cat([draw_rows(2, 0), torch.tensor([[1e-45, 3.4e38, -0.0, 0.0, 1e-38, -3.4e38, 1.0]])])
    assert torch.equal(roundtrip("fp32", rows).view(torch.int32), rows.view(torch.int32))
    coarse = rows.to(torch.bfloat16).to(torch.float32)
    assert torch.equal(roundtrip("bf16", coarse).view(torch.int32), coarse.view(torch.int32))
    assert FP32.parts(2, 3)["rows"][0] == torch.float32
    assert BF16.parts(2, 3)["rows"][0] == torch.bfloat16


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(-1, 1))
def test_bf16_is_as_near_as_eight_bits(seed: int, exponent: float) -> None:
    """A bf16 row is within 2**-8 of each value, relative to it: rounded, not cut."""
    rows = draw_rows(seed, exponent)
    assert bool(((roundtrip("bf16", rows) - rows).abs() <= rows.abs() * 2.0**-8).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(-9, 6))
@example(0, -6.0)
@example(0, -4.0)
@example(0, -3.0)
def test_int8_is_within_half_a_scale(seed: int, exponent: float) -> None:
    """Each value is off by at most half the stored scale, however small the rows are."""
    rows = draw_rows(seed, exponent)
    parts = INT8.encode(rows)
    scale = parts["scale"].to(torch.float64).unsqueeze(1)
    error = (roundtrip("int8", rows).to(torch.float64) - rows.to(torch.float64)).abs()
    slack = 1e-6 * rows.abs().amax(dim=1, keepdim=True)
    assert bool((error <= torch.clamp(scale / 2, min=2.0**-25) + slack).all())
    assert int(parts["rows"].min()) >= -127


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(-1.5, 5))
def test_int8_spends_its_range(seed: int, exponent: float) -> None:
    """The largest value of a row of usual size takes code 127, so no bit of the range is wasted."""
    assert bool((INT8.encode(draw_rows(seed, exponent))["rows"].abs().amax(dim=1) >= 126).all())


def test_int8_of_zero_tiny_and_huge_rows() -> None:
    """Zeros stay zeros, rows below half the smallest scale become zeros, values beyond the largest become it."""
    rows = torch.tensor([[0.0, -0.0], [1e-8, -2e-8], [3e-8, 6e-8], [1e9, -1.0], [-3e38, 3e38], [LARGEST, 0.0]])
    found = roundtrip("int8", rows)
    assert torch.equal(found[:2], torch.zeros(2, 2))
    assert torch.equal(found[2], torch.tensor([2.0**-24, 2.0**-24]))
    assert torch.equal(found[3:], torch.tensor([[LARGEST, 0.0], [-LARGEST, LARGEST], [LARGEST, 0.0]]))
    assert bool(torch.isfinite(INT8.encode(rows)["scale"]).all())
