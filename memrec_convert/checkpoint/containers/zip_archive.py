"""torch.save's form since 1.6: a zip archive of `data.pkl` and one uncompressed member per storage."""

from __future__ import annotations

import errno
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from memrec_convert.checkpoint.checksum import Checksum, Part
from memrec_convert.checkpoint.containers.container import Container, Contents
from memrec_convert.checkpoint.containers.section import LargeReadError, Section
from memrec_convert.checkpoint.inert.pickle_reader import MOST_BYTES, read_pickle
from memrec_convert.checkpoint.inert.stand_ins import Storage, printable
from memrec_convert.checkpoint.tensor_ref import TensorRef
from memrec_convert.errors import CheckpointError

NAME = "zip .pt"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_END64_LOCATOR_BYTES = 20
_CHUNK_BYTES = 2**20
_LARGEST_DIRECTORY = 4 * 2**20
_STORAGE_KEY = re.compile(r"[0-9A-Za-z_.-]{1,100}", re.ASCII)


@dataclass(frozen=True)
class Member:
    """One stored member: its name, where its header and its bytes begin, and the CRC-32 that the archive gives."""

    name: str
    header_offset: int
    offset: int
    nbytes: int
    crc: int

    def checksum(self, path: Path) -> Checksum:
        """Of its bytes in the archive's file."""
        return Checksum(Part(path, self.offset, self.nbytes), self.name, self.crc)


@dataclass(frozen=True)
class Archive:
    """A checked archive: its members by name, and the folder that torch put all of them into."""

    path: Path
    members: dict[str, Member]
    folder: str

    def load_storage(self, key: str, dtype: str, elements: int) -> Storage:
        """The storage `data/<key>`; its length must be the member's, to the byte."""
        where = f"{self.path} > data.pkl"
        member = self.members.get(f"{self.folder}data/{key}") if _STORAGE_KEY.fullmatch(key) else None
        if member is None:
            raise CheckpointError(
                f"{where}: the storage data/{printable(key)} is not in the archive; download or copy the file again."
            )
        storage = Storage(self.path, member.offset, dtype, elements, key)
        if storage.nbytes != member.nbytes:
            raise CheckpointError(
                f"{self.path} > data/{key}: the storage has {member.nbytes} bytes, the pickle says {elements} elements "
                f"of {dtype} ({storage.nbytes} bytes); the file is damaged."
            )
        return storage


def is_zip(path: Path, head: bytes) -> bool:
    """Whether a file begins as a zip archive does."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read_zip(path: Path) -> Contents:
    """The pickled object of a torch archive, its tensors as checked references into the file."""
    return read_archive(Section.whole(path))


def read_archive(section: Section) -> Contents:
    """As `read_zip`, of an archive that is a section of a file."""
    path, archive = section.path, open_archive(section)
    pickled = read_member(path, archive.members[f"{archive.folder}data.pkl"])
    contents = read_pickle(io.BytesIO(pickled), f"{path} > data.pkl", load_storage=archive.load_storage)
    return Contents(NAME, contents.root, contents.unrun_classes)


def open_archive(section: Section) -> Archive:
    """Check an archive's members (names, places, storage method, byte order) and find torch's folder in it."""
    path, members = section.path, list_members(section, _find_folder)
    folder = _find_folder(path, {member.name for member in members})
    by_name = {member.name: member for member in members}
    _check_byte_order(path, by_name, folder)
    return Archive(path, by_name, folder)


def list_members(section: Section, recognise: Callable[[Path, set[str]], object]) -> list[Member]:
    """The members of a zip archive, each stored as it is under a name of its own; their bytes do not overlap.

    `recognise(path, names)` comes first, so that another kind of archive is refused by the name of what it is.
    """
    path = section.path
    with open_directory(section) as archive, section.open() as file:
        if len(archive.infolist()) != _read_count(file, section.nbytes - len(archive.comment)):
            raise _no_directory(section)
        try:
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
            if any(entry.header_offset < 0 for entry in entries):
                raise _no_directory(section)
            recognise(path, {entry.orig_filename for entry in entries})
            members = [_locate(path, file, entry) for entry in entries]
            directory_offset = archive.start_dir
        except (ValueError, EOFError, OverflowError):
            raise _no_directory(section) from None
    _refuse_overlaps(path, members, directory_offset)
    _check_names(path, members)
    return [replace(member, offset=section.start + member.offset) for member in members]


@contextmanager
def open_directory(section: Section) -> Iterator[zipfile.ZipFile]:
    """The archive's directory of members, once it is known to be of a bearable size."""
    try:
        stream = section.open(largest_read=_LARGEST_DIRECTORY)
        archive = zipfile.ZipFile(stream)
    except LargeReadError:
        raise CheckpointError(
            f"{section.path}: the zip archive's directory of members takes more than {_LARGEST_DIRECTORY >> 20} MiB; "
            "no checkpoint has as many members."
        ) from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error, OverflowError):
        raise _no_directory(section) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # the disk's own trouble; this is a place before the file's first byte
            raise
        raise _no_directory(section) from None
    with stream, archive:
        yield archive


