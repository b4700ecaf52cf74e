"""Files that appear whole or not at all: written beside the target, flushed, read back, then renamed over it.

The temporary file is locked while it is written. A process that is killed leaves it there unlocked, and the next write
into the same directory removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from memrec_convert.errors import MemrecError, OutputError
from memrec_convert.remote import is_url

_SUFFIX = ".memrec-partial"
_TEMPORARY = re.compile(rf"\..*\.[a-z0-9_]{{8}}{re.escape(_SUFFIX)}", re.ASCII | re.DOTALL)
_CHUNK_BYTES = 1 << 22
_MOST_ATTEMPTS = 100


def as_path(path: object, error: type[MemrecError]) -> Path:
    """A path from what a caller gave; `error` where that names no local file."""
    if is_url(path):
        raise error(f"{path}: found a URL, expected a local file; only checkpoints, logs and counts are read by URL.")
    try:
        plain = Path(path)  # type: ignore[arg-type]
        os.fsencode(plain)
    except (TypeError, UnicodeEncodeError) as cause:
        raise error(f"the path is {path!r:.200}; expected the name of a file, a str or a pathlib.Path.") from cause
    return plain


def check_target(path: Path, *, force: bool) -> None:
    """Refuses a target that cannot become a file, before any work is done for it."""
    folder = path.parent
    if is_url(path):
        raise OutputError(f"cannot write {path}: results are written to local files; copy them from there.")
    if "\0" in str(path):
        raise OutputError(f"cannot write {str(path)!r}: a file's name holds no null characters; choose another.")
    try:
        path.exists()
    except OSError as error:  # a name that is too long, a directory that may not be entered
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another name.") from error
    _refuse_special(path)
    if path.exists() and not force:
        raise OutputError(f"{path} exists already; choose another name, or replace it with --force.")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: the directory {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}; choose another directory.")


def refuse_same(target: Path, source: Path, what: str) -> None:
    """OutputError where the target is the file that it would be made from; `what` names that."""
    same = False
    with contextlib.suppress(OSError, ValueError):  # one of them is not there, so they are two
        same = target.samefile(source)
    if same:
        raise OutputError(f"cannot write {target}: it is {what} itself; choose another name for the result.")


def _refuse_special(path: Path) -> None:
    """A rename would put a file in a device's place as readily as in a file's."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; name a file.")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is no regular file; name another.")


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> int:
    """Writes the parts as one file, atomically; returns its bytes. A failure leaves the old file alone.

    The bytes are read back from the disk's file and compared before it takes its name. Ctrl-C is taken between two
    pieces of the writing, so that it finds nothing half done; it leaves nothing behind either.
    """
    written = 0
    try:
        with _interrupts_held() as interrupted:
            _refuse_special(path)
            remove_orphans(path.parent)
            stream, temporary = _open_temporary(path)
            with contextlib.ExitStack() as undo:
                undo.callback(_remove, temporary)
                with contextlib.ExitStack() as locked:
                    with stream:
                        locked.callback(_close, os.dup(stream.fileno()))  # the lock outlives the stream, to the rename
                        digest = hashlib.blake2b()
                        for part in parts:
                            for piece in _cut(part):
                                _stop_if(interrupted)
                                stream.write(piece)
                                digest.update(piece)
                                written += len(piece)
                        os.fchmod(stream.fileno(), _permissions(path))
                        stream.flush()
                        os.fsync(stream.fileno())
                        _compare(stream, digest.digest(), interrupted)
                    _stop_if(interrupted)
                    temporary.replace(path)
                undo.pop_all()
            with contextlib.suppress(OSError):  # some file systems cannot; the file itself is whole and in its place
                _flush_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {path} after {written} bytes: {error.strerror or error}; free some space or choose another "
            "directory. Nothing was left behind."
        ) from error
    return written


@contextlib.contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Puts Ctrl-C off until the block ends; the list has an entry once one has come.

    Where its handler is not Python's own to replace (another thread, an ignored signal) nothing is changed.
    """
    interrupted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)

    held = signal.getsignal(signal.SIGINT)
    try:
        replaced = callable(held) and signal.signal(signal.SIGINT, note) is not None
    except ValueError:  # only the main thread has handlers, and only it is interrupted
        replaced = False
    try:
        yield interrupted
    finally:
        if replaced:
            signal.signal(signal.SIGINT, held)
            if interrupted and callable(held):
                held(signal.SIGINT, None)


def _stop_if(interrupted: list[int]) -> None:
    """Ends the writing; the handler that was put off then says why, in its own way."""
    if interrupted:
        raise KeyboardInterrupt


def _open_temporary(path: Path) -> tuple[BinaryIO, Path]:
    """A new file beside the target, locked as long as it is open; OutputError where there can be none."""
    for _ in range(_MOST_ATTEMPTS):
        try:
            # Not the whole name: the temporary one must not be too long where the target's just fits.
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", suffix=_SUFFIX, dir=path.parent)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another directory.") from error
        with contextlib.ExitStack() as undo:
            undo.callback(_discard, handle, name)
            locked = _lock(handle)
            if os.fstat(handle).st_nlink and locked is not False:
                stream = os.fdopen(handle, "w+b")
                undo.pop_all()
                return stream, Path(name)
            # Another write took it for an orphan in the moment before it was locked.
    raise OutputError(f"cannot write {path}: its temporary files vanish as they are made; choose another directory.")


def _discard(handle: int, name: str) -> None:
    _close(handle)
    _remove(Path(name))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _close(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether the file is now locked by this process; None where the file system knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_orphans(folder: Path) -> None:
    """Removes the temporary files of processes that were killed; those that are being written are locked."""
    try:
        names = [entry.name for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
    except OSError:  # the write itself will say what is the matter
        return
    for name in names:
        with contextlib.suppress(OSError):
            handle = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if _lock(handle):
                    (folder / name).unlink()
            finally:
                os.close(handle)


def _cut(part: bytes | memoryview) -> Iterator[memoryview]:
    whole = memoryview(part).cast("B")
    for start in range(0, len(whole), _CHUNK_BYTES):
        yield whole[start : start + _CHUNK_BYTES]


def _compare(stream: BinaryIO, expected: bytes, interrupted: list[int]) -> None:
    """OSError unless the file holds what was written."""
    found = hashlib.blake2b()
    stream.seek(0)
    while piece := stream.read(_CHUNK_BYTES):
        _stop_if(interrupted)
        found.update(piece)
    if found.digest() != expected:
        raise OSError("what was read back is not what was written")


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
