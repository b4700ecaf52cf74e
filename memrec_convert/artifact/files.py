"""Files that appear whole or not at all: written beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from memrec_convert.errors import OutputError


def check_target(path: Path, *, force: bool) -> None:
    """Refuses a target that cannot become a file, before any work is done for it."""
    folder = path.parent
    if "\0" in str(path):
        raise OutputError(f"cannot write {str(path)!r}: a file's name holds no null characters; choose another.")
    try:
        path.exists()
    except OSError as error:  # a name that is too long, a directory that may not be entered
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another name.") from error
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; name a file.")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is no regular file; name another.")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already; choose another name, or replace it with --force.")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: the directory {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}; choose another directory.")


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> int:
    """Writes the parts as one file, atomically; returns its bytes. A failure leaves the old file alone."""
    written = 0
    try:
        # Not the whole name: the temporary one must not be too long where the target's just fits.
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another directory.") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            for part in parts:
                stream.write(part)
                written += len(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(_permissions(path))
        temporary.replace(path)
        with contextlib.suppress(OSError):  # some file systems cannot; the file itself is whole and in its place
            _flush_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {path} after {written} bytes: {error.strerror or error}; free some space or choose another "
            "directory. Nothing was left behind."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return written


def _permissions(path: Path) -> int:
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
