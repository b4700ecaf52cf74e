"""What a container is: a file form that can be recognised, opened into inert objects, and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from memrec_convert.checkpoint.tensor_ref import TensorRef


@dataclass(frozen=True)
class Contents:
    """What a file holds: nested dicts, lists and placeholders with `TensorRef` leaves; no tensor has been read."""

    container: str
    root: object
    unrun_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Container:
    """One form of checkpoint. A new one is a file with such a constant, added to `CONTAINERS`.

    `sniff(path, head)` says whether a path is of this form, from its first bytes (none for a directory);
    `read(path)` opens it, reading headers only; `verify(path, tensors)` reads the stored bytes under these tensors
    once and compares them with the form's checksums. All raise CheckpointError with a sentence.
    """

    name: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Contents]
    verify: Callable[[Path, Iterable[TensorRef]], None]


def no_checksums(path: Path, tensors: Iterable[TensorRef]) -> None:
    """The `verify` of forms that store no checksum; their sizes were checked when they were opened."""
