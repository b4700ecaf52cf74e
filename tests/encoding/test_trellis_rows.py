"""Trellis rows: the page's own example, the best path of all, and errors that no rounding to as many bits reaches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.encoding.codecs import FINE_CODECS, TRELLIS
from memrec_convert.encoding.codecs.trellis import TrellisRows, scale_values

BEST_ROUNDING = {1: 0.603, 2: 0.343, 3: 0.186, 4: 0.0975, 5: 0.0500, 6: 0.0254}
"""Relative error of the best scalar quantiser of Gaussian values (Max, "Quantizing for minimum distortion", 1960)."""


def roundtrip(codec: TrellisRows, rows: torch.Tensor) -> torch.Tensor:
    """Rows encoded and decoded in order."""
    return codec.decode(codec.encode(rows), torch.arange(len(rows)), rows.shape[1])


def test_the_example_of_the_page() -> None:
    """Section 4.1's bytes are section 4.1's row."""
    parts = {"rows": torch.tensor([[0x05, 0x0C]], dtype=torch.uint8), "scale": torch.tensor([176], dtype=torch.uint8)}
    row = TrellisRows(2).decode(parts, torch.tensor([0]), 4)[0].tolist()
    assert row == [-0.427734375, -0.427734375, 1.544921875, 0.126953125]


@pytest.mark.parametrize("codec", TRELLIS, ids=FINE_CODECS)
@pytest.mark.parametrize("dim", [64, 128])
def test_gaussian_rows_lose_less_than_any_rounding_leaves(codec: TrellisRows, dim: int) -> None:
    """With its byte of scale a row is nearer than the best levels without one: by 4 % at 1 bit, by 17 % from 3."""
    rows = torch.randn(400, dim, generator=torch.Generator().manual_seed(1))
    error = float(((roundtrip(codec, rows) - rows).square().sum() / rows.square().sum()).sqrt())
    assert error < BEST_ROUNDING[codec.bits] * {1: 0.96, 2: 0.88}.get(codec.bits, 0.83)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from(TRELLIS[:2]))
def test_no_path_is_better(seed: int, codec: TrellisRows) -> None:
    """Of all bits that a short row could have at its scale, none decodes to a nearer row."""
    row = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    parts = codec.encode(row)
    planes = torch.tensor(list(itertools.product(range(64), repeat=codec.bits)), dtype=torch.uint8)
    every = {"rows": planes, "scale": parts["scale"].expand(len(planes))}
    distances = (codec.decode(every, torch.arange(len(planes)), 6) - row).square().sum(dim=1)
    own = (codec.decode(parts, torch.tensor([0]), 6) - row).square().sum()
    assert float(own) == pytest.approx(float(distances.min()), rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(-8, 6), st.sampled_from(TRELLIS))
def test_powers_of_two_change_the_scale_alone(seed: int, power: int, codec: TrellisRows) -> None:
    """Rows twice as large have the same bits and twice the scale, so small rows lose no more than large ones."""
    rows = torch.randn(3, 11, generator=torch.Generator().manual_seed(seed))
    parts, scaled = codec.encode(rows), codec.encode(rows * 2.0**power)
    assert torch.equal(parts["rows"], scaled["rows"])
    assert torch.equal(scale_values(parts["scale"]) * 2.0**power, scale_values(scaled["scale"]))


@pytest.mark.parametrize("codec", TRELLIS, ids=FINE_CODECS)
def test_zero_tiny_and_huge_rows(codec: TrellisRows) -> None:
    """A zero row stays zero; what no scale reaches becomes the least or the largest that one does, and never NaN."""
    rows = torch.tensor([[0.0, -0.0, 0.0], [1e-30, 0.0, -1e-30], [3e38, -3e38, 1.0], [1e4, -1e4, 2e4]])
    found = roundtrip(codec, rows)
    assert torch.equal(found[0], torch.zeros(3))
    assert float(found[1].abs().max()) < 2.0**-20
    assert bool(torch.isfinite(found).all())
    assert bool((found[2:].abs().amax(dim=1) > 900).all())


def test_scales_rise_by_an_eighth_of_an_octave() -> None:
    """Number 0 is 0; the others rise, each by at most 12.5 %."""
    values = scale_values(torch.arange(256)).numpy()
    assert values[0] == 0
    assert values[176] == 1
    steps = values[2:] / values[1:-1]
    assert bool(np.all((steps > 1.06) & (steps <= 1.1251)))
