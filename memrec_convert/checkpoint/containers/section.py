"""A part of a file, read as if it were a file of its own: an archive that lies among others in one file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from memrec_convert.streams import SizedStream


@dataclass(frozen=True)
class Section:
    """`nbytes` bytes of a file from byte `start`."""

    path: Path
    start: int
    nbytes: int

    @classmethod
    def whole(cls, path: Path) -> Section:
        """All of a file."""
        return cls(path, 0, path.stat().st_size)

    def open(self, *, largest_read: int | None = None) -> BinaryIO:
        """A stream over the section alone; its byte 0 is the section's first.

        A read of more than `largest_read` bytes that are there raises LargeReadError.
        """
        window = _Window(self)
        return cast("BinaryIO", io.BufferedReader(window) if largest_read is None else _Wary(window, largest_read))


class LargeReadError(Exception):
    """More was asked for at once than the reader of a section allows."""


class _Wary(io.BufferedReader):
    """A stream for parsers that read as much as a file tells them to."""

    def __init__(self, window: _Window, largest_read: int) -> None:
        super().__init__(window)
        self.window, self.largest_read = window, largest_read

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self.window.section.nbytes - self.tell(), 0)
        if (left if size is None or size < 0 else min(size, left)) > self.largest_read:
            raise LargeReadError
        return super().read(size)


class _Window(SizedStream):
    """The raw stream of a section."""

    def __init__(self, section: Section) -> None:
        super().__init__(section.nbytes)
        self.section = section
        self.file = section.path.open("rb")

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(self.section.nbytes - self.position, 0))
        self.file.seek(self.section.start + self.position)
        content = self.file.read(wanted)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()
