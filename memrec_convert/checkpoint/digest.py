"""The SHA-256 of a checkpoint's files, taken once in a run, beside other work where it can be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from memrec_convert.parallel import ALONE, Crew

_BYTES_AT_A_TIME = 1 << 20


class FilesDigest:
    """The digest of some files: of one, its own; of several, that of their own digests in order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._found: Future[str] | None = None

    def begin(self) -> None:
        """Starts a thread that reads the files, where nothing has asked for them yet. A process may end meanwhile."""
        if self._found is None:
            self._found = Future()
            Thread(target=self._fill, args=(self._found,), name="digest", daemon=True).start()

    def hex(self, crew: Crew = ALONE) -> str:
        """64 hex digits, once all is read. OSError where a file cannot be read.

        Where nobody has begun, a crew shares the files, each being read by one member.
        """
        if self._found is None:
            self._found = Future()
            self._found.set_result(_join(list(crew.map("digests of files", _digest_file, self.files))))
        return self._found.result()

    def _fill(self, found: Future[str]) -> None:
        try:
            found.set_result(_join([_digest_file(file) for file in self.files]))
        except OSError as error:
            found.set_exception(error)


def _join(digests: Sequence[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _digest_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_BYTES_AT_A_TIME):
            digest.update(chunk)
    return digest.hexdigest()
