"""A numpy .npz archive of tables: every matrix of floats in it is one; nothing pickled is ever read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from numpy.lib import format as npy

from memrec_convert.checkpoint.containers.container import Container, Contents
from memrec_convert.checkpoint.containers.section import Section
from memrec_convert.checkpoint.containers.zip_archive import Member, is_zip, list_members, verify_archive
from memrec_convert.checkpoint.stand_ins import Placeholder, printable
from memrec_convert.checkpoint.tensor_ref import DTYPES, FLOATING, TensorRef, contiguous_strides, itemsize
from memrec_convert.errors import CheckpointError

NAME = "numpy .npz"
_MAGIC = b"\x93NUMPY"
_CLICK_LOG = frozenset({"X_int", "X_cat", "y"})
_LARGEST_HEADER = 10_000


def is_npz(path: Path, head: bytes) -> bool:
    """Whether a file is a zip archive whose first member is an .npy."""
    name_bytes = int.from_bytes(head[26:28], "little")
    return is_zip(path, head) and head[30 : 30 + name_bytes].endswith(b".npy")


def read_npz(path: Path) -> Contents:
    """The arrays by name, as references into the file."""
    members = list_members(Section.whole(path), _refuse_compressed)
    root: dict[str, object] = {member.name.removesuffix(".npy"): _read_array(path, member) for member in members}
    matrices = [one for one in root.values() if isinstance(one, TensorRef) and len(one.shape) == 2]
    if not any(matrix.dtype in FLOATING for matrix in matrices) or len(_CLICK_LOG & root.keys()) > 1:
        raise CheckpointError(f"{path}: a numpy .npz archive, not a checkpoint; if it is a click log, pass it as one.")
    return Contents(NAME, root, (), (path,), bare_tables=True)


def _refuse_compressed(path: Path, names: set[str]) -> None:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    if compressed:
        raise CheckpointError(
            f"{path}: a compressed .npz archive (np.savez_compressed), whose rows cannot be read in chunks; save it "
            "again with np.savez."
        )


def _read_array(path: Path, member: Member) -> TensorRef | Placeholder:
    """An array's header, checked against its member; arrays of other than numbers stay unread."""
    where = f"{path} > {printable(member.name)}"
    with Section(path, member.offset, member.nbytes).open() as stream:
        try:
            version = npy.read_magic(stream)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read_header(stream, max_header_size=_LARGEST_HEADER)
        except (ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError):
            raise CheckpointError(f"{where}: not an array of numpy; the file is damaged.") from None
        start = stream.tell()
    if dtype.name not in DTYPES or not dtype.isnative:
        return Placeholder(f"array of {printable(dtype.str)}")
    if math.prod(shape) * itemsize(dtype.name) != member.nbytes - start or min(shape, default=1) < 0:
        raise CheckpointError(
            f"{where}: {member.nbytes - start} bytes for an array of shape {list(shape)} {dtype.name}; it is damaged."
        )
    strides = contiguous_strides(shape[::-1])[::-1] if fortran else contiguous_strides(shape)
    return TensorRef(path, member.offset + start, dtype.name, tuple(shape), strides)


def verify_npz(path: Path, tensors: Iterable[TensorRef]) -> None:
    """Compare each array under these tensors with the archive's CRC-32."""
    verify_archive(Section.whole(path), {tensor.offset for tensor in tensors if tensor.nbytes})


NPZ_TABLES = Container(NAME, is_npz, read_npz, verify_npz)
