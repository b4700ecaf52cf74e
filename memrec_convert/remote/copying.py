"""A copy of a remote checkpoint on the local disk, for what reads its rows in many passes and in any order."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from memrec_convert.errors import CheckpointError, OutputError
from memrec_convert.parallel import ordered_map
from memrec_convert.remote.path import RemotePath, as_source
from memrec_convert.remote.store import StoredObject, connect, named, persist, tell

_RANGE_BYTES = 1 << 24
_STREAMS = 4
_SPARE_BYTES = 1 << 26

Progress = Callable[[str, int, int], None]


@contextlib.contextmanager
def at_hand(path: str | Path, work: str | Path | None, beside: Path | None, progress: Progress) -> Iterator[Path]:
    """A local path with the bytes of `path`: that path itself, or a copy of what a URL names.

    The copy is read once, in order, in ranges of 16 MiB. It lies in `work`, where a later run finds it again while the
    store has the same version; without `work` it lies in the folder `beside` and is removed at the end. CheckpointError
    where it cannot be read or there is no room for it.
    """
    source = as_source(path)
    with contextlib.ExitStack() as stack:
        yield _fetch(source, work, beside, progress, stack) if isinstance(source, RemotePath) else source


def _fetch(
    source: RemotePath, work: str | Path | None, beside: Path | None, progress: Progress, stack: contextlib.ExitStack
) -> Path:
    """The copy; a temporary folder for it goes when the stack does."""
    with named(source):
        objects = _list_objects(source)
    try:
        if work is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".memrec-source-", dir=beside)))
        else:
            folder = Path(work) / "source"
            folder.mkdir(parents=True, exist_ok=True)
        return _copy(source, objects, folder, progress)
    except OSError as error:
        raise OutputError(f"cannot copy {source} to {work or beside}: {tell(error)}.") from error


def _list_objects(source: RemotePath) -> dict[PurePosixPath, StoredObject]:
    """What is to be copied, by its place below the copy's path; that of a single object is "."."""
    if not source.exists():
        raise CheckpointError(f"{source}: no such object.")
    if source.is_file():
        return {PurePosixPath("."): source.require()}
    store, key = connect(str(source))
    objects = {}
    listed = persist(lambda: store.find(key, detail=True), "the directory was listed")
    for name in sorted(name for name, found in listed.items() if found["type"] == "file" and not name.endswith("/")):
        place = PurePosixPath(name.removeprefix(key.rstrip("/") + "/"))
        if place.is_absolute() or ".." in place.parts or "\0" in name:
            raise CheckpointError(f"{source}: names a file outside of its directory ({name!r}); it is forged.")
        objects[place] = (source / place).require()  # asked for one by one: a listing may tell versions otherwise
    return objects


def _copy(source: RemotePath, objects: dict[PurePosixPath, StoredObject], folder: Path, progress: Progress) -> Path:
    """The copy below `folder`, in a place of its own for this version; it is there whole or not at all."""
    text = repr([str(source), *((str(place), one.size, one.version) for place, one in objects.items())])
    place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
    whole = place / source.local_name
    if whole.exists():
        return whole
    total = sum(one.size for one in objects.values())
    free = shutil.disk_usage(folder).free
    if free < total + _SPARE_BYTES:
        raise CheckpointError(
            f"{source}: takes {total:,} bytes, and {folder} has room for {free:,}: rows are read from a local copy; "
            "name a folder on a larger disk with --work DIR."
        )
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=place) as partial:  # another process may be at it too
        done = 0
        for name, one in objects.items():
            target = Path(partial) / "copy" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for content in ordered_map(_reader_of(one), range(0, one.size, _RANGE_BYTES), workers=_STREAMS):
                    file.write(content)
                    done += len(content)
                    progress("copy", done, total)
                file.flush()
                os.fsync(file.fileno())
        try:
            (Path(partial) / "copy").rename(whole)
        except OSError:
            if not whole.exists():  # of another process, which was faster
                raise
    return whole


def _reader_of(one: StoredObject) -> Callable[[int], bytes]:
    """Reads the range that begins at a byte."""
    return lambda start: one.read(start, min(start + _RANGE_BYTES, one.size))
