"""The level of each id at a price; the sums that go with it have the same bits with and without the extension."""

from __future__ import annotations

import numpy as np

from memrec_convert.kernels.loading import load_kernel

_IDS_IN_CACHE = 1 << 14
"""Ids of which a processor's own cache holds all losses: sums are of so many ids, and then of these sums."""


def place_ids(losses: np.ndarray, priced: np.ndarray, open_levels: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Fills `kinds` (int8 [ids]) with the open level of least loss plus 1, 0 for the base; ties go to the earlier one.

    losses float32 [1 + levels, ids], the base first, each row contiguous; priced float32 [levels] is added to those of
    the levels; open_levels int64 are the numbers of those that may be taken, rising. Returns float64 [4, 1 + levels]:
    per kind how many ids there are, what they lose without the prices, what they gain over the base, and what they
    would lose more in the next best open level.
    """
    sums, native = np.zeros((4, len(losses))), load_kernel()
    if native is None:
        for first in range(0, losses.shape[1], _IDS_IN_CACHE):
            part = slice(first, first + _IDS_IN_CACHE)
            sums += _place_part(losses[:, part], priced, open_levels, kinds[part])
        return sums
    native.place_ids(
        losses.ctypes.data,
        losses.strides[0] // 4,
        losses.shape[1],
        len(losses),
        priced.ctypes.data,
        open_levels.ctypes.data,
        len(open_levels),
        kinds.ctypes.data,
        sums.ctypes.data,
    )
    return sums


def _place_part(losses: np.ndarray, priced: np.ndarray, open_levels: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    base = losses[0]
    lost, best, second = base.copy(), base.copy(), np.full(len(base), np.inf, dtype=np.float32)
    kinds[:] = 0
    for number in open_levels:
        own = losses[number + 1] + priced[number]
        better = own < best
        np.minimum(second, np.maximum(best, own), out=second)
        np.minimum(best, own, out=best)
        np.maximum(kinds, better.view(np.int8) * np.int8(number + 1), out=kinds)
        np.putmask(lost, better, losses[number + 1])
    kind, least = kinds.astype(np.intp), len(losses)
    sums = (np.bincount(kind, values, minlength=least) for values in (lost, base - best, second - best))
    return np.stack([np.bincount(kind, minlength=least).astype(np.float64), *sums])
