"""A directory of torch.distributed.checkpoint: `.metadata` says where each chunk of each tensor lies in its files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from memrec_convert.checkpoint.checksum import Checksum
from memrec_convert.checkpoint.chunked_ref import Chunk, join_chunks
from memrec_convert.checkpoint.containers.container import Container, Contents, beside
from memrec_convert.checkpoint.containers.section import Section
from memrec_convert.checkpoint.containers.zip_archive import list_checksums, read_archive
from memrec_convert.checkpoint.inert.pickle_reader import read_pickle
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, Placeholder, check_sizes, printable
from memrec_convert.checkpoint.shards import read_fields
from memrec_convert.checkpoint.tensor_ref import StoredTensor, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NAME = "torch.distributed.checkpoint"
_METADATA = ".metadata"
_TENSOR = "TensorStorageMetadata"
_MOST_OPCODES = 2_000_000
_DEEPEST = 64

Places = dict[tuple[str, tuple[int, ...]], Section]
"""(tensor, offsets of its chunk) -> the archive that holds the chunk."""


def is_distributed(path: Path, head: bytes) -> bool:
    """Whether a directory has a `.metadata`."""
    return path.is_dir() and (path / _METADATA).is_file()


def read_distributed(path: Path) -> Contents:
    """The tensors under their original nesting, each chunk's archive opened and checked."""
    fields, unrun = _read_metadata(path)
    tensors, places = fields.get("state_dict_metadata"), _find_places(path, fields)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} > {_METADATA}: lists no tensors; the directory is damaged.")
    nesting = fields.get("planner_data")
    nested = nesting if isinstance(nesting, dict) else {}
    root: dict[object, object] = {}
    for name in dict.fromkeys((*nested, *tensors)):
        described = tensors.get(name)
        if isinstance(name, str) and isinstance(described, Placeholder) and described.name.endswith(_TENSOR):
            tensor = _read_tensor(path, name, described, places)
            _put(root, nested.get(name, (name,)), tensor, f"{path} > {printable(name)}")
    files = tuple(sorted({section.path for section in places.values()}))
    return Contents(NAME, root, unrun, (path / _METADATA, *files), ordered=False)


def _read_metadata(path: Path) -> tuple[dict[object, object], tuple[str, ...]]:
    with (path / _METADATA).open("rb") as file:
        pickled = read_pickle(file, f"{path} > {_METADATA}", most_opcodes=_MOST_OPCODES)
    return read_fields(pickled.root), pickled.unrun_classes


def _find_places(path: Path, fields: dict[object, object]) -> Places:
    """Where each chunk lies, each place inside its file."""
    where, places = f"{path} > {_METADATA}", Places()
    stored = fields.get("storage_data")
    for index, info in (stored if isinstance(stored, dict) else {}).items():
        of, at = read_fields(index), read_fields(info)
        name, offset = of.get("fqn"), of.get("offset")
        if not isinstance(name, str) or offset is None:
            continue  # a value that is no tensor
        if at.get("transform_descriptors"):
            raise CheckpointError(f"{where} > {printable(name)}: its chunks are compressed, which is not read.")
        file = beside(path, at.get("relative_path"), where)
        try:
            start, nbytes = check_sizes((at.get("offset"), at.get("length")), "place")
            place = check_sizes(offset, "offset")
        except MalformedPickle as error:
            raise CheckpointError(f"{where} > {printable(name)}: {error}; the directory is damaged.") from None
        if start + nbytes > file.stat().st_size:
            raise IncompleteCheckpointError(
                f"{file}: ends at byte {file.stat().st_size}, but {printable(name)} lies at bytes {start} to "
                f"{start + nbytes}: it is truncated; copy the whole directory again."
            )
        places[name, place] = Section(file, start, nbytes)
    _refuse_overlaps(path, places)
    return places


def _refuse_overlaps(path: Path, places: Places) -> None:
    """No two chunks may share bytes."""
    end, before = 0, None
    for section in sorted(places.values(), key=lambda section: (section.path, section.start)):
        if section.path == before and section.start < end:
            raise CheckpointError(f"{section.path}: two chunks share its byte {section.start}; {path} is damaged.")
        before, end = section.path, section.start + section.nbytes


def _read_tensor(path: Path, name: str, described: Placeholder, places: Places) -> StoredTensor:
    """One tensor from its chunks."""
    where, fields, chunks = f"{path} > {printable(name)}", read_fields(described), dict[tuple[int, ...], Chunk]()
    listed = fields.get("chunks")
    try:
        for listed_chunk in listed if isinstance(listed, list) else ():
            chunk = read_fields(listed_chunk)
            offsets, sizes = check_sizes(chunk.get("offsets"), "offsets"), check_sizes(chunk.get("sizes"), "sizes")
            if offsets in chunks:
                raise MalformedPickle(f"two chunks lie at {offsets}")
            section = places.get((name, offsets))
            if section is None:
                raise IncompleteCheckpointError(f"{where}: its chunk at {offsets} is missing; copy the directory.")
            tensor = read_archive(section).root
            if not isinstance(tensor, TensorRef) or tensor.shape != sizes:
                raise MalformedPickle(f"the chunk at {offsets} is not a tensor of shape {sizes}")
            chunks[offsets] = Chunk(offsets, tensor)
        return join_chunks(check_sizes(fields.get("size"), "size"), list(chunks.values()))
    except MalformedPickle as error:
        raise CheckpointError(f"{where}: {error}; the directory is damaged.") from None


def _put(root: dict[object, object], path: object, value: StoredTensor, where: str) -> None:
    """Set a value in nested dicts; CheckpointError where another stands there already."""
    steps = path if isinstance(path, tuple) and 0 < len(path) <= _DEEPEST else (None,)
    inner: object = root
    for step in steps[:-1]:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) and isinstance(step, (str, int)) else None
    last = steps[-1]
    if not isinstance(inner, dict) or not isinstance(last, (str, int)) or last in inner:
        raise CheckpointError(f"{where}: its place among the others is taken or no place; the directory is damaged.")
    inner[last] = value


def sum_distributed(path: Path, tensors: Iterable[TensorRef]) -> list[Checksum]:
    """Each chunk under these tensors is an archive of its own."""
    fields, _ = _read_metadata(path)
    starts: dict[Path, list[int]] = {}
    for tensor in tensors:
        if tensor.nbytes:
            starts.setdefault(tensor.path, []).append(tensor.offset)
    found: list[Checksum] = []
    for section in _find_places(path, fields).values():
        inside = [at for at in starts.get(section.path, ()) if section.start <= at < section.start + section.nbytes]
        if inside:
            found += list_checksums(section, inside)
    return found


DISTRIBUTED_CHECKPOINT = Container(NAME, is_distributed, read_distributed, sum_distributed)
