"""What the original answers to the samples of a training log: found in one pass, kept by where a sample stands."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from memrec_convert.clicklog import Batch, split_places


class Answers:
    """The original's logits for all samples of a log, empty until a pass over it in its order has found them.

    Each number is that of the batch that the pass had it in: the last bits of a product depend on the batch around it.
    """

    def __init__(self) -> None:
        self._logits = np.zeros(0, dtype=np.float32)
        self._starts = np.zeros(0, dtype=np.int64)

    def __bool__(self) -> bool:
        return len(self._logits) > 0

    def of(self, batch: Batch) -> Tensor:
        """The logits of a batch's samples, in whatever order they come, float32 [B]."""
        assert batch.places is not None
        units, rows = split_places(batch.places.numpy())
        return torch.from_numpy(self._logits[self._starts[units] + rows])

    def keep(self, found: PassOver, *, limit: int) -> None:
        """Takes what a pass has found; nothing where it came to its limit of samples, and may have missed some."""
        if found.samples >= limit:
            return
        self._logits, self._starts = found.join()


class PassOver:
    """The answers that a pass over a log has found so far."""

    def __init__(self) -> None:
        self._logits: list[np.ndarray] = []
        self._starts: list[int] = []
        self.samples = 0

    def add(self, batch: Batch, logits: Tensor) -> None:
        """The next batch in the log's order, and its logits [B]."""
        assert batch.places is not None
        units, rows = split_places(batch.places.numpy())
        for first in np.flatnonzero(rows == 0):
            self._starts += [-1] * (int(units[first]) - len(self._starts))  # units without rows
            self._starts.append(self.samples + int(first))
        self._logits.append(logits.detach().reshape(-1).to(torch.float32).numpy())
        self.samples += batch.rows

    def join(self) -> tuple[np.ndarray, np.ndarray]:
        """All logits float32 [samples], and where those of each part of the log begin, int64 [parts]."""
        return np.concatenate(self._logits), np.array(self._starts, dtype=np.int64)