def _read_count(file: BinaryIO, end: int) -> int:
    """How many members the end record says there are: an entry that swallows those after it would hide them."""
    tail = max(end - _END.size - _END64_LOCATOR_BYTES - _END64.size, 0)
    file.seek(tail)
    records = file.read(end - tail)
    count: int = _END.unpack(records[-_END.size :])[4]
    before = records[: -_END.size]
    if before[-_END64_LOCATOR_BYTES:].startswith(b"PK\x06\x07") and before.startswith(b"PK\x06\x06"):
        count = _END64.unpack_from(before)[7]
    return count


def _no_directory(section: Section) -> CheckpointError:
    return CheckpointError(
        f"{section.path}: a zip archive that is truncated or damaged ({section.nbytes} bytes, no readable "
        "directory of members at its end); download or copy it again."
    )


def _locate(path: Path, file: BinaryIO, entry: zipfile.ZipInfo) -> Member:
    """A member's bytes, through its local header, which must bear the directory's name."""
    shown = f"{path} > {printable(entry.orig_filename)}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise CheckpointError(
            f"{shown}: compressed or encrypted; torch.save stores members as they are: unpack the archive and pack it "
            "again without compression (zip -0)."
        )
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"{shown}: the archive's directory points to a place where no member begins.")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    if file.read(name_bytes) != _encode_name(entry):
        raise CheckpointError(f"{shown}: the member has another name where it lies than in the archive's directory.")
    offset = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    return Member(entry.orig_filename, entry.header_offset, offset, entry.file_size, entry.CRC)


def _encode_name(entry: zipfile.ZipInfo) -> bytes:
    """A member's name as its bytes in the file: UTF-8 where flagged, else code page 437, as zipfile decoded it."""
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")


def _refuse_overlaps(path: Path, members: list[Member], directory_offset: int) -> None:
    """No two members may share bytes, and none may reach into the directory."""
    end, before = 0, ""
    for member in sorted(members, key=lambda member: member.offset):
        if member.header_offset < end:
            raise CheckpointError(
                f"{path} > {printable(member.name)}: overlaps {printable(before)}; the archive is damaged or forged."
            )
        end, before = member.offset + member.nbytes, member.name
    if end > directory_offset:
        raise CheckpointError(
            f"{path} > {printable(before)}: reaches past the archive's members; the archive is damaged or forged."
        )


def _check_names(path: Path, members: list[Member]) -> None:
    names: set[str] = set()
    for member in members:
        name = member.name
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise CheckpointError(f"{path} > {printable(name)}: the name leads out of the archive; it is forged.")
        if name in names:
            raise CheckpointError(f"{path} > {printable(name)}: the archive holds this member twice; it is forged.")
        names.add(name)


def _find_folder(path: Path, members: set[str]) -> str:
    """The folder of `data.pkl`; a sentence of its own for other kinds of zip archive."""
    if any(name.split("/")[-1] in ("archive_format", "serialized_exported_program.json") for name in members):
        raise CheckpointError(
            f"{path}: an exported program (torch.export, .pt2), which is a graph; save the state that it was made of: "
            "torch.save(torch.export.load(FILE).state_dict, ...)."
        )
    pickles = [name for name in members if name.count("/") <= 1 and name.split("/")[-1] == "data.pkl"]
    if len(pickles) == 1:
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members or any(name.startswith(f"{folder}code/") for name in members):
            raise CheckpointError(
                f"{path}: a TorchScript archive (torch.jit.save), which holds code; save the model's state instead: "
                "torch.save(model.state_dict(), ...)."
            )
        return folder
    if not pickles and members and all(name.endswith(".npy") for name in members):
        raise CheckpointError(f"{path}: a numpy .npz archive, not a checkpoint; if it is a click log, pass it as one.")
    found = f"{len(pickles)} members named data.pkl" if pickles else f"{len(members)} members, none named data.pkl"
    raise CheckpointError(f"{path}: a zip archive, but not one of torch.save ({found}).")


def _check_byte_order(path: Path, members: dict[str, Member], folder: str) -> None:
    member = members.get(f"{folder}byteorder")
    if member is not None and read_member(path, member, limit_bytes=64) != b"little":
        raise CheckpointError(
            f"{path} > byteorder: the storages are not little-endian; save it once on a little-endian machine."
        )


def read_member(path: Path, member: Member, *, limit_bytes: int = MOST_BYTES) -> bytes:
    """A member's bytes, compared with the archive's CRC-32."""
    if member.nbytes > limit_bytes:
        raise CheckpointError(f"{path} > {member.name}: {member.nbytes} bytes; at most {limit_bytes} are read.")
    with path.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.nbytes)
    member.checksum(path).compare([zlib.crc32(content)] if len(content) == member.nbytes else [None])
    return content


def sum_zip(path: Path, tensors: Iterable[TensorRef]) -> list[Checksum]:
    """Those of the storages under these tensors."""
    return list_checksums(Section.whole(path), {tensor.offset for tensor in tensors if tensor.nbytes})


def list_checksums(section: Section, starts: Collection[int]) -> list[Checksum]:
    """Those of the storages in which a tensor starts (at these bytes of the file)."""
    members = list_members(section, lambda _path, _names: None)
    held = [one for one in members if any(one.offset <= start < one.offset + one.nbytes for start in starts)]
    return [member.checksum(section.path) for member in held]


ZIP_ARCHIVE = Container(NAME, is_zip, read_zip, sum_zip)
