"""What a container is: a file form that can be recognised, opened into inert objects, and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from memrec_convert.checkpoint.checksum import Checksum
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.tensor_ref import TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError


@dataclass(frozen=True)
class Contents:
    """What a file holds: nested dicts, lists and placeholders with `StoredTensor` leaves; no tensor has been read.

    `files` are those that it lies in, where it is not one file. `bare_tables`: the form names arrays, not the parts of
    a network, so any matrix of floats is a table. `ordered`: names come in the order in which they were saved.
    `notes`: what to warn of.
    """

    container: str
    root: object
    unrun_classes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    bare_tables: bool = False
    ordered: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Container:
    """One form of checkpoint. A new one is a file with such a constant, added to `CONTAINERS`.

    `sniff(path, head)` says whether a path is of this form, from its first bytes (none for a directory);
    `read(path)` opens it, reading headers only; `checksums(path, tensors)` are those that the form has of the stored
    bytes under these tensors. All raise CheckpointError with a sentence.
    """

    name: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Contents]
    checksums: Callable[[Path, Iterable[TensorRef]], list[Checksum]]


def beside(directory: Path, name: object, where: str, *, links: bool = False) -> Path:
    """The file of this name inside a directory; CheckpointError where the name leads out of it or there is none.

    Unless `links` are allowed, neither may a symbolic link lead out: any file of the right size would pass for a table.
    """
    relative = PurePosixPath(name) if isinstance(name, str) and name and "\0" not in name else PurePosixPath("..")
    if relative.is_absolute() or ".." in relative.parts or "\\" in str(name):
        raise CheckpointError(f"{where}: names a file outside of its directory; it is damaged or forged.")
    path = directory.joinpath(*relative.parts)
    if not path.is_file():
        raise IncompleteCheckpointError(f"{where}: the file {printable(name)} is missing; copy the whole directory.")
    if not links:
        refuse_links(directory, path)
    return path


def refuse_links(directory: Path, path: Path) -> None:
    """CheckpointError where a file of a directory lies elsewhere."""
    try:
        inside = path.resolve(strict=True).is_relative_to(directory.resolve(strict=True))
    except (OSError, RuntimeError):
        inside = False
    if not inside:
        raise CheckpointError(
            f"{path}: a link to a file outside of {directory}; copy the directory with the files themselves (cp -rL)."
        )


def no_checksums(path: Path, tensors: Iterable[TensorRef]) -> list[Checksum]:
    """Those of forms that store none; their sizes were checked when they were opened."""
    return []
