"""Files of all ranks of a distributed run, given as their directory or as their paths separated by commas."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from memrec_convert.checkpoint.checksum import Checksum
from memrec_convert.checkpoint.containers.container import Container, Contents, refuse_links
from memrec_convert.checkpoint.containers.foreign import HEAD_BYTES, refuse_foreign
from memrec_convert.checkpoint.containers.legacy_pickle import LEGACY_PICKLE
from memrec_convert.checkpoint.containers.zip_archive import ZIP_ARCHIVE
from memrec_convert.checkpoint.shards import join_ranks
from memrec_convert.checkpoint.tensor_ref import TensorRef
from memrec_convert.errors import CheckpointError

NAME = "files of several ranks"
_RANK = re.compile(r"(.*rank[_-]?)([0-9]{1,5})(\D*\.(?:pt|pth|bin|ckpt))", re.ASCII | re.IGNORECASE)
_FORMS = (ZIP_ARCHIVE, LEGACY_PICKLE)


def find_rank_files(path: Path) -> tuple[Path, ...]:
    """The files that a path names: a directory's own rank files in the order of the ranks, or a list with commas.

    Empty where it names one file, or none.
    """
    if not path.exists():
        parts = [Path(part) for part in str(path).split(",")]
        return tuple(parts) if len(parts) > 1 and all(part.is_file() for part in parts) else ()
    return find_siblings(path) if path.is_dir() else ()


def find_siblings(directory: Path) -> tuple[Path, ...]:
    """The rank files in a directory, where there are two or more of one name but for the rank."""
    found: dict[tuple[str, str], dict[int, Path]] = {}
    for file in sorted(directory.iterdir()):
        match = _RANK.fullmatch(file.name)
        if match is not None and file.is_file():
            found.setdefault((match[1], match[3]), {})[int(match[2])] = file
    groups = [group for group in found.values() if len(group) > 1]
    return tuple(groups[0][rank] for rank in sorted(groups[0])) if len(groups) == 1 else ()


def is_rank_files(path: Path, head: bytes) -> bool:
    """Whether a path names several files of torch.save."""
    return bool(find_rank_files(path))


def read_rank_files(path: Path) -> Contents:
    """The contents of all ranks' files as one, shards joined; tensors that every rank has are the first rank's."""
    files = find_rank_files(path)
    for file in files if path.is_dir() else ():
        refuse_links(path, file)
    contents = [read_torch_file(file) for file in files]
    root = join_ranks([one.root for one in contents], str(path))
    unrun = dict.fromkeys(name for one in contents for name in one.unrun_classes)
    return Contents(NAME, root, tuple(unrun), files)


def read_torch_file(file: Path) -> Contents:
    """One file of torch.save, of either form."""
    return _find_form(file).read(file)


def _find_form(file: Path) -> Container:
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    refuse_foreign(file, head)
    form = next((form for form in _FORMS if form.sniff(file, head)), None)
    if form is None:
        raise CheckpointError(f"{file}: not a file of torch.save, as each file of such a checkpoint is.")
    return form


def sum_rank_files(path: Path, tensors: Iterable[TensorRef]) -> list[Checksum]:
    """Those of each file, by its own form."""
    by_file: dict[Path, list[TensorRef]] = {}
    for tensor in tensors:
        by_file.setdefault(tensor.path, []).append(tensor)
    return [one for file, own in by_file.items() for one in _find_form(file).checksums(file, own)]


RANK_FILES = Container(NAME, is_rank_files, read_rank_files, sum_rank_files)
