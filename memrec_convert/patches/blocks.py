"""One block: its bytes before the changes, and a bit per entry with the values of those entries that changed."""

from __future__ import annotations

import numpy as np

from memrec_convert.errors import PatchError
from memrec_convert.patches.description import (
    Block,
    Part,
    compress,
    count_entries,
    decompress,
    edit_bytes,
    payload_bytes,
)


def old_bytes(base: np.ndarray, part: Part, first: int, last: int) -> np.ndarray:
    """Bytes first..last-1 of a part as they are before its changes: zeros where the old file has none (uint8)."""
    held = base[part.start + min(first, part.held) : part.start + min(last, part.held)]
    return np.concatenate([held, np.zeros(last - first - len(held), np.uint8)])


def tell_edits(part: Part, removed: np.ndarray, inserted: np.ndarray) -> bytes:
    """The frame for a part whose old entries (bool [old]) are taken out, and new ones (bool [new]) come in."""
    counts = [count_entries(nbytes, part.entry_bits) for nbytes in (part.held, part.bytes)]
    padded = [np.pad(one, (0, count - len(one))) for one, count in zip((removed, inserted), counts, strict=True)]
    return compress(b"".join(np.packbits(one, bitorder="little").tobytes() for one in padded))


def edit_base(old: np.ndarray, part: Part, stored: memoryview, where: str) -> np.ndarray:
    """The bytes of a part (uint8) once its entries were taken out and put in, zeros where there is no old one."""
    marks = np.frombuffer(decompress(stored, edit_bytes(part), where), np.uint8)
    before, after = (count_entries(nbytes, part.entry_bits) for nbytes in (part.held, part.bytes))
    removed = np.unpackbits(marks[: -(-before // 8)], bitorder="little")[:before].astype(bool)
    inserted = np.unpackbits(marks[-(-before // 8) :], bitorder="little")[:after].astype(bool)
    kept = _as_entries(old[part.start : part.start + part.held], part.entry_bits)[~removed]
    places = np.flatnonzero(~inserted)[: len(kept)]
    made = np.zeros((after, kept.shape[1]), np.uint8)
    made[places] = kept[: len(places)]
    flat = np.packbits(made, bitorder="little") if part.entry_bits % 8 else made.reshape(-1)
    return flat[: part.bytes]


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
