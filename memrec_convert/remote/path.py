"""A URL as a path: what reads files by `pathlib` reads objects of a store, in ranges, through fsspec."""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import re
import stat as modes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PosixPath
from typing import IO, Any, cast
from urllib.request import url2pathname

from memrec_convert.errors import CheckpointError
from memrec_convert.remote.store import StoredObject, ask, connect, named, open_object, persist
from memrec_convert.streams import SizedStream

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^/]")  # pathlib leaves one slash of two
_AS_WRITTEN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://(.*)", re.DOTALL)
_OWN_FILE = re.compile(r"file:(?://)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)
_LEAST_READ, _MOST_READ = 1 << 14, 1 << 24
"""Bytes of a request: the first after a seek, and the most that reading on in order asks for at once."""

_KNOWN: dict[str, StoredObject | str] = {}
"""URL -> the object that was opened, or what else is there ("directory", "")."""


def is_url(path: object) -> bool:
    """Whether a path, as a caller gave it, is a URL."""
    return _URL.match(str(path)) is not None


def as_source(path: str | Path) -> Path:
    """The path that a text means: a URL (s3://bucket/key) or a local path.

    What the store says of a URL's objects holds from here on, until the same URL is asked for again. CheckpointError
    for a URL without a host or bucket, and for one that a path cannot hold.
    """
    if isinstance(path, str) and (own := _OWN_FILE.match(path)):
        return Path(url2pathname(own.group(1)))
    if isinstance(path, str) and (given := _AS_WRITTEN.match(path)):
        _refuse_slashes(path.partition("?")[0], given.group(1))
    if isinstance(path, RemotePath) or not is_url(path):
        return Path(path) if isinstance(path, str) else path
    found = RemotePath(path)
    below = str(found).rstrip("/") + "/"
    for known in [one for one in _KNOWN if one == str(found) or one.startswith(below)]:
        del _KNOWN[known]
    return found


def _refuse_slashes(shown: str, rest: str) -> None:
    """CheckpointError for slashes that a path does not keep: what is left would name another object."""
    if not rest or rest.startswith("/"):
        raise CheckpointError(f"{shown}: the URL has no host or bucket; expected scheme://bucket/key.")
    if "//" in rest and "::" not in rest:  # a chain of URLs has a sentence of its own
        raise CheckpointError(
            f"{shown}: found two slashes in a row in the URL or its query, expected one; download the file and convert "
            "that."
        )


class RemotePath(PosixPath):
    """A path in a store, with what readers of checkpoints ask of a path; CheckpointError where it cannot be read."""

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest.lstrip('/')}"

    @property
    def local_name(self) -> str:
        """What a local file of it is called: the name, without the query of a URL."""
        return str(self).partition("?")[0].rstrip("/").rpartition("/")[2]

    def find(self) -> StoredObject | str:
        """The object at this URL, "directory" where others lie below it, else ""."""
        url = str(self)
        if url not in _KNOWN:
            _KNOWN[url] = self._look(url) if len(self.parts) > 2 else ""
        return _KNOWN[url]

    def _look(self, url: str) -> StoredObject | str:
        store, key = connect(url)
        found = persist(lambda: ask(store, key), "the store was asked for it")
        if found is None or found["type"] != "file":
            return "" if found is None else "directory"
        return open_object(url, store, key, found)

    def require(self) -> StoredObject:
        """The object at this URL; CheckpointError where there is none."""
        with named(self):
            there = self.find()
            if isinstance(there, str):
                raise FileNotFoundError(errno.ENOENT, "a directory" if there else "no such object")
        return there

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether an object or a directory is there."""
        with named(self):
            return self.find() != ""

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether an object is there; False where the store may not say, as for keys in a bucket that is not listed."""
        with named(self), suppress(PermissionError):
            return isinstance(self.find(), StoredObject)
        return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether objects lie below; False where the store may not say."""
        with named(self), suppress(PermissionError):
            return self.find() == "directory"
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The size; nothing else of it is true."""
        return os.stat_result((modes.S_IFREG, 0, 0, 1, 0, 0, self.require().size, 0, 0, 0))

    def open(self, mode: str = "r", buffering: int = -1, *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]  # noqa: ANN401
        """A stream of the object's bytes, mode "rb" alone; without buffering nothing is read but what is asked for."""
        if mode != "rb":
            raise OSError(errno.EROFS, "a URL is only read")
        found = self.require()
        return io.BufferedReader(_Ranges(found)) if buffering else cast("IO[bytes]", _Exact(found))

    def read_bytes(self) -> bytes:
        """The whole object."""
        with self.open("rb") as file:
            content: bytes = file.read()
        return content

    def iterdir(self) -> Iterator[Path]:  # type: ignore[override]
        """The objects and directories directly below."""
        with named(self):
            store, key = connect(str(self))
            names = persist(
                lambda: [str(one["name"]) for one in store.ls(key, detail=True)], "the directory was listed"
            )
        return iter([self / name.rstrip("/").split("/")[-1] for name in names if name.rstrip("/") != key.rstrip("/")])

    def glob(self, pattern: str, **options: Any) -> Iterator[Path]:  # type: ignore[override]  # noqa: ANN401
        """What lies below by a pattern whose directories are each `*` or a name."""
        first, _, rest = pattern.partition("/")
        found = [one for one in self.iterdir() if fnmatch.fnmatchcase(one.name, first)]
        return iter([below / rest for below in found if (below / rest).exists()] if rest else found)

    def resolve(self, strict: bool = False) -> RemotePath:
        """As it is: a store has no links."""
        return self


class _Exact(SizedStream):
    """The raw stream of an object for readers that know what they want; each read is filled up to the object's end."""

    def __init__(self, source: StoredObject) -> None:
        super().__init__(source.size)
        self.source = source

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        view = memoryview(buffer).cast("B")[: max(0, self.size - self.position)]
        for start in range(0, len(view), _MOST_READ):
            stop = min(start + _MOST_READ, len(view))
            view[start:stop] = self.source.read(self.position + start, self.position + stop)
        self.position += len(view)
        return len(view)


class _Ranges(SizedStream):
    """The raw stream of an object; what is read in order is asked for in ever larger ranges."""

    def __init__(self, source: StoredObject) -> None:
        super().__init__(source.size)
        self.source = source
        self.start, self.held, self.ahead = 0, b"", _LEAST_READ

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        view = memoryview(buffer).cast("B")
        if not self.start <= self.position < self.start + len(self.held):
            self._fetch(len(view))
        begin = self.position - self.start
        content = self.held[begin : begin + len(view)]
        view[: len(content)] = content
        self.position += len(content)
        return len(content)

    def _fetch(self, wanted: int) -> None:
        """The next range, from the position on: at least what is wanted, as far as one request goes."""
        in_order = self.position == self.start + len(self.held) and self.held != b""
        self.ahead = min(self.ahead * 2, _MOST_READ) if in_order else _LEAST_READ
        stop = min(self.position + min(max(wanted, self.ahead), _MOST_READ), self.source.size)
        self.start, self.held = self.position, b""
        if stop > self.position:
            self.held = self.source.read(self.position, stop)
