"""Bytes between ranks, over torch.distributed: never a sum, never a pickle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memrec_convert.conversion.ranks.alive import Watch

SECONDS_BETWEEN_LOOKS = 20e-6, 0.001
"""Between the first two looks whether an exchange is made, and between the last ones: they double in between."""


@dataclass(frozen=True)
class Wire:
    """What this rank sends to all others and receives from them."""

    rank: int
    size: int
    watch: Watch
    group: Any = None

    def gather(self, own: np.ndarray) -> np.ndarray:
        """The arrays of all ranks (one shape and dtype), stacked in their order."""
        import torch.distributed as dist

        mine = torch.from_numpy(own.copy())
        found = [torch.empty_like(mine) for _ in range(self.size)]
        self._wait(lambda: dist.all_gather(found, mine, group=self.group, async_op=True))
        return np.stack([one.numpy() for one in found])

    def add(self, own: np.ndarray) -> np.ndarray:
        """The sum of the integers of all ranks (one shape), whose order does not matter."""
        import torch.distributed as dist

        total = torch.from_numpy(own.astype(np.int64))
        if len(own):
            self._wait(lambda: dist.all_reduce(total, group=self.group, async_op=True))
        return total.numpy()

    def spread(self, owner: int, content: bytes | None, nbytes: int) -> bytes:
        """The owner's content, of so many bytes, at every rank."""
        import torch.distributed as dist

        if not nbytes:
            return b""
        sent: Tensor = torch.empty(nbytes, dtype=torch.uint8)
        if content is not None:
            sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._wait(lambda: dist.broadcast(sent, owner, group=self.group, async_op=True))
        return content if content is not None else sent.numpy().tobytes()

    def gather_texts(self, own: str) -> list[str]:
        """The texts of all ranks."""
        content = own.encode()
        sizes = self.gather(np.array([len(content)], dtype=np.int64))[:, 0]
        return [
            self.spread(rank, content if rank == self.rank else None, int(nbytes)).decode()
            for rank, nbytes in enumerate(sizes)
        ]

    def _wait(self, begin: Any) -> None:  # noqa: ANN401 - torch.distributed's own work
        """Until the exchange is made; RankError where a rank that takes part in it is gone."""
        try:
            work, (pause, longest) = begin(), SECONDS_BETWEEN_LOOKS
            while not work.is_completed():
                self.watch.check()
                time.sleep(pause)
                pause = min(2 * pause, longest)
            work.wait()
        except RuntimeError as error:  # how torch tells of a connection that was closed
            raise self.watch.explain(f"the ranks lost each other: {str(error).splitlines()[0]}") from error
