"""A store in memory that makes the faults it is told to and counts what it moves."""

from __future__ import annotations

import errno
from pathlib import Path

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Faulty(MemoryFileSystem):
    """A store in memory; each read takes one of `faults`, and `moved` counts bytes."""

    protocol = "faulty"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    faults: list = []  # noqa: RUF012
    moved = 0
    requests = 0

    def cat_file(self, path, start=None, end=None, **options):
        """The range, or the fault that stands first."""
        fault = Faulty.faults.pop(0) if Faulty.faults else None
        Faulty.requests += 1
        if isinstance(fault, Exception):
            raise fault
        content = super().cat_file(path, start=start, end=end, **options)
        if fault == "short":
            return content[:-1]
        if fault == "replaced":
            self.pipe_file(path, bytes(len(self.store[path].getvalue())))
        if fault == "gone":
            self.rm(path)
        Faulty.moved += len(content)
        return content


fsspec.register_implementation("faulty", Faulty)

FAULTS = (OSError(errno.ECONNRESET, "reset"), TimeoutError("late"), EOFError("cut"), "short")


def put(path: Path, url: str = "faulty://bucket/dlrm.pt") -> str:
    """A local file in the store."""
    fsspec.filesystem("faulty").pipe_file(url, path.read_bytes())
    return url
