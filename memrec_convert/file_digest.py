"""The SHA-256 of a checkpoint's files, taken once in a run, beside other work where it can be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from memrec_convert.errors import CheckpointError
from memrec_convert.parallel import ALONE, Crew

_BYTES_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class _Reading:
    """A file that a thread reads, and how it was then: its inode, its size and when it was last written."""

    file: Path
    state: tuple[int, int, int]
    found: Future[str] = field(default_factory=Future)


_BEGUN: dict[Path, _Reading] = {}
"""Of files that are read before anybody knows what is in them."""


class FilesDigest:
    """The digest of some files: of one, its own; of several, that of their own digests in order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._readings: dict[Path, _Reading] = {}

    def begin(self) -> None:
        """Starts a thread that reads the files, less those that `begin_digest` has started on.

        From here on, a change of a file is noticed. A process may end meanwhile. CheckpointError where one is gone.
        """
        begin_digest(*(file for file in self.files if file not in self._readings))
        self._readings |= {file: _BEGUN.pop(file) for file in self.files if file in _BEGUN}

    def hex(self, crew: Crew = ALONE) -> str:
        """64 hex digits, once all is read; several files are shared by a crew, each being read by one member.

        CheckpointError where a file has changed since it was read, or cannot be read.
        """
        if crew.size == 1:
            digests = [self._digest(file) for file in self.files]
        elif len(self.files) == 1:
            digests = [crew.decide("digest of the file", lambda: self._digest(self.files[0]))]
        else:
            digests = list(crew.map("digests of files", self._digest, self.files))
        return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()

    def _digest(self, file: Path) -> str:
        if file not in self._readings:
            self._readings[file] = _Reading(file, _look_at(file))
            _fill([self._readings[file]])
        reading = self._readings[file]
        digest = reading.found.result()
        if reading.state != _look_at(file):
            raise CheckpointError(f"{file}: was changed while it was read; start again when it is written.")
        return digest


def begin_digest(*files: Path) -> None:
    """Starts a thread that reads these files in turn, less those that are being read as they are."""
    new = [one for one in (_Reading(file, _look_at(file)) for file in files) if _is_new(one)]
    if new:
        _BEGUN.update((one.file, one) for one in new)
        Thread(target=_fill, args=(new,), name="digest", daemon=True).start()


def _is_new(reading: _Reading) -> bool:
    """Whether nobody reads the file as it is now."""
    known = _BEGUN.get(reading.file)
    return known is None or known.state != reading.state


def _fill(readings: Sequence[_Reading]) -> None:
    for one in readings:
        try:
            one.found.set_result(_digest_file(one.file))
        except OSError as error:
            one.found.set_exception(_unreadable(one.file, error))


def _digest_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(_BYTES_AT_A_TIME):
            digest.update(chunk)
    return digest.hexdigest()


def _look_at(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{file}: cannot be read ({error.strerror or error}).")
