"""Zip archives that lie about their members, and .npz archives about their arrays."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from hostile.building import Build, Case, archive_bytes, file_of, state, tensor, write_archive

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def _archive(**members: bytes) -> Case:
    """An archive with further members."""
    return (lambda folder: write_archive(folder / "m.pt", state(tensor()), **members)), ""


def _edited(edit: Callable[[bytearray], bytes | bytearray]) -> Build:
    """A good archive whose bytes were edited."""

    def build(folder: Path) -> Path:
        (folder / "m.pt").write_bytes(edit(bytearray(archive_bytes(folder))))
        return folder / "m.pt"

    return build


def _set(signature: bytes, field: int, form: str, *values: int, last: bool = False) -> Build:
    """A good archive with a number changed in the first (or last) record of a kind."""

    def edit(content: bytearray) -> bytearray:
        at = content.rindex(signature) if last else content.index(signature)
        struct.pack_into(form, content, at + field, *values)
        return content

    return _edited(edit)


def _grow_first_member(content: bytearray) -> bytearray:
    at = content.index(_CENTRAL)
    (size,) = struct.unpack_from("<I", content, at + 20)
    struct.pack_into("<II", content, at + 20, size + 10, size + 10)
    return content


def _both_at_one_place(content: bytearray) -> bytearray:
    """Both entries of the directory lead to the first member."""
    first, second = content.index(_CENTRAL), content.rindex(_CENTRAL)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return content


def _twice(folder: Path) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "m.pt", "w") as archive:
        warnings.simplefilter("ignore")
        for content in (state(tensor()), b"\x80\x02}."):
            archive.writestr("m/data.pkl", content)
        archive.writestr("m/data/0", bytes(24))
    return folder / "m.pt"


def _bomb(method: int, name: str = "m/data.pkl") -> Build:
    """A member of 50 MB in a few kilobytes."""

    def build(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "m.pt", "w", method) as archive, archive.open(name, "w") as member:
            for _ in range(50):
                member.write(bytes(2**20))
        return folder / "m.pt"

    return build


def _stored_bomb(folder: Path) -> Path:
    """A pickle of 3 GB that takes no room on the disk, stored as it is."""
    content = archive_bytes(folder)
    at, huge = content.index(_CENTRAL), 3 * 2**30
    name = content[30:40]
    local, directory = content[:40], bytearray(content[at : content.index(_CENTRAL, at + 1)])
    struct.pack_into("<II", directory, 20, huge, huge)
    with (folder / "m.pt").open("wb") as file:
        file.write(local)
        file.seek(40 + huge)
        file.write(directory)
        file.write(_END + struct.pack("<4H2IH", 0, 0, 1, 1, len(directory), 40 + huge, 0))
    assert name == b"m/data.pkl"
    return folder / "m.pt"


def _many_members(folder: Path) -> Path:
    """A directory of 100 MB, which begins with the entries of a good one; the rest takes no room on the disk."""
    content, size = archive_bytes(folder), 100_000_000
    with (folder / "m.pt").open("wb") as file:
        file.write(_LOCAL + bytes(27) + content[content.index(_CENTRAL) : content.index(_END)])
        file.seek(31 + size)
        file.write(_END + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, size, 31, 0))
    return folder / "m.pt"


def _wrong_storage(content: bytearray) -> bytearray:
    """A bit of the storage flipped, its checksum left."""
    content[content.rindex(b"m/data/0", 0, content.index(_CENTRAL)) + 12] ^= 1
    return content


def _script(folder: Path) -> Path:
    return write_archive(
        folder / "m.pt",
        state(tensor()),
        m__code____torch__=b"",
        m__constants=b"",
        **{"m__constants.pkl": b"\x80\x02).", "m__code__x.py": b"import os"},
    )


def _zip64(folder: Path) -> Path:
    """A 64-bit end record that places the directory past the end."""
    content = archive_bytes(folder)
    at = content.index(_END)
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 2**62, 2**62)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = _END + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    (folder / "m.pt").write_bytes(content[:at] + record + locator + end)
    return folder / "m.pt"


def _npz(header: str | bytes, data: bytes = bytes(24), *, version: bytes = b"\1\0", claimed: int | None = None) -> Case:
    """An .npz of one array."""
    text = header if isinstance(header, bytes) else header.encode()
    length = len(text) if claimed is None else claimed
    array = b"\x93NUMPY" + version + length.to_bytes(2 if version == b"\1\0" else 4, "little") + text + data
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("emb.npy", array)
    said = "not an array of numpy|it is damaged|a numpy .npz archive|a table has rows"
    return file_of(held.getvalue(), said, called="m.npz")


def _header(descr: str = "'<f4'", shape: str = "(3, 2)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


_OUTSIDE, _DAMAGED = "leads out of the archive", "truncated or damaged"
_PLACES = {
    "absolute": {"__etc__passwd": b"x"},
    "above": {"m__..__..__x": b"x"},
    "backslash": {"m__a\\b": b"x"},
    "above alone": {"..": b"x"},
    "above at the end": {"m__..": b"x"},
    "drive": {"C:\\x": b"x"},
}
CASES: dict[str, Case] = {
    **{f"a member's name is {kind}": (_archive(**members)[0], _OUTSIDE) for kind, members in _PLACES.items()},
    "a pickle twice": (_twice, "twice"),
    "two folders with a pickle": (_archive(**{"n__data.pkl": b"N."})[0], "2 members named data.pkl"),
    "no pickle": (file_of(b"PK\x05\x06" + bytes(18), "none named data.pkl")),
    "code inside": (_script, "TorchScript"),
    "byte order big": (_archive(m__byteorder=b"big")[0], "not little-endian"),
    "byte order of a hundred bytes": (_archive(m__byteorder=bytes(100))[0], "at most 64"),
    "byte order unknown": (_archive(m__byteorder=b"LITTLE")[0], "not little-endian"),
    "deflated": (lambda folder: write_archive(folder / "m.pt", compression=zipfile.ZIP_DEFLATED), "compressed"),
    "bomb, deflate": (_bomb(zipfile.ZIP_DEFLATED), "compressed"),
    "bomb, bzip2": (_bomb(zipfile.ZIP_BZIP2), "compressed"),
    "bomb, lzma": (_bomb(zipfile.ZIP_LZMA), "compressed"),
    "bomb in an .npz": (_bomb(zipfile.ZIP_DEFLATED, "a.npy"), "compressed .npz"),
    "pickle of 3 GB": (_stored_bomb, "at most"),
    "two million members": (_many_members, "no checkpoint has as many members"),
    "encrypted": (_set(_CENTRAL, 8, "<H", 1), "compressed or encrypted"),
    "method unknown": (_set(_CENTRAL, 10, "<H", 77), "compressed"),
    "version of the future": (_set(_CENTRAL, 6, "<H", 999), _DAMAGED),
    "sizes that differ": (_set(_CENTRAL, 20, "<I", 5), "compressed"),
    "another name where it lies": (_edited(lambda found: found.replace(b"m/data/0", b"m/data/9", 1)), "another name"),
    "a member without a name": (_set(_CENTRAL, 28, "<H", 0), "."),
    "a longer name where it lies": (_set(_LOCAL, 26, "<H", 60_000), "another name"),
    "an offset into nothing": (_set(_CENTRAL, 42, "<I", 3, last=True), "no member begins"),
    "an offset past the end": (_set(_CENTRAL, 42, "<I", 2**31, last=True), "no member begins|truncated"),
    "more bytes than there are": (_set(_CENTRAL, 20, "<II", 5000, 5000, last=True), "past the archive's members"),
    "extra bytes past the end": (_set(_LOCAL, 28, "<H", 65_535), "overlaps|past the archive's members"),
    "members that overlap": (_edited(_grow_first_member), "overlaps"),
    "members in one place": (_edited(_both_at_one_place), "another name|overlaps"),
    "checksum of the pickle": (_edited(lambda content: content.replace(b"emb_l", b"emb_k")), "do not match"),
    "checksum of a storage": (_edited(_wrong_storage), "data/0: the bytes do not match"),
    "end cut off": (_edited(lambda content: content[:-10]), _DAMAGED),
    "begin cut off": (_edited(lambda content: content[5:]), "not a checkpoint|begins"),
    "one byte put in": (_edited(lambda content: content[:9] + b"x" + content[9:]), "."),
    "directory past the end": (_set(_END, 16, "<I", 2**31), _DAMAGED),
    "directory longer than the file": (_set(_END, 12, "<I", 2**31), _DAMAGED),
    "directory of fewer members than it says": (_set(_END, 8, "<2H", 3, 3), _DAMAGED),
    "an entry that swallows the next": (_set(_CENTRAL, 32, "<H", 54), _DAMAGED),
    "directory of no members": (_set(_END, 8, "<2H2I", 0, 0, 0, 0), "none named data.pkl"),
    "directory that is none": (_edited(lambda content: content.replace(_CENTRAL, b"PK\x01\x03")), _DAMAGED),
    "64-bit directory past the end": (_zip64, _DAMAGED),
    "storage cut to nothing": (lambda folder: write_archive(folder / "m.pt", state(tensor()), storages=b""), "0 bytes"),
    "npz of objects": _npz(_header("'|O'")),
    "npz of code": _npz("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (3, 2), }\n"),
    "npz of records": _npz(_header("[('a', '<f4')]")),
    "npz of big-endian floats": _npz(_header("'>f4'")),
    "npz of more rows than bytes": _npz(_header(shape="(4, 2)")),
    "npz of fewer rows than bytes": _npz(_header(shape="(2, 2)")),
    "npz of negative rows": _npz(_header(shape="(-3, -2)")),
    "npz of 2^80 rows": _npz(_header(shape=f"({2**80}, 2)")),
    "npz of rows that overflow to 24 bytes": _npz(_header(shape=f"({2**62 + 3}, 2)")),
    "npz of a computed shape": _npz(_header(shape="(9**9**9, 2)")),
    "npz of nested brackets": _npz(_header(shape="(" * 3000 + ")" * 3000)),
    "npz whose header is longer than the file": _npz(_header(), claimed=60_000),
    "npz whose header has 4 GB": _npz(_header(), version=b"\2\0", claimed=2**32 - 1),
    "npz of another version": _npz(_header(), version=b"\7\0"),
    "npz of numbers too small": _npz(_header("'<f4'", shape="(6,)")),
}
