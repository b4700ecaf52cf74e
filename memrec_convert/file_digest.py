"""The SHA-256 of a checkpoint's files, taken once in a run, beside other work where it can be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from memrec_convert.errors import CheckpointError
from memrec_convert.parallel import ALONE, Crew

_BYTES_AT_A_TIME = 1 << 20

_BEGUN: dict[Path, Future[tuple[str, State]]] = {}
"""Of files that are read already, before anybody knows what is in them."""

State = tuple[int, int, int]
"""What changes where a file does: its inode, its size and when it was last written."""


class FilesDigest:
    """The digest of some files: of one, its own; of several, that of their own digests in order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._found: dict[Path, tuple[str, State]] = {}

    def begin(self) -> None:
        """Starts a thread that reads the files, where none does. A process may end meanwhile."""
        begin_digest(*self.files)

    def hex(self, crew: Crew = ALONE) -> str:
        """64 hex digits, once all is read; several files are shared by a crew, each being read by one member.

        CheckpointError where a file has changed since it was read; OSError where one cannot be read.
        """
        if crew.size == 1:
            digests = [self._digest(file) for file in self.files]
        elif len(self.files) == 1:
            digests = [crew.decide("digest of the file", lambda: self._digest(self.files[0]))]
        else:
            digests = list(crew.map("digests of files", self._digest, self.files))
        return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()

    def _digest(self, file: Path) -> str:
        if file not in self._found:
            self._found[file] = _BEGUN.pop(file).result() if file in _BEGUN else _digest_file(file)
        digest, state = self._found[file]
        if state != _look_at(file):
            raise CheckpointError(f"{file}: was changed while it was read; start again when it is written.")
        return digest


def begin_digest(*files: Path) -> None:
    """Starts a thread that reads these files in turn, less those that are being read already."""
    new = [(file, Future[tuple[str, State]]()) for file in files if file not in _BEGUN]
    if new:
        _BEGUN.update(new)
        Thread(target=_fill, args=(new,), name="digest", daemon=True).start()


def _fill(files: Sequence[tuple[Path, Future[tuple[str, State]]]]) -> None:
    for file, found in files:
        try:
            found.set_result(_digest_file(file))
        except OSError as error:
            found.set_exception(error)


def _digest_file(file: Path) -> tuple[str, State]:
    state, digest = _look_at(file), hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(_BYTES_AT_A_TIME):
            digest.update(chunk)
    return digest.hexdigest(), state


def _look_at(file: Path) -> State:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
