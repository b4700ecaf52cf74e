"""A raw stream of known size over bytes that lie elsewhere: a part of a file, or an object of a store."""

from __future__ import annotations

import errno
import io
import os


class SizedStream(io.RawIOBase):
    """Keeps the position; what derives from it reads there in `readinto`, and `size` says where the bytes end."""

    def __init__(self, size: int) -> None:
        self.size, self.position = size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position, which may lie beyond the end; OSError for one before the first byte."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "a place before the first byte")
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        """The position."""
        return self.position
