"""memrec.h as ctypes sees it: the structs once more, and numpy arrays in and out."""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from c_contender import Lookup

STATUSES = (
    "OK",
    "BAD_ARGUMENT",
    "NO_FILE",
    "NOT_AN_ARTIFACT",
    "DAMAGED",
    "NEWER_FORMAT",
    "UNSUPPORTED",
    "NO_MEMORY",
    "BAD_ID",
    "BAD_OFFSET",
    "BAD_WEIGHT",
    "INTERNAL",
)
OUTSIDE = {"stored": -1, "error": 0, "clip": 1, "hash": 2, "zero": 3}


class Error(c.Structure):
    _fields_ = [("status", c.c_int), ("lookup", c.c_int32), ("position", c.c_int64), ("text", c.c_char * 500)]


class Options(c.Structure):
    _fields_ = [("flags", c.c_uint32), ("instruction_set", c.c_char_p)]


class TableFacts(c.Structure):
    _fields_ = [
        ("path", c.c_char_p),
        ("name", c.c_char_p),
        ("rows", c.c_int64),
        ("bytes", c.c_int64),
        ("padding_id", c.c_int64),
        ("dim", c.c_int32),
        ("outside", c.c_int),
        ("pooling", c.c_int),
    ]


class Refused(Exception):
    """A status other than MEMREC_OK."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.text.decode("ascii"))
        self.status, self.lookup, self.position = STATUSES[error.status], error.lookup, error.position


@dataclass(frozen=True)
class Input:
    """The ids of one table; `out` is made where none is given."""

    table: int
    ids: np.ndarray
    offsets: np.ndarray | None = None
    weights: np.ndarray | None = None
    outside: str = "stored"


class Library:
    """libmemrec."""

    def __init__(self, path: str) -> None:
        self.native = c.CDLL(path)
        for name in ("open", "open_buffer", "verify", "get_table", "look_up", "make_pool"):
            getattr(self.native, f"memrec_{name}").restype = c.c_int
        self.native.memrec_version.restype = self.native.memrec_instruction_set.restype = c.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        """Calls a function whose last argument is the error; Refused where there is one."""
        error = Error()
        status = getattr(self.native, f"memrec_{name}")(*arguments, c.byref(error))
        if status:
            assert status == error.status
            raise Refused(error)

    def instruction_sets(self) -> list[str]:
        """What the library has on this machine, best first."""
        found: list[str] = []
        while (name := self.native.memrec_instruction_set(len(found))) is not None:
            found.append(name.decode())
        return found

    @contextmanager
    def open(
        self, source: Path | bytes, *, flags: int = 0, instruction_set: str | None = None
    ) -> Iterator[OpenArtifact]:
        """An artifact of a file, or of bytes in memory that end where a page ends nowhere near."""
        handle = c.c_void_p()
        options = Options(flags, None if instruction_set is None else instruction_set.encode())
        if isinstance(source, bytes):
            self.call("open_buffer", source, c.c_size_t(len(source)), c.byref(options), c.byref(handle))
        else:
            self.call("open", str(source).encode(), c.byref(options), c.byref(handle))
        try:
            yield OpenArtifact(self, handle)
        finally:
            self.native.memrec_close(handle)

    @contextmanager
    def pool(self, threads: int) -> Iterator[c.c_void_p]:
        """A pool of threads."""
        handle = c.c_void_p()
        self.call("make_pool", c.c_int32(threads), c.byref(handle))
        try:
            yield handle
        finally:
            self.native.memrec_free_pool(handle)


class OpenArtifact:
    """An open artifact."""

    def __init__(self, library: Library, handle: c.c_void_p) -> None:
        self.library, self.handle = library, handle

    def verify(self) -> None:
        """Refused where something is wrong."""
        self.library.call("verify", self.handle)

    def find(self, path: str) -> int:
        """A table's number."""
        return int(self.library.native.memrec_find_table(self.handle, path.encode()))

    def tables(self) -> list[TableFacts]:
        """Facts of all tables, in order."""
        found = []
        for number in range(self.library.native.memrec_count_tables(self.handle)):
            found.append(TableFacts())
            self.library.call("get_table", self.handle, c.c_int32(number), c.byref(found[-1]))
        return found

    def look_up(self, inputs: Sequence[Input], bags: int, pool: c.c_void_p | None = None) -> list[np.ndarray]:
        """Vectors float32 [bags, dim] per input."""
        facts = self.tables()
        dims = [facts[one.table].dim if one.table < len(facts) else 1 for one in inputs]
        out = [np.full((bags, dim), np.float32(7)) for dim in dims]
        made = (Lookup * len(inputs))(*(fill(one, into) for one, into in zip(inputs, out, strict=True)))
        try:
            self.library.call("look_up", self.handle, made, c.c_int64(len(inputs)), c.c_int64(bags), pool)
        except Refused:
            assert all((one == 7).all() for one in out)  # nothing is written
            raise
        return out


def fill(one: Input, out: np.ndarray) -> Lookup:
    """The struct for an input whose vectors go to `out`, rows one behind the other."""
    bits = {np.dtype(np.int32): 32, np.dtype(np.int64): 64}
    return Lookup(
        table=one.table,
        outside=OUTSIDE[one.outside],
        id_bits=bits[one.ids.dtype],
        offset_bits=0 if one.offsets is None else bits[one.offsets.dtype],
        ids=one.ids.ctypes.data,
        id_stride=one.ids.strides[0] // one.ids.itemsize if len(one.ids) > 1 else 1,
        id_count=len(one.ids),
        offsets=None if one.offsets is None else one.offsets.ctypes.data,
        weights=None if one.weights is None else one.weights.ctypes.data,
        out=out.ctypes.data,
    )
