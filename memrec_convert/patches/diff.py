"""`diff`: what changes one artifact into another, tensor by tensor, in as few bytes as are found for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from memrec_convert.artifact.layout import build_header, order_names
from memrec_convert.artifact.metadata import digest_bytes, tensor_bytes
from memrec_convert.artifact.reader import Artifact, build_modules, read_artifact
from memrec_convert.artifact.verification import check_header
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.index import check_index, list_ids
from memrec_convert.encoding.spec import count_bytes, table_spec_from_json
from memrec_convert.errors import ArtifactError, OutputError, PatchError
from memrec_convert.patches.apply import prove_patch
from memrec_convert.patches.blocks import edit_base, old_bytes, tell_block, tell_edits
from memrec_convert.patches.description import (
    MOST_ENTRY_BITS,
    Block,
    Description,
    End,
    Part,
    block_bytes,
    join_patch,
    may_be_edited,
)
from memrec_convert.results import Result
from memrec_convert.safe_files import as_path, check_target, refuse_same, write_file

HEADER = "__metadata__"
"""What the part before the tensors is called: the one name that no tensor may have."""


@dataclass(frozen=True)
class TensorChange:
    """A tensor (or the header) that differs: its bytes, its entries, how many changed, and the patch's bytes for it."""

    name: str
    bytes: int
    entries: int
    changed: int
    patch_bytes: int


@dataclass(frozen=True)
class Diffed(Result):
    """A patch: its file, its bytes, those of both artifacts with their BLAKE2b-128 in hex, and what changed.

    `same` counts the tensors that did not change; `removed` names those that only the old artifact has.
    """

    path: str
    bytes: int
    old_bytes: int
    new_bytes: int
    old_digest: str
    new_digest: str
    same: int
    removed: tuple[str, ...]
    changes: tuple[TensorChange, ...]


def diff(old: str | Path, new: str | Path, *, out: str | Path, force: bool = False) -> Diffed:
    """Writes to `out` the patch that makes artifact `new` of artifact `old`; `apply` carries it out.

    It holds changed entries alone, compressed with zstd, and the digests of both ends. Equal artifacts give equal
    patches. Before it is written, the patch is carried out in memory. ArtifactError where an end is unsound,
    OutputError where `out` cannot be written or is one of the ends.
    """
    target = as_path(out, OutputError)
    check_target(target, force=force)
    for end in (old, new):
        refuse_same(target, as_path(end, ArtifactError), "OLD" if end is old else "NEW")
    first, last = _read_sound(old), _read_sound(new)
    before, after = _read_parts(first), _read_parts(last)
    widths, moves = _find_widths(last), find_moves(first, last)
    starts, ends, start = dict[str, int](), list[End](), 0
    for parts in (before, after):
        nbytes = sum(len(one) for one in parts.values())
        ends.append(End(bytes=nbytes, digest=digest_bytes(*(one.data for one in parts.values()))))
    for name, data in before.items():
        starts[name], start = start, start + len(data)
    told, stored, changes = list[Part](), list[bytes](), list[TensorChange]()
    for name, data in after.items():
        base = before.get(name, np.zeros(0, np.uint8))
        held = min(len(base), len(data))
        part = Part(bytes=len(data), start=starts.get(name, 0), held=held)
        if len(base) >= len(data) and np.array_equal(base[:held], data):
            told.append(part)
            continue
        part, blocks = _tell(part, base, data, widths.get(name, (8,)), moves.get(name))
        told.append(part)
        stored += blocks
        changes.append(_describe(name, part))
    patch = join_patch(Description(format=1, old=ends[0], new=ends[1], parts=tuple(_join_copies(told))), stored)
    _prove(patch, old, new)
    nbytes = write_file(target, [patch])
    figures = (ends[0].bytes, ends[1].bytes, ends[0].digest, ends[1].digest)
    removed = tuple(sorted(set(before) - set(after)))
    return Diffed(str(out), nbytes, *figures, len(after) - len(changes), removed, tuple(changes))


def _prove(patch: bytes, old: str | Path, new: str | Path) -> None:
    """PatchError, before anything is written, for a patch that `apply` would refuse."""
    try:
        prove_patch(patch, as_path(old, ArtifactError), "the patch")
    except PatchError as error:
        raise PatchError(
            f"no patch was made from {old} to {new}, for `apply` would refuse it ({error}); this is a fault of "
            "memrec-convert: please report it, and deliver the whole artifact."
        ) from error


def _read_sound(path: str | Path) -> Artifact:
    """An artifact whose header, tensors and descriptions of tables agree."""
    artifact = read_artifact(path)
    check_header(artifact)
    build_modules(artifact)
    return artifact


def _read_parts(artifact: Artifact) -> dict[str, np.ndarray]:
    """The file's bytes (uint8) in order: its header, then each tensor by name."""
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in artifact.tensors.items()}
    header = np.frombuffer(build_header(shapes, artifact.metadata.to_text()), np.uint8)
    tensors = {name: np.asarray(tensor_bytes(artifact.tensors[name])) for name in order_names(shapes)}
    return {HEADER: header} | tensors


def _find_widths(artifact: Artifact) -> Mapping[str, tuple[int, ...]]:
    """Bits of the entries in which a tensor may be compared: of its codes, else of an element and of a row."""
    widths = {name: _plain_widths(tensor) for name, tensor in artifact.tensors.items()}
    for path, plain in artifact.metadata.modules.items():
        if "same_as" in plain:
            continue
        spec = table_spec_from_json(plain)
        bits = {"base": spec.base_bits()}
        bits |= {f"level{number}_codes": spec.level_bits(level) for number, level in enumerate(spec.levels)}
        widths |= {f"{path}.{name}": (width, 8) for name, width in bits.items() if 0 < width <= MOST_ENTRY_BITS}
    return widths


