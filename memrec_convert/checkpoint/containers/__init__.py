"""The file forms of checkpoints, tried in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from memrec_convert.checkpoint.containers.container import Container, Contents
from memrec_convert.checkpoint.containers.distributed_checkpoint import DISTRIBUTED_CHECKPOINT
from memrec_convert.checkpoint.containers.foreign import HEAD_BYTES, refuse_foreign, refuse_missing, unknown_form
from memrec_convert.checkpoint.containers.hugging_face import HUGGING_FACE
from memrec_convert.checkpoint.containers.legacy_pickle import LEGACY_PICKLE
from memrec_convert.checkpoint.containers.npz_tables import NPY_TABLE, NPZ_TABLES
from memrec_convert.checkpoint.containers.nvidia_directory import NVIDIA_DIRECTORY
from memrec_convert.checkpoint.containers.parts import refuse_part
from memrec_convert.checkpoint.containers.rank_files import RANK_FILES, find_rank_files
from memrec_convert.checkpoint.containers.safetensors_file import SAFETENSORS
from memrec_convert.checkpoint.containers.torchsnapshot import TORCHSNAPSHOT
from memrec_convert.checkpoint.containers.zip_archive import ZIP_ARCHIVE
from memrec_convert.errors import CheckpointError

__all__ = ["CONTAINERS", "Container", "Contents", "find_container", "open_checkpoint"]

CONTAINERS: tuple[Container, ...] = (
    NPY_TABLE,
    NPZ_TABLES,
    ZIP_ARCHIVE,
    LEGACY_PICKLE,
    HUGGING_FACE,
    SAFETENSORS,
    DISTRIBUTED_CHECKPOINT,
    TORCHSNAPSHOT,
    NVIDIA_DIRECTORY,
    RANK_FILES,
)


def find_container(path: Path) -> Container:
    """The form of the checkpoint at a path; CheckpointError names what is there instead."""
    try:
        if not path.exists() and find_rank_files(path):
            return RANK_FILES
        refuse_missing(path)
        refuse_part(path)
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
        contents = container.read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return contents if contents.files else replace(contents, files=(path,))


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
