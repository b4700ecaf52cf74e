"""Opcodes, archives and headers by hand: what no library would write."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

Build = Callable[[Path], Path]
Case = tuple[Build, str]
"""Builds into a folder and returns what is to be read; a pattern of the sentence that refuses it."""


def ops(value: object) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    """The opcode that pushes a class or function."""
    return f"c{module}\n{attribute}\n".encode()


def storage(kind: str = "FloatStorage", key: object = "0", elements: object = 6) -> bytes:
    """The opcodes that push a torch storage."""
    return b"(" + ops("storage") + name("torch", kind) + ops(key) + ops("cpu") + ops(elements) + b"tQ"


def tensor(pushed: bytes | None = None, offset: object = 0, shape: object = (3, 2), strides: object = (2, 1)) -> bytes:
    """The opcodes that push a torch tensor."""
    parts = ops(offset) + ops(shape) + ops(strides) + ops(False) + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + (pushed or storage()) + parts + b"tR"


def state(value: bytes) -> bytes:
    """A pickled state dict with one table."""
    return b"\x80\x02}" + ops("emb_l.0.weight") + value + b"s."


def write_archive(
    path: Path, pickled: bytes = b"\x80\x02}.", *, storages: bytes = bytes(24), compression: int = 0, **more: bytes
) -> Path:
    """A torch archive with this pickle, one storage, and further members ('/' in names written as '__')."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", storages)
        for member, content in more.items():
            archive.writestr(member.replace("__", "/"), content)
    return path


def archived(pickled: bytes, sentence: str = r"data\.pkl|data/0") -> Case:
    """A case: this pickle in a torch archive."""
    return (lambda folder: write_archive(folder / "m.pt", pickled)), sentence


def file_of(content: bytes, sentence: str, *, called: str = "m.pt") -> Case:
    """A case: a file of these bytes."""

    def build(folder: Path) -> Path:
        (folder / called).write_bytes(content)
        return folder / called

    return build, sentence


def directory_of(files: dict[str, bytes], sentence: str, *, links: dict[str, str] | None = None) -> Case:
    """A case: a directory of these files, and symbolic links by what they lead to."""

    def build(folder: Path) -> Path:
        for called, content in files.items():
            (folder / "d" / called).parent.mkdir(parents=True, exist_ok=True)
            (folder / "d" / called).write_bytes(content)
        (folder / "outside").write_bytes(bytes(24))
        for called, target in (links or {}).items():
            (folder / "d" / called).parent.mkdir(parents=True, exist_ok=True)
            (folder / "d" / called).symlink_to(target)
        return folder / "d"

    return build, sentence


def patch(content: bytes, at: int, new: bytes) -> bytes:
    """The bytes with others in their place; `at` counts from the end where negative."""
    at %= len(content)
    return content[:at] + new + content[at + len(new) :]


def archive_bytes(folder: Path, pickled: bytes | None = None, **more: object) -> bytes:
    """A torch archive as bytes; with one readable table unless told otherwise."""
    path = folder / "building.zip"
    content = write_archive(path, state(tensor()) if pickled is None else pickled, **more).read_bytes()  # type: ignore[arg-type]
    path.unlink()
    return content


def safetensors_bytes(header: object, data: bytes = bytes(24), *, claimed: int | None = None) -> bytes:
    """A safetensors file of this header: JSON-able, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def entry(**changes: object) -> dict[str, object]:
    """A header of one table, 3 x 2 floats."""
    return {"emb_l.0.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]} | changes}
