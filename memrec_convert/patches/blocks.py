"""One block: its bytes before the changes, and a bit per entry with the values of those entries that changed."""

from __future__ import annotations

import numpy as np

from memrec_convert.errors import PatchError
from memrec_convert.patches.description import (
    Block,
    Part,
    block_bytes,
    compress,
    count_entries,
    decompress,
    edit_bytes,
    payload_bytes,
)

_ENTRIES_AT_ONCE = 1 << 18


def old_bytes(base: np.ndarray, part: Part, first: int, last: int) -> np.ndarray:
    """Bytes first..last-1 of a part as they are before its changes: zeros where the old file has none (uint8)."""
    held = base[part.start + min(first, part.held) : part.start + min(last, part.held)]
    return np.concatenate([held, np.zeros(last - first - len(held), np.uint8)])


def tell_edits(part: Part, removed: np.ndarray, inserted: np.ndarray) -> bytes:
    """The frame for a part whose old entries (bool [old]) are taken out, and new ones (bool [new]) come in."""
    counts = [count_entries(nbytes, part.entry_bits) for nbytes in (part.held, part.bytes)]
    padded = [np.pad(one, (0, count - len(one))) for one, count in zip((removed, inserted), counts, strict=True)]
    return compress(b"".join(np.packbits(one, bitorder="little").tobytes() for one in padded))


class EditedBase:
    """The bytes of a part once its entries were taken out and put in, block by block in order.

    A part of a block at a time is held by entries: those of single bits take 9 bytes each.
    """

    def __init__(self, old: np.ndarray, part: Part, stored: memoryview, where: str) -> None:
        marks = np.frombuffer(decompress(stored, edit_bytes(part), where), np.uint8)
        before = -(-count_entries(part.held, part.entry_bits) // 8)
        self._gone, self._come, self._bits = marks[:before], marks[before:], part.entry_bits
        self._held = old[part.start : part.start + part.held]
        self._step = min(block_bytes(part.entry_bits), part.entry_bits * _ENTRIES_AT_ONCE // 8)
        self._left = _as_entries(self._held[:0], self._bits)
        self._read = self._taken = 0

    def take(self, nbytes: int) -> np.ndarray:
        """The next bytes (uint8), zeros where no old entry stands; of whole bytes of marks, but for the part's last."""
        parts = [self._take_part(min(self._step, nbytes - first)) for first in range(0, nbytes, self._step)]
        return np.concatenate(parts)

    def _take_part(self, nbytes: int) -> np.ndarray:
        entries = count_entries(nbytes, self._bits)
        come = _unpack(self._come, 8 * self._taken // self._bits, entries)
        self._taken += nbytes
        places = np.flatnonzero(~come)
        kept = self._take_kept(len(places))
        made = np.zeros((entries, kept.shape[1]), np.uint8)
        made[places[: len(kept)]] = kept
        flat: np.ndarray = np.packbits(made, bitorder="little") if self._bits % 8 else made.reshape(-1)
        return flat[:nbytes]

    def _take_kept(self, count: int) -> np.ndarray:
        """Up to so many old entries that are not taken out, those that follow the last ones."""
        step, found, number = self._step, [self._left], len(self._left)
        while number < count and self._read < len(self._held):
            piece = _as_entries(self._held[self._read : self._read + step], self._bits)
            found.append(piece[~_unpack(self._gone, 8 * self._read // self._bits, len(piece))])
            number += len(found[-1])
            self._read += step
        kept = np.concatenate(found)
        self._left = kept[count:]
        return kept[:count]


def _unpack(marks: np.ndarray, first: int, count: int) -> np.ndarray:
    """So many marks (bool) from the `first` on, which begins a byte."""
    return np.unpackbits(marks[first // 8 : -(-(first + count) // 8)], bitorder="little")[:count].astype(bool)


def edit_base(old: np.ndarray, part: Part, stored: memoryview, where: str) -> np.ndarray:
    """All bytes of an edited part at once (uint8)."""
    edited, step = EditedBase(old, part, stored, where), block_bytes(part.entry_bits)
    return np.concatenate([edited.take(min(step, part.bytes - first)) for first in range(0, part.bytes, step)])


def tell_block(base: np.ndarray, new: np.ndarray, entry_bits: int) -> tuple[Block, bytes]:
    """How to make `new` (uint8) of `base` (uint8, as long), in the fewest bytes of the ways there are."""
    if np.array_equal(base, new):
        return Block(), b""
    changed = _as_entries(base ^ new, entry_bits).any(axis=1)
    marks = np.packbits(changed, bitorder="little")
    count = int(np.count_nonzero(changed))
    if entry_bits % 8:
        values = [np.packbits(_as_entries(new, entry_bits)[changed], bitorder="little")]
    else:
        ends = [_as_entries(one, entry_bits)[changed] for one in (base, new)]
        values = [one.T.reshape(-1) for one in (ends[1], ends[1] - ends[0])]
    told = [compress(np.concatenate([marks, one]).tobytes()) for one in values]
    best = min(range(len(told)), key=lambda way: len(told[way]))
    return Block(changed=count, difference=best == 1, stored=len(told[best])), told[best]


def change_block(base: np.ndarray, block: Block, stored: memoryview, entry_bits: int, where: str) -> np.ndarray:
    """The new bytes (uint8) of a block over those of its base; PatchError where they do not go together."""
    if not block.changed:
        return base
    data = decompress(stored, payload_bytes(len(base), entry_bits, block.changed), where)
    payload, entries = np.frombuffer(data, np.uint8), count_entries(len(base), entry_bits)
    split = -(-entries // 8)
    changed = np.unpackbits(payload[:split], bitorder="little")[:entries].astype(bool)
    if np.count_nonzero(changed) != block.changed:
        raise PatchError(f"{where}: a block's marks are not {block.changed}; the patch is damaged, make it again.")
    whole = _as_entries(base, entry_bits).copy()
    if entry_bits % 8:
        bits = np.unpackbits(payload[split:], bitorder="little")[: block.changed * entry_bits]
        whole[changed] = bits.reshape(-1, entry_bits)
        return np.packbits(whole, bitorder="little")[: len(base)]
    values = payload[split:].reshape(entry_bits // 8, block.changed).T
    whole[changed] = whole[changed] + values if block.difference else values
    made: np.ndarray = whole.reshape(-1)[: len(base)]
    return made


def _as_entries(data: np.ndarray, entry_bits: int) -> np.ndarray:
    """uint8 [entries, bytes], or [entries, bits] where those are no whole bytes; filled up with zeros."""
    entries = count_entries(len(data), entry_bits)
    if entry_bits % 8:
        data, width = np.unpackbits(data, bitorder="little"), entry_bits
    else:
        width = entry_bits // 8
    missing = entries * width - len(data)
    return (np.concatenate([data, np.zeros(missing, np.uint8)]) if missing > 0 else data[: entries * width]).reshape(
        entries, width
    )
