"""Bytes of files: pieces read in one call, and CRC-32 sums. Without torch; in plain Python where no kernel is built."""

from __future__ import annotations

import functools
import os
import zlib
from importlib import import_module
from typing import Any

import numpy as np


@functools.cache
def _find_native() -> Any | None:  # noqa: ANN401 - the extension module
    """The extension, or None. It is the same whichever instruction set is chosen: nothing here is rounded."""
    try:
        return import_module("memrec_convert.kernels._native")
    except ImportError:
        return None


def read_pieces(file: int, positions: np.ndarray, out: np.ndarray) -> int:
    """Reads a row of `out` (contiguous, [n, ...]) from each byte position (int64 [n]) of an open file.

    Returns how many rows were read whole before the first that the file ends in; OSError where one cannot be read.
    """
    if not out.flags.c_contiguous:
        raise ValueError("pieces are read into a contiguous array")
    native, width = _find_native(), out[:1].nbytes
    places = np.ascontiguousarray(positions, dtype=np.int64)
    if native is not None:
        found: int = native.read_pieces(file, places.ctypes.data, len(places), width, out.ctypes.data)
        return found
    for number, position in enumerate(places.tolist()):
        if os.preadv(file, [out[number].data], position) != width:
            return number
    return len(places)


def sum_crc32(data: np.ndarray, before: int = 0) -> int:
    """The CRC-32 of bytes (uint8 [n]) that follow others with the CRC-32 `before`."""
    native, data = _find_native(), np.ascontiguousarray(data)
    found = None if native is None else native.sum_crc32(data.ctypes.data, data.nbytes, before)
    return zlib.crc32(data.data, before) if found is None else found
