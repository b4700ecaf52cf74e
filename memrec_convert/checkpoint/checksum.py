"""CRC-32 checksums that a checkpoint states, compared with its bytes a part at a time, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.errors import CheckpointError
from memrec_convert.kernels.files import sum_crc32

PART_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 18
_POLYNOMIAL = 0xEDB88320
_EIGHT = 1 << 23
"""The polynomial x**8, of a byte of zeros: CRC-32 writes the highest power, x**31, into the lowest bit."""


@dataclass(frozen=True)
class Part:
    """`nbytes` bytes of a file from byte `offset`."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Checksum:
    """What a file says of some of its bytes: that those of `part`, called `name`, have the CRC-32 `crc`."""

    part: Part
    name: str
    crc: int

    def parts(self) -> list[Part]:
        """The bytes in parts of at most PART_BYTES, in order."""
        path, start, stop = self.part.path, self.part.offset, self.part.offset + self.part.nbytes
        return [Part(path, one, min(PART_BYTES, stop - one)) for one in range(start, stop, PART_BYTES)]

    def compare(self, found: list[int | None]) -> None:
        """CheckpointError unless the CRC-32 of all parts together is the one that is stated; None: a part was short."""
        total, known = 0, [one for one in found if one is not None]
        for crc, part in zip(known, self.parts(), strict=False):
            total = _join(total, crc, part.nbytes)
        if len(known) < len(found) or total != self.crc:
            raise CheckpointError(
                f"{self.part.path} > {printable(self.name)}: the bytes do not match the archive's checksum (CRC-32); "
                "it was damaged after it was written: download or copy it again."
            )

    def verify(self) -> None:
        """Reads all of it and compares."""
        self.compare([sum_part(part) for part in self.parts()])


def sum_part(part: Part) -> int | None:
    """The CRC-32 of a part; None where the file ends before it."""
    left, crc, chunk = part.nbytes, 0, np.empty(_CHUNK_BYTES, dtype=np.uint8)
    with part.path.open("rb", buffering=0) as file:
        file.seek(part.offset)
        while left:
            got = file.readinto(chunk.data[: min(left, _CHUNK_BYTES)])
            if not got:
                return None
            left, crc = left - got, sum_crc32(chunk[:got], crc)
    return crc


def _join(first: int, second: int, nbytes: int) -> int:
    """The CRC-32 of two runs of bytes from those of each, the second being `nbytes` long.

    A run that precedes n bytes is multiplied by x**8 to the power n, modulo the CRC's polynomial.
    """
    power, shifted = _EIGHT, first
    while nbytes:
        if nbytes & 1:
            shifted = _multiply(power, shifted)
        power, nbytes = _multiply(power, power), nbytes >> 1
    return shifted ^ second


def _multiply(one: int, other: int) -> int:
    """The product of two polynomials over two elements, modulo the CRC's."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product
