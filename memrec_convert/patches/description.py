"""What a patch says about itself: both ends, and how each part of the new file follows from the old one.

docs/patches.md has the layout. Nothing in a patch is believed before it was checked here, and nothing is unpacked
before its declared size was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memrec_convert.artifact.layout import LARGEST_HEADER, canonical_json
from memrec_convert.artifact.metadata import DIGEST_BYTES, digest_bytes
from memrec_convert.artifact.quoting import show_value
from memrec_convert.errors import PatchError

MAGIC = b"memrecP1"
FRONT_BYTES = len(MAGIC) + 8
BLOCK_BITS = 1 << 25
MOST_ENTRY_BITS = 1 << 16
MOST_EDITED_ENTRIES = 1 << 28
"""Of a part in which entries are taken out and put in, and of what it starts from: a bit of each is held."""

_MOST_COMMAS = 1 << 17
"""In a description: what bounds the objects that are made of it, whatever they are. A thousand tables take 40,000."""

_LEVEL = 12
"""Of zstd: from here on, slower levels gain less than one per cent on codes and weights."""

_Size = Annotated[int, Field(ge=0, le=1 << 60)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class End(_Plain):
    """One of the two files: its bytes and their BLAKE2b-128, in hex."""

    bytes: _Size
    digest: _Digest


class Block(_Plain):
    """Entries that differ in one block, whether as differences to the base, and the bytes that tell of them."""

    changed: _Size = 0
    difference: bool = False
    stored: _Size = 0


class Part(_Plain):
    """`bytes` of the new file: old bytes `start`..`start + held - 1` with zeros behind them, then changed in blocks.

    Entries have `entry_bits` bits. Without blocks nothing changes. `edits` is the length of the frame that tells which
    old entries are taken out and where others come in before that, if any.
    """

    bytes: _Size
    start: _Size
    held: _Size
    entry_bits: Annotated[int, Field(ge=1, le=MOST_ENTRY_BITS)] = 8
    edits: _Size = 0
    blocks: tuple[Block, ...] = ()


class Description(_Plain):
    """Both ends, and the parts of the new file in order."""

    format: Annotated[int, Field(ge=1, le=1)]
    old: End
    new: End
    parts: tuple[Part, ...]


def block_bytes(entry_bits: int) -> int:
    """Bytes of every block but a part's last: a multiple of 8 entries, about 4 MiB."""
    return max(1, BLOCK_BITS // (8 * entry_bits)) * entry_bits


def count_entries(nbytes: int, entry_bits: int) -> int:
    """Entries of a block, the last one filled up with zeros."""
    return -(-8 * nbytes // entry_bits)


def payload_bytes(nbytes: int, entry_bits: int, changed: int) -> int:
    """Bytes that tell of a block's changed entries before they are compressed: a bit per entry, then the values."""
    return -(-count_entries(nbytes, entry_bits) // 8) + -(-changed * entry_bits // 8)


def edit_bytes(part: Part) -> int:
    """Bytes that tell of a part's edits before they are compressed: a bit per old entry, then one per new entry."""
    return sum(-(-count_entries(nbytes, part.entry_bits) // 8) for nbytes in (part.held, part.bytes))


def may_be_edited(part: Part) -> bool:
    """Whether a part and its old bytes have few enough entries for their marks to be held."""
    return count_entries(max(part.held, part.bytes), part.entry_bits) <= MOST_EDITED_ENTRIES


def compress(data: bytes) -> bytes:
    """One zstd frame."""
    packed: bytes = pa.Codec("zstd", compression_level=_LEVEL).compress(data, asbytes=True)
    return packed


def decompress(data: memoryview, nbytes: int, where: str) -> bytes:
    """Exactly `nbytes` from one zstd frame, whatever it holds; PatchError where that is another number."""
    try:
        found: bytes = pa.Codec("zstd").decompress(data, decompressed_size=nbytes, asbytes=True)
    except (OSError, ValueError) as error:
        raise _damaged(where, "a compressed block is not what it is said to be") from error
    return found


def join_patch(description: Description, blocks: Sequence[bytes]) -> bytes:
    """The bytes of a patch."""
    text = canonical_json(description.model_dump(exclude_defaults=True)).encode()
    packed = compress(text)
    front = MAGIC + len(text).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    pieces = [front, packed, *blocks]
    return b"".join([*pieces, bytes.fromhex(digest_bytes(*pieces))])


def split_patch(data: memoryview, where: str) -> tuple[Description, memoryview]:
    """What a patch says, and its blocks; PatchError for anything that is not one, or not whole."""
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise PatchError(f"{where} is no patch of this program; pass the file that memrec-convert diff wrote.")
    body, end = data[:-DIGEST_BYTES], bytes(data[-DIGEST_BYTES:])
    if len(data) < FRONT_BYTES + DIGEST_BYTES or digest_bytes(body) != end.hex():
        raise _damaged(where, "its bytes do not match its digest")
    nbytes, stored = (int.from_bytes(body[at : at + 4], "little") for at in (len(MAGIC), len(MAGIC) + 4))
    if nbytes > LARGEST_HEADER or FRONT_BYTES + stored > len(body):
        raise _damaged(where, f"its description takes {nbytes} bytes, {stored} of them in the file")
    text = decompress(body[FRONT_BYTES : FRONT_BYTES + stored], nbytes, where)
    if text.count(b",") > _MOST_COMMAS:
        raise _damaged(where, f"its description has more than {_MOST_COMMAS} values")
    try:
        description = Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = " > ".join(map(show_value, first["loc"])) or "the whole"
        raise _damaged(where, f"its description is none: {place}: {first['msg']}") from None
    blocks = body[FRONT_BYTES + stored :]
    _check(description, len(blocks), where)
    return description, blocks


def _check(description: Description, nbytes: int, where: str) -> None:
    """Every size agrees with the others, before anything is unpacked."""
    total = 0
    for number, part in enumerate(description.parts):
        step, left, place = block_bytes(part.entry_bits), part.bytes, f"part {number}"
        if (part.held > part.bytes and not part.edits) or part.start + part.held > description.old.bytes:
            raise _damaged(where, f"{place} takes bytes that the old file does not have")
        if part.held < part.bytes and not part.blocks:
            raise _damaged(where, f"{place} has bytes from nowhere")
        total += part.edits
        if part.edits and not (part.blocks and may_be_edited(part)):
            raise _damaged(where, f"{place} is edited, and has {part.bytes} bytes in {len(part.blocks)} blocks")
        if part.blocks and len(part.blocks) != -(-part.bytes // step):
            raise _damaged(where, f"{place} has {len(part.blocks)} blocks for {part.bytes} bytes")
        for block in part.blocks:
            size = min(step, left)
            left -= size
            total += block.stored
            if block.changed > count_entries(size, part.entry_bits) or bool(block.changed) != bool(block.stored):
                raise _damaged(where, f"a block of {place} changes {block.changed} entries")
            if block.difference and part.entry_bits % 8:
                raise _damaged(where, f"{place} has differences of {part.entry_bits} bits")
    # Of no old byte more than one part is made by edits, so that the work is bounded by the size of both files.
    if sum(part.held for part in description.parts if part.edits) > description.old.bytes:
        raise _damaged(where, "its edited parts take more bytes than the old file has")
    if total != nbytes:
        raise _damaged(where, f"its blocks take {total} bytes, and it has {nbytes} for them")
    if sum(part.bytes for part in description.parts) != description.new.bytes:
        raise _damaged(where, f"its parts do not make {description.new.bytes} bytes")


def _damaged(where: str, why: str) -> PatchError:
    return PatchError(f"{where}: {why}; the patch is damaged, fetch or make it again.")