def _plain_widths(tensor: Tensor) -> tuple[int, ...]:
    element = 8 * tensor.element_size()
    row = element * (tensor.shape[-1] if tensor.dim() > 1 else 1)
    return tuple(sorted({element, row if 0 < row <= MOST_ENTRY_BITS else element}))


def _tell(
    part: Part, base: np.ndarray, data: np.ndarray, widths: Sequence[int], moves: Moves | None
) -> tuple[Part, list[bytes]]:
    """The part told in entries of the width that takes the fewest bytes, from old entries as they are or moved."""
    found = [_tell_in(part, base, data, width) for width in widths]
    if moves is not None and may_be_edited(_as_moved(part, base, moves)):
        found.append(_tell_moved(part, base, data, moves))
    return min(found, key=lambda one: sum(len(block) for block in one[1]))


def _as_moved(part: Part, base: np.ndarray, moves: Moves) -> Part:
    return part.model_copy(update={"start": 0, "held": len(base), "entry_bits": moves.entry_bits})


def _tell_moved(part: Part, base: np.ndarray, data: np.ndarray, moves: Moves) -> tuple[Part, list[bytes]]:
    inside = _as_moved(part, base, moves)
    frame = tell_edits(inside, moves.removed, moves.inserted)
    edited = edit_base(base, inside, memoryview(frame), "the patch")
    told, blocks = _tell_in(part.model_copy(update={"held": len(edited)}), edited, data, moves.entry_bits)
    return told.model_copy(update={"held": len(base), "edits": len(frame)}), [frame, *blocks]


def _tell_in(part: Part, base: np.ndarray, data: np.ndarray, width: int) -> tuple[Part, list[bytes]]:
    blocks, stored, step = list[Block](), list[bytes](), block_bytes(width)
    inside = part.model_copy(update={"start": 0})
    for first in range(0, len(data), step):
        last = min(first + step, len(data))
        block, bytes_of = tell_block(old_bytes(base, inside, first, last), data[first:last], width)
        blocks.append(block)
        stored.append(bytes_of)
    return part.model_copy(update={"entry_bits": width, "blocks": tuple(blocks)}), stored


@dataclass(frozen=True)
class Moves:
    """Entries of a level: which old ones are gone (bool [old]), and which new ones were not there (bool [new])."""

    entry_bits: int
    removed: np.ndarray
    inserted: np.ndarray


def find_moves(old: Artifact, new: Artifact) -> dict[str, Moves]:
    """Where ids came into levels and left them: what the others have then stands elsewhere, unchanged."""
    found = dict[str, Moves]()
    befores = {path: _levels_of(old, path) for path in old.metadata.modules}
    for path in new.metadata.modules:
        for name, (ids, widths) in _levels_of(new, path).items():
            earlier, before = befores.get(path, {}).get(name, (ids, widths))
            if before != widths:
                continue  # entries of other widths have nothing in common
            gone, come = ~np.isin(earlier, ids), ~np.isin(ids, earlier)
            if (gone.any() or come.any()) and np.array_equal(earlier[~gone], ids[~come]):
                moved = {tensor: Moves(width, gone, come) for tensor, width in widths.items()}
                found |= {tensor: one for tensor, one in moved.items() if one.entry_bits <= MOST_ENTRY_BITS}
    return found


def _levels_of(artifact: Artifact, path: str) -> dict[str, tuple[np.ndarray, dict[str, int]]]:
    """Per level and kind its ids in order (int64), and the bits of an entry of each of its tensors but the index."""
    plain, found = artifact.metadata.modules[path], dict[str, tuple[np.ndarray, dict[str, int]]]()
    if "same_as" in plain:
        return found
    spec = table_spec_from_json(plain)
    for number, level in enumerate(spec.levels):
        prefix = f"{path}.level{number}_"
        if check_index(level.index, artifact.tensors[f"{prefix}index"]):
            continue  # verify names what is wrong with it; bytes are compared as they are
        ids = list_ids(level.index, artifact.tensors[f"{prefix}index"]).numpy()
        if level.kind == "codes":
            found[f"{number} {level.depth}"] = ids, {f"{prefix}codes": spec.level_bits(level)}
        else:
            parts = CODECS[level.codec].parts(1, spec.dim)
            found[f"{number} {level.codec}"] = (
                ids,
                {prefix + name: 8 * count_bytes([one]) for name, one in parts.items()},
            )
    return found


def _describe(name: str, part: Part) -> TensorChange:
    changed = sum(block.changed for block in part.blocks)
    stored = part.edits + sum(block.stored for block in part.blocks)
    return TensorChange(name, part.bytes, -(-8 * part.bytes // part.entry_bits), changed, stored)


def _join_copies(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts with neighbours that are copied from neighbours made one; empty ones left out."""
    held: Part | None = None
    for part in parts:
        follows = held is not None and not held.blocks and not part.blocks and held.start + held.held == part.start
        if held is not None and follows:
            nbytes = held.bytes + part.bytes
            held = held.model_copy(update={"bytes": nbytes, "held": nbytes})
            continue
        if held is not None and held.bytes:
            yield held
        held = part
    if held is not None and held.bytes:
        yield held
