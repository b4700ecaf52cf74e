"""One object of a store: what tells its version from others, and reads that survive a fault or say what it was."""

from __future__ import annotations

import asyncio
import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from memrec_convert.errors import CheckpointError

Found = TypeVar("Found")

_WAITS = (0.1, 0.4, 1.6)
"""Seconds before each further try."""

_VERSION_KEYS = ("ETag", "etag", "generation", "LastModified", "Last-Modified", "last_modified", "mtime", "created")
"""Where the stores of fsspec say which version of an object is there, the surest first."""

_CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
"""Errors of the stores' clients that are no OSError."""

_TRY_AGAIN = (408, 425, 429)


class ReplacedError(OSError):
    """The object is not the one any more that was opened."""


@dataclass(frozen=True)
class StoredObject:
    """An object of `size` bytes. `version` is what the store said of it when it was opened: no read mixes two."""

    url: str
    store: Any
    key: str
    size: int
    version: str

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes from `start` to before `stop`, after as many tries as it takes, up to four.

        CheckpointError where they cannot be had, or the object is another one now. That is asked after each read: an
        object that is the same before and after was the same meanwhile.
        """
        with named(self.url):  # no OSError: zipfile would take it for a damaged archive
            return persist(lambda: self._read_once(start, stop), f"bytes {start} to {stop}")

    def _read_once(self, start: int, stop: int) -> bytes:
        try:
            content = self._fetch(start, stop)
        except FileNotFoundError:
            content = b""
        found = ask(self.store, self.key)
        if found is None or (found["size"], version_of(found)) != (self.size, self.version):
            raise ReplacedError(errno.ESTALE, "the object was replaced while it was read; start again")
        if len(content) != stop - start:
            raise OSError(errno.EIO, f"{len(content)} of {stop - start} bytes arrived")
        return content

    def _fetch(self, start: int, stop: int) -> bytes:
        if _is_http(self.url):  # unlike cat_file, an open file never takes the whole object for a range of it
            with self.store.open(self.key, "rb", size=self.size, cache_type="none") as file:
                file.seek(start)
                content: bytes = file.read(stop - start)
        else:
            content = self.store.cat_file(self.key, start=start, end=stop)
        return content


@contextmanager
def named(url: object) -> Iterator[None]:
    """What cannot be read as a CheckpointError that names the URL."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{url}: cannot be read ({tell(error)}).") from error


def connect(url: str) -> tuple[Any, str]:
    """The store of a URL, and the object's key in it; OSError where what reads it is not installed."""
    options = {"headers": {"Accept-Encoding": "identity"}} if _is_http(url) else {}
    if "::" in url:
        raise OSError(errno.EINVAL, "a chain of URLs is not read; give the object's own")
    try:
        from fsspec.core import url_to_fs

        store, key = url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        raise OSError(errno.ENOSYS, f"pip install 'memrec-convert[remote]' is needed first: {tell(error)}") from error
    except failures() as error:
        raise OSError(errno.EINVAL, tell(error)) from error
    return store, key


def ask(store: Any, key: str) -> dict[str, Any] | None:  # noqa: ANN401 - fsspec has no types
    """What the store says of a key; None where nothing is there."""
    try:
        found: dict[str, Any] = store.info(key)
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec takes every fault of HTTP for a missing file
        if not isinstance(cause, failures()) or getattr(cause, "status", None) in (404, 410):
            return None
        raise cause from None
    return found


def open_object(url: str, store: Any, key: str, found: dict[str, Any]) -> StoredObject:  # noqa: ANN401
    """The object as the store describes it now; OSError where it does not tell size or version, or has no ranges."""
    size, version = found.get("size"), version_of(found)
    if size is None or found.get("partial") is False:
        raise OSError(errno.ENOTSUP, "the server offers no ranges of it; download it first")
    if not version:
        raise OSError(errno.ENOTSUP, "the server tells no ETag or date, so a change would go unseen; download it first")
    return StoredObject(url, store, key, int(size), version)


def version_of(found: dict[str, Any]) -> str:
    """What tells this version of an object from others; "" where the store says nothing that does."""
    said = (str(found[name]) for name in _VERSION_KEYS if found.get(name))
    return next((one for one in said if not one.startswith("W/")), "")  # a weak ETag may outlive a change


def persist(action: Callable[[], Found], what: str) -> Found:
    """What an action gives, tried again after faults that may pass; OSError says what the last one was."""
    for wait in (*_WAITS, None):
        try:
            return action()
        except failures() as error:
            if wait is None or not _may_pass(error):
                tries = f" in {len(_WAITS) + 1} tries" if _may_pass(error) else ""
                raise OSError(_number(error), f"{what}{tries}: {tell(error)}") from error
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def failures() -> tuple[type[Exception], ...]:
    """What reading a store may raise, as far as its client is loaded."""
    modules = [(sys.modules.get(module), name) for module, name in _CLIENT_ERRORS]
    clients = [getattr(module, name) for module, name in modules if module is not None]
    return (OSError, EOFError, ValueError, asyncio.TimeoutError, *clients)


def tell(error: BaseException) -> str:
    """An error in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:300].rstrip(".") or type(error).__name__


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (ReplacedError, PermissionError, FileNotFoundError)):
        return False
    status = getattr(error, "status", None)
    return not (isinstance(status, int) and 400 <= status < 500 and status not in _TRY_AGAIN)


def _number(error: Exception) -> int:
    """The errno of what is raised in its place."""
    denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    return errno.EACCES if denied else errno.EIO


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))
