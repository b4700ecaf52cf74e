"""The reference's sums against Python's own integers and loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.kernels.reference import pool_bags, scale_and_centre, sum_tokens


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.booleans())
def test_token_sums_are_horner_sums(seed: int, stages: int, carried: bool) -> None:
    """acc = (acc << step) + entry per stage, starting from what an earlier sum carries."""
    draw = np.random.default_rng(seed)
    codebook = draw.integers(-128, 128, (12, 3)).astype(np.int8)
    entries = [draw.integers(0, 12, 5) for _ in range(stages)]
    shifts = sorted(draw.integers(0, 8, stages + 1).tolist())
    start = draw.integers(-1000, 1000, (5, 3)) if carried else None
    found = sum_tokens(
        torch.from_numpy(codebook),
        [torch.from_numpy(entry) for entry in entries],
        shifts if carried else [0, *shifts[1:]],
        None if start is None else torch.from_numpy(start).to(torch.int32),
    )
    for n in range(5):
        for d in range(3):
            acc = 0 if start is None else int(start[n, d])
            for stage in range(stages):
                step = shifts[stage + 1] - shifts[stage] if carried or stage else 0
                acc = (acc << step) + int(codebook[entries[stage][n], d])
            assert int(found[n, d]) == acc


def test_product_is_rounded_before_the_centre_is_added() -> None:
    """z is the rounded product plus the centre, in two roundings, never a fused one."""
    acc = torch.arange(-3000, 3000, dtype=torch.int32).unsqueeze(1)
    frame = torch.tensor([0.1, 1e-3], dtype=torch.float32)
    product = np.arange(-3000, 3000).astype(np.float32) * (np.float32(0.1) * np.float32(0.125))
    expected = (product + np.float32(1e-3)).astype(np.float32)
    fused = (product.astype(np.float64) * 0 + np.arange(-3000, 3000) * float(np.float32(0.1)) / 8 + 1e-3).astype(
        np.float32
    )
    assert np.array_equal(scale_and_centre(acc, frame, 3)[:, 0].numpy(), expected)
    assert not np.array_equal(fused, expected)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6), st.booleans(), st.booleans(), st.sampled_from(["sum", "mean"])
)
def test_bags_are_pooled_as_a_loop_pools_them(sizes: list[int], weighted: bool, padded: bool, mode: str) -> None:
    """Sums and means run over the counted rows of each bag; a bag without any is zero."""
    draw = torch.Generator().manual_seed(sum(sizes))
    rows = torch.randn(sum(sizes), 3, generator=draw)
    weights = torch.randn(sum(sizes), generator=draw) if weighted and mode == "sum" else None
    counted = torch.rand(sum(sizes), generator=draw) < 0.6 if padded else None
    offsets = torch.tensor([sum(sizes[:n]) for n in range(len(sizes))])
    found = pool_bags(rows, offsets, weights=weights, mode=mode, counted=counted)
    for bag, (start, size) in enumerate(zip(offsets.tolist(), sizes, strict=True)):
        members = [n for n in range(start, start + size) if counted is None or counted[n]]
        expected = torch.zeros(3)
        for n in members:
            expected = expected + rows[n] * (1.0 if weights is None else weights[n])
        if mode == "mean" and members:
            expected = expected / len(members)
        torch.testing.assert_close(found[bag], expected)
