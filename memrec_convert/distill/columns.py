"""One number per row of a table, in memory or, where tables are large, in a file that no name leads to.

A file of tens of millions of rows has a gigabyte of such numbers. What lies in a scratch file is read and written in
slices with plain file calls, so it costs disk and page cache, and no memory of the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from memrec_convert.errors import OutputError

MEMORY_BYTES = 64 << 20
"""Columns are held in memory until they take this much together; those that come after go to scratch files."""

ROWS_PER_SLICE = 1 << 20
"""Rows that passes over columns alone take at a time."""


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


class ScratchColumn:
    """An array [rows] or [rows, width] in a file: only whole slices of rows are read and written."""

    def __init__(self, stream: BinaryIO, rows: int, dtype: np.dtype[Any], width: int = 0) -> None:
        self.stream, self.dtype = stream, dtype
        self.shape: tuple[int, ...] = (rows, width) if width else (rows,)
        self.row_bytes = dtype.itemsize * (width or 1)

    def __del__(self) -> None:
        self.stream.close()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        found: np.ndarray = np.zeros((max(stop - start, 0), *self.shape[1:]), dtype=self.dtype)
        view, position = as_bytes(found), start * self.row_bytes
        while view:
            got = os.preadv(self.stream.fileno(), [view], position)
            if not got:  # beyond what was written, where the array is zero
                break
            view, position = view[got:], position + got
        return found

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        start, stop, _ = rows.indices(len(self))
        wanted = np.broadcast_to(np.asarray(values, dtype=self.dtype), (max(stop - start, 0), *self.shape[1:]))
        view = as_bytes(np.ascontiguousarray(wanted))
        position = start * self.row_bytes
        try:
            while view:
                put = os.pwrite(self.stream.fileno(), view, position)
                view, position = view[put:], position + put
        except OSError as error:
            raise OutputError(
                f"cannot write {len(view)} bytes of intermediate results: {error.strerror or error}; free some space "
                "there, or name another folder with --work or TMPDIR."
            ) from error


Column: TypeAlias = Any
"""An np.ndarray or a ScratchColumn. They share len, dtype, and slices of rows that can be read and written."""


class Scratch:
    """Hands out columns, zero at first: the first MEMORY_BYTES of them in memory, the others in unnamed files."""

    def __init__(self, folder: Path | None = None, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self.folder, self.left, self.lock = folder, memory_bytes, Lock()

    def column(self, rows: int, dtype: Any, *, width: int = 0) -> Column:  # noqa: ANN401 - numpy's DTypeLike
        """A column of zeros; OutputError where its file cannot be made."""
        kind = np.dtype(dtype)
        nbytes = rows * kind.itemsize * (width or 1)
        with self.lock:
            fits = nbytes <= self.left
            self.left -= nbytes if fits else 0
        if fits:
            return np.zeros((rows, width) if width else rows, dtype=kind)
        try:
            # Without a name from its first moment on, or removed at once: nothing is left by any way to end.
            stream = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 - lives as long as its column
        except OSError as error:
            raise OutputError(
                f"cannot make a file for intermediate results in {self.folder or tempfile.gettempdir()}: "
                f"{error.strerror or error}; name another folder with --work or TMPDIR."
            ) from error
        return ScratchColumn(stream, rows, kind, width)


class Memory(Scratch):
    """Hands out arrays in memory, whatever their size: for small tables and for tests."""

    def column(self, rows: int, dtype: Any, *, width: int = 0) -> np.ndarray:  # noqa: ANN401 - numpy's DTypeLike
        """An array of zeros."""
        return np.zeros((rows, width) if width else rows, dtype=np.dtype(dtype))


IN_MEMORY = Memory()


def slices(rows: int, *, step: int = ROWS_PER_SLICE) -> Iterator[slice]:
    """The rows in slices of `step`."""
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def gather(column: Column, numbers: np.ndarray) -> np.ndarray:
    """The entries of these rising row numbers (int64 [n])."""
    if isinstance(column, np.ndarray):
        found: np.ndarray = column[numbers]
        return found
    parts: list[np.ndarray] = [column[slice(0, 0)]]
    for rows in slices(len(column)):
        low, high = np.searchsorted(numbers, [rows.start, rows.stop])
        if high > low:
            parts.append(column[rows][numbers[low:high] - rows.start])
    return np.concatenate(parts)
