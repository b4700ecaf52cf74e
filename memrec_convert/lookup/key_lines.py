"""Keys of an index laid out once more for speed, one cache line per bucket: what loading adds to serving memory.

The packed keys of an index take a load for the bucket's start, one for its end and two for its keys. Here a bucket is
a 64-byte line: the first place (32 bits), a count (16) and up to 29 keys of 16 bits, so that one load finds an id.
Buckets divide the mixed ids evenly, some 18 to a line; the few ids that a full line has no room for are found in the
index itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding.index import LINE_BYTES, IndexSpec, read_mixed
from memrec_convert.encoding.spec import TableSpec, count_table_bytes

KEYS_PER_LINE = 29
MEAN_KEYS_PER_LINE = 18
KEY_BITS = 16
MOST_PRODUCT_BITS = 63
LEAST_ROOM_BYTES = 512 << 10
"""Lines of all tables together may take this much,"""
ROOM_SHARE = 10
"""or this part of the tables' bytes, if that is more."""


def choose_lines(specs: Sequence[TableSpec]) -> list[list[int]]:
    """Per table and level the lines that its index gets, 0 where it gets none: in order, while there is room."""
    room = max(LEAST_ROOM_BYTES, count_table_bytes(specs) // ROOM_SHARE)
    chosen = []
    for spec in specs:
        lines = []
        for level in spec.levels:
            count = count_lines(level.index)
            lines.append(count if count * LINE_BYTES <= room else 0)
            room -= lines[-1] * LINE_BYTES
        chosen.append(lines)
    return chosen


def count_line_bytes(specs: Sequence[TableSpec]) -> int:
    """Bytes of all lines that tables side by side get."""
    return LINE_BYTES * sum(sum(lines) for lines in choose_lines(specs))


def count_lines(spec: IndexSpec) -> int:
    """Lines for the keys of an index; 0 for a bitmap, which is one load too, and where 64-bit products would overflow.

    At least so many that the lowest 16 bits tell the ids of a bucket apart.
    """
    if spec.kind != "keys" or spec.count == 0:
        return 0
    lines = max(-(-spec.count // MEAN_KEYS_PER_LINE), 1 << max(spec.mixed_bits - KEY_BITS, 0))
    return lines if spec.mixed_bits + lines.bit_length() < MOST_PRODUCT_BITS else 0


def build_lines(spec: IndexSpec, index: Tensor, lines: int) -> Tensor:
    """The keys of an index as uint8 [lines, 64]: 32 bits of first place, 16 of count, 29 keys of 16 bits.

    None where none are asked for, and for an index that `build_index` would not make: the kernel reads that itself.
    """
    mixed = read_mixed(spec, index) if lines else None
    if mixed is None:
        return torch.empty(0, LINE_BYTES, dtype=torch.uint8)
    bucket = (mixed * lines) >> spec.mixed_bits
    first = np.searchsorted(bucket, np.arange(lines))
    lane = np.arange(spec.count) - first[bucket]
    table = np.zeros((lines, LINE_BYTES // 2), dtype="<u2")
    table[:, :2] = first.astype("<u4").view("<u2").reshape(lines, 2)
    table[:, 2] = np.minimum(np.bincount(bucket, minlength=lines), KEYS_PER_LINE + 1)
    held = lane < KEYS_PER_LINE
    table[bucket[held], 3 + lane[held]] = mixed[held] & 0xFFFF
    return torch.from_numpy(table.view(np.uint8))
