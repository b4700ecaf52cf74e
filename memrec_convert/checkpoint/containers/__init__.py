"""The file forms of checkpoints, tried in order."""

from __future__ import annotations

from pathlib import Path

from memrec_convert.checkpoint.containers.container import Container, Contents
from memrec_convert.checkpoint.containers.foreign import HEAD_BYTES, refuse_foreign, refuse_missing, unknown_form
from memrec_convert.checkpoint.containers.legacy_pickle import LEGACY_PICKLE
from memrec_convert.checkpoint.containers.safetensors_file import SAFETENSORS
from memrec_convert.checkpoint.containers.zip_archive import ZIP_ARCHIVE
from memrec_convert.errors import CheckpointError

__all__ = ["CONTAINERS", "Container", "Contents", "find_container", "open_checkpoint"]

CONTAINERS: tuple[Container, ...] = (ZIP_ARCHIVE, LEGACY_PICKLE, SAFETENSORS)


def find_container(path: Path) -> Container:
    """The form of the checkpoint at a path; CheckpointError names what is there instead."""
    try:
        refuse_missing(path)
        head = b"" if path.is_dir() else _read_head(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error
    refuse_foreign(path, head)
    for container in CONTAINERS:
        if container.sniff(path, head):
            return container
    raise unknown_form(path, head)


def open_checkpoint(path: Path) -> Contents:
    """What the checkpoint at a path holds, from its headers alone; nothing in it is executed."""
    container = find_container(path)
    try:
        return container.read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
