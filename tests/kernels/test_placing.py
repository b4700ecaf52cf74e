"""Which level each id goes to at a price: the extension against numpy, to the bit."""

import numpy as np
import pytest

from memrec_convert.kernels import placing
from memrec_convert.kernels.placing import place_ids


def place(losses, priced, opened):
    """The kinds and the sums."""
    kinds = np.full(losses.shape[1], 99, dtype=np.int8)
    with np.errstate(invalid="ignore", over="ignore"):
        return kinds, place_ids(losses, np.array(priced, np.float32), np.array(opened, np.int64), kinds)


def make_losses(draw, levels, ids, case):
    """Losses of any size, of some cases with ties, with what overflowed, with what is no number."""
    losses = np.abs(draw.standard_normal((levels + 1, ids + 5))).astype(np.float32)
    if case % 3 == 0:
        losses = np.round(losses * 4) / 4
    if case % 4 == 0:
        losses[draw.random(losses.shape) < 0.05] = np.inf
    if case % 5 == 0:
        losses[draw.random(losses.shape) < 0.05] = np.nan
    return losses[:, 2 : ids + 2]  # a part of wider rows


@pytest.mark.parametrize("case", range(12))
@pytest.mark.parametrize("ids", [0, 1, 1023, 1025, 16_384, 16_385, 40_000])
def test_the_extension_and_numpy_agree(native, ids, case, monkeypatch):
    """For any number of levels, all or some of them open."""
    draw = np.random.default_rng(100 * ids + case)
    for levels in (0, 1, 2, 6):
        losses = make_losses(draw, levels, ids, case)
        priced, opened = draw.random(levels), np.flatnonzero(draw.random(levels) < 0.7)
        found = place(losses, priced, opened)
        with monkeypatch.context() as patch:
            patch.setattr(placing, "load_kernel", lambda: None)
            expected = place(losses, priced, opened)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_what_the_sums_say():
    """By hand: two ids in the base, one in each of two levels, one of a tie in the earlier one."""
    losses = np.array([[1, 2, 9, 8, 5], [1, 1, 2, 7, 3], [0, 2, 1, 0, 2]], dtype=np.float32)
    kinds, (counts, lost, gained, spare) = place(losses, [1, 2], [0, 1])
    assert kinds.tolist() == [0, 0, 1, 2, 1]  # 1 2 2 | 2 2 4 | 9 3 3 | 8 8 2 | 5 4 4
    assert counts.tolist() == [2, 2, 1]
    assert lost.tolist() == [3, 5, 0]
    assert gained.tolist() == [0, 7, 6]
    assert spare.tolist() == [1, 0, 6]
    assert place(losses, [1, 2], [1])[0].tolist() == [0, 0, 2, 2, 2]
