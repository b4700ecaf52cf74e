"""What stands for a pickled object here: inert data that keeps names, arguments and state, and never runs anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from memrec_convert.checkpoint.tensor_ref import DTYPES, Array, TensorRef, itemsize, span_of

LARGEST_SIZE = 2**63 - 1
_MOST_DIMENSIONS = 16
_MOST_REPEATED = 2**24
_WIDEST_SHOWN_BITS = 256

UNREADABLE_ITEM_BYTES = {"complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4}
"""Element sizes of storages whose length can be checked, though their tensors are not read."""


class MalformedPickle(ValueError):
    """A pickle that says something impossible: a clause, which the reader completes with file and place."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function that a pickle refers to. Nothing is imported for it."""

    module: str
    name: str

    @property
    def qualified(self) -> str:
        """Module and name joined by a dot."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Placeholder:
    """An object of a class that is not on the allowlist: its class's name, arguments, state and items, all inert."""

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    items: list[object] = field(default_factory=list)


@dataclass(frozen=True)
class Storage:
    """A run of `length` elements at byte `offset` of a file; tensors are views of it."""

    path: Path
    offset: int
    dtype: str
    length: int
    key: str

    @property
    def nbytes(self) -> int:
        """Bytes that it must occupy."""
        return self.length * storage_itemsize(self.dtype)

    def retyped(self, dtype: str) -> Storage:
        """The same bytes as elements of another dtype (for untyped storages)."""
        return Storage(self.path, self.offset, dtype, self.nbytes // storage_itemsize(dtype), self.key)


@dataclass(eq=False)
class NumpyDtype:
    """A numpy dtype of booleans, integers or floats; `code` as in "f8"."""

    code: str
    order: str = "<"

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The real dtype, for reading bytes."""
        return np.dtype(self.code if self.code[-1] == "1" else ("<" if self.order == "=" else self.order) + self.code)


@dataclass(eq=False)
class NumpyArray:
    """A small numpy array that lay inside the pickle; `values` is filled by its state."""

    values: Array | None = None


def storage_itemsize(dtype: str) -> int:
    """Bytes of one element of a storage's dtype, readable or not."""
    return itemsize(dtype) if dtype in DTYPES else UNREADABLE_ITEM_BYTES[dtype]


def check_sizes(values: object, what: str) -> tuple[int, ...]:
    """A tuple of sizes from 0 to 2^63 - 1; MalformedPickle where it is anything else."""
    if not isinstance(values, (tuple, list)) or len(values) > _MOST_DIMENSIONS:
        raise MalformedPickle(f"a tensor's {what} is not a list of at most {_MOST_DIMENSIONS} sizes")
    for value in values:
        if type(value) is not int or not 0 <= value <= LARGEST_SIZE:
            raise MalformedPickle(f"a tensor's {what} holds something other than a size from 0 to 2^63 - 1")
    return tuple(values)


def view_storage(storage: Storage, offset: object, shape: object, strides: object) -> TensorRef:
    """A tensor as a view of its storage (`offset` in elements), checked to lie inside it."""
    sizes, steps = check_sizes(shape, "shape"), check_sizes(strides, "strides")
    (start,) = check_sizes((offset,), "offset")
    if len(sizes) != len(steps):
        raise MalformedPickle(f"a tensor has {len(sizes)} sizes and {len(steps)} strides")
    elements = 1
    for size in sizes:
        elements *= size
        if elements > LARGEST_SIZE // storage_itemsize(storage.dtype):
            raise MalformedPickle("a tensor's sizes multiply past 2^63 bytes")
    span = span_of(sizes, steps)
    if span and start + span > storage.length:
        raise MalformedPickle(
            f"a tensor of shape {sizes} reaches to element {start + span} of storage {printable(storage.key)!r}, "
            f"which has {storage.length}"
        )
    if elements > storage.length and elements > _MOST_REPEATED:
        raise MalformedPickle(
            f"a tensor of shape {sizes} has more elements than storage {printable(storage.key)!r}, which holds "
            f"{storage.length} and would be repeated"
        )
    return TensorRef(storage.path, storage.offset + start * itemsize(storage.dtype), storage.dtype, sizes, steps)


def printable(text: object, *, limit: int = 80) -> str:
    """Text from a file made safe for one line of a terminal: `?` for what is not printable, cut at `limit`."""
    if not isinstance(text, (str, int, float)) or (isinstance(text, int) and text.bit_length() > _WIDEST_SHOWN_BITS):
        text = type(text).__name__  # nested values may be as deep, or shown as long, as the file wishes
    plain = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: limit + 1])
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."
