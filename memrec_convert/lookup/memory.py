"""Memory that lookups are fast in: large pages for tables and outputs, and outputs that are used again.

With pages of 4 KB, every row that is written or read at random costs a walk through the page tables; and memory that
goes back to the system after every batch is cleared by it, page by page, for the next.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor, nn

LARGE_PAGE_BYTES = 2 << 20
LINE_BYTES = 64
LEAST_POOLED_BYTES = 1 << 20
"""Smaller outputs come from torch's own allocator."""
MOST_IDLE_BLOCKS = 2
"""Outputs no longer in use that are kept for the next calls, in all."""


class OutputPool:
    """Gives out float32 tensors whose memory comes back when the last tensor on it is gone."""

    def __init__(self) -> None:
        self._idle: deque[mmap.mmap] = deque()

    def take(self, *shape: int) -> Tensor:
        """An uninitialised float32 tensor of this shape; a large one starts on a large page's boundary."""
        nbytes = 4 * prod(shape)
        if nbytes < LEAST_POOLED_BYTES:
            return torch.empty(shape, dtype=torch.float32)
        block = self._find(nbytes + LARGE_PAGE_BYTES)
        view = memoryview(block)
        weakref.finalize(view, self._take_back, block)  # torch holds the view as long as any tensor on it lives
        memory = torch.frombuffer(view, dtype=torch.uint8)
        start = -memory.data_ptr() % LARGE_PAGE_BYTES
        return memory[start : start + nbytes].view(torch.float32).view(shape)

    def idle_bytes(self) -> int:
        """Bytes of the blocks that nobody uses at the moment."""
        return sum(len(block) for block in tuple(self._idle))

    def _find(self, nbytes: int) -> mmap.mmap:
        """An idle block of at least `nbytes` and at most twice that, or a new one. A deque's own steps are atomic."""
        for _ in range(len(self._idle)):
            try:
                block = self._idle.popleft()
            except IndexError:  # another thread took the last one
                break
            if nbytes <= len(block) <= 2 * nbytes:
                return block
            self._take_back(block)
        return _map_memory(nbytes)

    def _take_back(self, block: mmap.mmap) -> None:
        self._idle.append(block)
        if len(self._idle) > MOST_IDLE_BLOCKS:
            self._idle.popleft()


OUTPUTS = OutputPool()


def settle(modules: Iterable[nn.Module]) -> None:
    """Moves the buffers of these modules next to each other into large pages; their numbers stay as they are.

    A buffer that several names or modules share is moved once for each.
    """
    places: list[tuple[nn.Module, str, Tensor]] = []
    for module in modules:
        places += [(module, name, buffer) for name, buffer in module.named_buffers(recurse=False)]
    buffers = [buffer for _, _, buffer in places]
    if sum(map(_padded, buffers)) < LARGE_PAGE_BYTES or any(not buffer.is_cpu for buffer in buffers):
        return
    for (module, name, buffer), moved in zip(places, copy_side_by_side(buffers), strict=True):
        if buffer.numel():
            setattr(module, name, moved)


def copy_side_by_side(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of CPU tensors in one piece of memory, in large pages if they fill one, each from a cache line on."""
    total = sum(map(_padded, tensors))
    if total < LARGE_PAGE_BYTES:  # a whole large page would be taken for it
        memory = torch.empty(total + LINE_BYTES, dtype=torch.uint8)
        position = -memory.data_ptr() % LINE_BYTES
    else:
        memory = torch.frombuffer(_map_memory(total + LARGE_PAGE_BYTES), dtype=torch.uint8)
        position = -memory.data_ptr() % LARGE_PAGE_BYTES
    copies = []
    for tensor in tensors:
        end = position + tensor.numel() * tensor.element_size()
        copies.append(memory[position:end].view(tensor.dtype).view(tensor.shape).copy_(tensor))
        position += _padded(tensor)
    return copies


def _padded(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // LINE_BYTES) * LINE_BYTES


def _map_memory(nbytes: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, nbytes)
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block
