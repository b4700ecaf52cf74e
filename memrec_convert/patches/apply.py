"""`apply`: the new artifact from the old one and a patch, to the byte, or none."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memrec_convert.artifact.metadata import DIGEST_BYTES, digest_bytes
from memrec_convert.errors import ArtifactError, OutputError, PatchError
from memrec_convert.patches.blocks import EditedBase, change_block, old_bytes
from memrec_convert.patches.description import Description, block_bytes, split_patch
from memrec_convert.results import Result
from memrec_convert.safe_files import as_path, check_target, refuse_same, write_file

_PIECE = 1 << 22


@dataclass(frozen=True)
class Applied(Result):
    """The new artifact: its file, bytes, BLAKE2b-128 in hex, and the bytes of the patch that made it."""

    path: str
    bytes: int
    digest: str
    patch_bytes: int


def apply(old: str | Path, patch: str | Path, *, out: str | Path, force: bool = False) -> Applied:
    """Writes the artifact that `patch` makes of artifact `old` to `out`, which may be `old` itself with `force`.

    The bytes are those that `diff` saw, or nothing is written: sizes and digests of the patch and of both ends are
    checked. PatchError for a damaged patch and for one that was made from another file; ArtifactError where `old`
    cannot be read, OutputError where `out` cannot be written or is the patch.
    """
    target = as_path(out, OutputError)
    check_target(target, force=force)
    refuse_same(target, as_path(patch, PatchError), "the patch")
    base = read_bytes(as_path(old, ArtifactError), ArtifactError)
    data = read_bytes(as_path(patch, PatchError), PatchError).data.cast("B")
    description, blocks = split_patch(data, str(patch))
    _refuse_other(description, base, str(old), str(patch))
    free = shutil.disk_usage(target.parent).free
    if description.new.bytes > free:
        raise OutputError(f"cannot write {target}: it takes {description.new.bytes} bytes, and {free} are free there.")
    nbytes = write_file(target, _checked(description, base, blocks, str(patch)))
    return Applied(str(out), nbytes, description.new.digest, len(data))


def prove_patch(data: bytes, old: Path, where: str) -> None:
    """Carries a patch out and keeps nothing; PatchError unless it makes, of artifact `old`, the file it names."""
    base = read_bytes(old, ArtifactError)
    description, blocks = split_patch(memoryview(data), where)
    _refuse_other(description, base, str(old), where)
    for _ in _checked(description, base, blocks, where):
        pass


def _refuse_other(description: Description, base: np.ndarray, old: str, patch: str) -> None:
    if len(base) != description.old.bytes or digest_bytes(base.data) != description.old.digest:
        raise PatchError(
            f"{patch} was not made from {old}: it is for a file of {description.old.bytes} bytes with the digest "
            f"{description.old.digest}; apply it to that one, or make a patch from this one."
        )


def read_bytes(path: Path, error: type[ArtifactError] | type[PatchError]) -> np.ndarray:
    """A file as uint8 [bytes], which the system reads as it is needed."""
    try:
        if path.is_dir():
            kind = (
                "an artifact, which is one .safetensors file" if error is ArtifactError else "a patch, as diff wrote it"
            )
            raise error(f"{path} is a directory; expected {kind}.")
        if not path.is_file():
            raise error(f"there is no file {path}; check the path.")
        return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    except (OSError, ValueError) as cause:
        raise error(f"cannot read {path}: {cause}; check the file.") from cause


def _checked(description: Description, base: np.ndarray, blocks: memoryview, where: str) -> Iterator[memoryview]:
    """The new file's bytes in pieces; PatchError in place of the end where they are not those that `diff` saw."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for piece in _pieces(description, base, blocks, where):
        found.update(piece)
        yield piece
    if found.hexdigest() != description.new.digest:
        raise PatchError(f"{where} does not make the file it was made for; the patch is damaged, make it again.")


def _pieces(description: Description, base: np.ndarray, blocks: memoryview, where: str) -> Iterator[memoryview]:
    taken = 0
    for part in description.parts:
        step = block_bytes(part.entry_bits)
        if not part.blocks:
            for start in range(part.start, part.start + part.held, _PIECE):
                yield base[start : min(start + _PIECE, part.start + part.held)].data
        edited = EditedBase(base, part, blocks[taken : taken + part.edits], where) if part.edits else None
        taken += part.edits
        for number, block in enumerate(part.blocks):
            first, last = number * step, min((number + 1) * step, part.bytes)
            held = edited.take(last - first) if edited else old_bytes(base, part, first, last)
            made = change_block(held, block, blocks[taken : taken + block.stored], part.entry_bits, where)
            taken += block.stored
            yield np.ascontiguousarray(made).data
