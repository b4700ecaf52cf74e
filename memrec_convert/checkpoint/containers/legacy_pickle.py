"""torch.save's form before 1.6: four pickles, a list of storage keys, then the storages one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from memrec_convert.checkpoint.containers.container import Container, Contents, no_checksums
from memrec_convert.checkpoint.inert.pickle_reader import read_pickle
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, Storage, printable
from memrec_convert.errors import CheckpointError

NAME = "legacy .pt"
_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001
_COUNT_BYTES = 8
_MOST_HEAD_OPCODES = 1_000


def is_legacy(path: Path, head: bytes) -> bool:
    """Whether a file begins with the pickled magic number of torch's old form."""
    return head.startswith(b"\x80") and _MAGIC_BYTES in head[:32]


def read_legacy(path: Path) -> Contents:
    """The pickled object, in two walks: the first finds the storages' keys and sizes, the second their places."""
    claimed: dict[str, tuple[str, int]] = {}

    def note_storage(key: str, dtype: str, elements: int) -> Storage:
        if claimed.setdefault(key, (dtype, elements)) != (dtype, elements):
            raise MalformedPickle(f"the storage {printable(key)!r} has two types or lengths")
        return Storage(path, 0, dtype, elements, key)

    with path.open("rb") as file:
        object_offset, _ = _read_object(path, file, note_storage)
        limit = _MOST_HEAD_OPCODES + 4 * len(claimed)
        keys = read_pickle(file, f"{path} > storage keys", most_opcodes=limit).root
        places = _place_storages(path, file, keys, claimed)
        file.seek(object_offset)
        contents = read_pickle(file, f"{path} > object", load_storage=lambda key, dtype, elements: places[key])
    return Contents(NAME, contents.root, contents.unrun_classes)


def _read_object(path: Path, file: BinaryIO, load: Callable[[str, str, int], Storage]) -> tuple[int, object]:
    """Check the head (magic number, protocol, byte order) and walk the object; its byte position and value."""
    heads = [read_pickle(file, f"{path} > head", most_opcodes=_MOST_HEAD_OPCODES).root for _ in range(3)]
    magic, protocol, system = heads
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise CheckpointError(f"{path}: begins as an old torch.save file, but its head is damaged.")
    if system.get("little_endian") is not True:
        raise CheckpointError(f"{path}: its storages are not little-endian; save it once on a little-endian machine.")
    offset = file.tell()
    return offset, read_pickle(file, f"{path} > object", load_storage=load).root


def _place_storages(
    path: Path, file: BinaryIO, keys: object, claimed: dict[str, tuple[str, int]]
) -> dict[str, Storage]:
    """Each key's storage: an 8-byte count, which must be the pickle's, and the elements, which must be in the file."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(claimed):
        raise CheckpointError(f"{path} > storage keys: not the storages that the object uses; the file is damaged.")
    if len(keys) != len(claimed):
        raise CheckpointError(f"{path} > storage keys: a storage is listed twice; the file is damaged.")
    size, position, places = path.stat().st_size, file.tell(), {}
    for key in keys:
        dtype, elements = claimed[key]
        file.seek(position)
        count = int.from_bytes(file.read(_COUNT_BYTES), "little")
        storage = Storage(path, position + _COUNT_BYTES, dtype, elements, key)
        position = storage.offset + storage.nbytes
        if count != elements or position > size:
            raise CheckpointError(
                f"{path} > storage {printable(key)}: {elements} elements of {dtype} are expected at byte "
                f"{storage.offset}; the file says {count} and ends at byte {size}: it is truncated or damaged."
            )
        places[key] = storage
    return places


LEGACY_PICKLE = Container(NAME, is_legacy, read_legacy, no_checksums)
