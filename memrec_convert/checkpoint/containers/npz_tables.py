"""Tables as numpy saves them: one .npy, or all matrices of floats in an .npz; nothing pickled is ever read."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from memrec_convert.checkpoint.containers.container import Container, Contents, no_checksums
from memrec_convert.checkpoint.containers.section import Section
from memrec_convert.checkpoint.containers.zip_archive import Member, is_zip, list_members, open_directory, sum_zip
from memrec_convert.checkpoint.inert.stand_ins import Placeholder, printable
from memrec_convert.checkpoint.tensor_ref import FLOATING, TensorRef, contiguous_strides, itemsize
from memrec_convert.errors import CheckpointError

NAME = "numpy .npz"
_MAGIC = b"\x93NUMPY"
_CLICK_LOG = frozenset({"X_int", "X_cat", "y"})
_LARGEST_HEADER = 10_000
_HEADER = re.compile(
    r"\{'descr': (?:'(?P<descr>[^'\\]{1,40})'|\[.*\]), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>|[0-9]{1,19},|[0-9]{1,19}(?:, [0-9]{1,19}){1,15})\), \} *\n",
    re.ASCII,
)
_SIZE = re.compile(r"[0-9]+", re.ASCII)
_NAMES = {
    "<f8": "float64",
    "<f4": "float32",
    "<f2": "float16",
    "<i8": "int64",
    "<i4": "int32",
    "<i2": "int16",
    "|i1": "int8",
    "|u1": "uint8",
    "|b1": "bool",
}


def is_npz(path: Path, head: bytes) -> bool:
    """Whether a file is a zip archive whose first member is an .npy."""
    name_bytes = int.from_bytes(head[26:28], "little")
    return is_zip(path, head) and head[30 : 30 + name_bytes].endswith(b".npy")


def read_npz(path: Path) -> Contents:
    """The arrays by name, as references into the file."""
    members = list_members(Section.whole(path), _refuse_compressed)
    root: dict[str, object] = {}
    for member in members:
        array = _read_array(path, member, f"{path} > {printable(member.name)}")
        if isinstance(array, Placeholder):
            member.checksum(path).verify()  # its header alone, which may be damaged, says that it is not to be read
        root[member.name.removesuffix(".npy")] = array
    matrices = [one for one in root.values() if isinstance(one, TensorRef) and len(one.shape) == 2]
    is_log = len(_CLICK_LOG & root.keys()) > 1
    if is_log or not any(matrix.dtype in FLOATING for matrix in matrices):
        unread = [f"{name} is a {one.name}" for name, one in root.items() if isinstance(one, Placeholder)]
        if unread and not is_log:
            raise CheckpointError(
                f"{path}: {printable(unread[0])}; a table has rows and columns of little-endian floats."
            )
        raise CheckpointError(f"{path}: a numpy .npz archive, not a checkpoint; if it is a click log, pass it as one.")
    return Contents(NAME, root, (), (path,), bare_tables=True)


def is_npy(path: Path, head: bytes) -> bool:
    """Whether a file is one array of numpy."""
    return head.startswith(_MAGIC)


def read_npy(path: Path) -> Contents:
    """The one table of an .npy, under the file's name; CheckpointError for arrays that are no table."""
    array = _read_array(path, Section.whole(path), str(path))
    if not isinstance(array, TensorRef) or len(array.shape) != 2 or array.dtype not in FLOATING:
        kind = f"numpy array {list(array.shape)} {array.dtype}" if isinstance(array, TensorRef) else array.name
        raise CheckpointError(f"{path}: a {kind}; a table has rows and columns of little-endian floats.")
    return Contents("numpy .npy", {path.stem: array}, (), (path,), bare_tables=True)


def _refuse_compressed(path: Path, names: set[str]) -> None:
    with open_directory(Section.whole(path)) as archive:
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    if compressed:
        raise CheckpointError(
            f"{path}: a compressed .npz archive (np.savez_compressed), whose rows cannot be read in chunks; save it "
            "again with np.savez."
        )


def _read_array(path: Path, place: Member | Section, where: str) -> TensorRef | Placeholder:
    """An array's header, checked against its member or file; arrays of other than numbers stay unread."""
    offset = place.offset if isinstance(place, Member) else place.start
    with Section(path, offset, place.nbytes).open() as stream:
        header, start = _read_header(stream), stream.tell()
    if header is None:
        raise CheckpointError(f"{where}: not an array of numpy; the file is damaged.")
    dtype, shape = _NAMES.get(header["descr"] or ""), tuple(map(int, _SIZE.findall(header["shape"])))
    if dtype is None:
        kind = printable(header["descr"] or "records")
        why = " (big-endian)" if kind.startswith(">") else " (pickled objects)" if kind.startswith("|O") else ""
        return Placeholder(f"numpy array of {kind}{why}", (shape,))
    if math.prod(shape) * itemsize(dtype) != place.nbytes - start:
        raise CheckpointError(
            f"{where}: {place.nbytes - start} bytes for an array of shape {list(shape)} {dtype}; it is damaged."
        )
    strides = contiguous_strides(shape[::-1])[::-1] if header["fortran"] == "True" else contiguous_strides(shape)
    return TensorRef(path, offset + start, dtype, shape, strides)


def _read_header(stream: BinaryIO) -> re.Match[str] | None:
    """The header of an .npy as numpy writes it, byte for byte, and nothing evaluated; None for anything else."""
    head = stream.read(len(_MAGIC) + 2)
    if not head.startswith(_MAGIC) or head[len(_MAGIC) :] not in (b"\1\0", b"\2\0", b"\3\0"):
        return None
    length = int.from_bytes(stream.read(2 if head.endswith(b"\1\0") else 4), "little")
    text = stream.read(length) if length <= _LARGEST_HEADER else b""
    return _HEADER.fullmatch(text.decode("latin-1")) if len(text) == length else None


NPY_TABLE = Container("numpy .npy", is_npy, read_npy, no_checksums)
NPZ_TABLES = Container(NAME, is_npz, read_npz, sum_zip)
