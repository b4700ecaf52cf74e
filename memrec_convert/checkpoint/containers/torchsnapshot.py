"""A torchsnapshot directory: `.snapshot_metadata` (JSON or YAML) names the raw little-endian blob of every tensor."""

from __future__ import annotations

import json
import math
from pathlib import Path
from urllib.parse import unquote

import yaml

from memrec_convert.checkpoint.chunked_ref import Chunk, join_chunks
from memrec_convert.checkpoint.containers.container import Container, Contents, beside, no_checksums, refuse_links
from memrec_convert.checkpoint.containers.safetensors_file import refuse_repeated
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, Placeholder, check_sizes, printable
from memrec_convert.checkpoint.tensor_ref import DTYPES, StoredTensor, TensorRef, contiguous_strides, itemsize
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NAME = "torchsnapshot"
_METADATA = ".snapshot_metadata"
_LARGEST_JSON = 10_000_000
_LARGEST_YAML = 2**19
_DEEPEST_YAML = 32
_LONGEST_KEY = 10_000
_CHUNKED = {"ShardedTensor": "shards", "ChunkedTensor": "chunks", "DTensor": "shards"}
_MAPPINGS = ("dict", "OrderedDict", "defaultdict")

_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Entry = dict[object, object]
Orders = dict[tuple[str, ...], dict[str, int]]
"""Path of a mapping -> the place of each of its keys."""


def is_snapshot(path: Path, head: bytes) -> bool:
    """Whether a directory has a `.snapshot_metadata`."""
    return path.is_dir() and (path / _METADATA).is_file()


def read_snapshot(path: Path) -> Contents:
    """The tensors of all ranks under their original nesting: shards joined, replicated ones as the first rank's."""
    tensors: dict[tuple[str, ...], object] = {}
    shards: dict[tuple[str, ...], list[Entry]] = {}
    orders: Orders = {}
    for name, entry in _read_manifest(path).items():
        keys = tuple(unquote(step) for step in str(name).split("/")[1:])  # the first step is the rank
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(kind, str) or not keys:
            continue
        if kind in _MAPPINGS and isinstance(entry.get("keys"), list):
            orders.setdefault(keys, {printable(key, limit=_LONGEST_KEY): at for at, key in enumerate(entry["keys"])})
        elif kind == "Tensor" and keys not in tensors:
            tensors[keys] = _read_blob(path, keys[-1], entry)
        elif kind in _CHUNKED:
            listed = entry.get(_CHUNKED[kind])
            shards.setdefault(keys, []).extend(listed if isinstance(listed, list) else ())
    for keys, parts in shards.items():
        if keys in tensors:
            raise CheckpointError(f"{path} > {printable(keys[-1])}: is in the manifest twice, in two forms.")
        tensors[keys] = _join(path, keys[-1], parts)
    used = {piece.path for one in tensors.values() if isinstance(one, StoredTensor) for piece in one.pieces}
    _refuse_overlaps(path, [piece for one in tensors.values() if isinstance(one, StoredTensor) for piece in one.pieces])
    return Contents(NAME, _nest(path, tensors, orders), (), (path / _METADATA, *sorted(used)))


def _read_manifest(path: Path) -> dict[object, object]:
    where, file = f"{path} > {_METADATA}", path / _METADATA
    refuse_links(path, file)
    with file.open("rb") as stream:
        content = stream.read(_LARGEST_JSON + 1)
    is_json = content.lstrip().startswith(b"{")
    largest = _LARGEST_JSON if is_json else _LARGEST_YAML
    if len(content) > largest:
        raise CheckpointError(f"{where}: larger than {largest:,} bytes, the most that is read of such metadata.")
    try:
        text = content.decode("utf-8")
        metadata = json.loads(text, object_pairs_hook=refuse_repeated) if is_json else _read_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        raise CheckpointError(f"{where}: neither JSON nor YAML; the directory is damaged.") from None
    manifest = metadata.get("manifest") if isinstance(metadata, dict) else None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{where}: has no manifest; the directory is damaged.")
    return manifest


def _read_yaml(text: str) -> object:
    """Plain YAML of a bearable depth: aliases can stand for exponentially much, and the fast parser recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=_YamlLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("an alias")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_YAML:
            raise ValueError("nested too deeply")
    return yaml.load(text, Loader=_YamlLoader)  # a safe loader, both ways


def _read_blob(path: Path, name: str, entry: Entry) -> StoredTensor | Placeholder:
    """A tensor as the raw bytes of a file, or of a range of it."""
    where, dtype = f"{path} > {printable(name)}", printable(entry.get("dtype")).removeprefix("torch.")
    if entry.get("serializer") != "buffer_protocol" or dtype not in DTYPES:
        return Placeholder(f"tensor of {printable(dtype)} serialized by {printable(entry.get('serializer'))}")
    file = beside(path, entry.get("location"), where)
    try:
        shape = check_sizes(entry.get("shape"), "shape")
        byte_range = entry.get("byte_range")
        start, end = (0, file.stat().st_size) if byte_range is None else check_sizes(byte_range, "byte range")
    except (MalformedPickle, ValueError):
        raise CheckpointError(f"{where}: its entry has no shape or no byte range; the directory is damaged.") from None
    nbytes = math.prod(shape) * itemsize(dtype)
    if end - start != nbytes or end > file.stat().st_size:
        raise IncompleteCheckpointError(
            f"{file}: {printable(name)} needs {nbytes} bytes of {dtype}, bytes {start} to {end} of "
            f"{file.stat().st_size} are given: it is truncated or damaged; copy the whole directory again."
        )
    return TensorRef(file, start, dtype, shape, contiguous_strides(shape))


def _join(path: Path, name: str, parts: list[Entry]) -> StoredTensor:
    where, chunks = f"{path} > {printable(name)}", dict[tuple[int, ...], Chunk]()
    try:
        for part in parts:
            inner = part.get("tensor") if isinstance(part, dict) else None
            tensor = _read_blob(path, name, inner) if isinstance(inner, dict) else None
            if not isinstance(tensor, TensorRef) or tensor.shape != check_sizes(part.get("sizes"), "sizes"):
                raise MalformedPickle("a shard is not a plain tensor of the shape that is given")
            offsets = check_sizes(part.get("offsets"), "offsets")
            if len(offsets) != len(tensor.shape):
                raise MalformedPickle("a shard has another number of offsets than of dimensions")
            if chunks.setdefault(offsets, Chunk(offsets, tensor)).tensor != tensor:
                raise MalformedPickle("two shards lie in the same place")
        ends = [[o + n for o, n in zip(at, chunk.tensor.shape, strict=True)] for at, chunk in chunks.items()]
        return join_chunks(tuple(max(axis) for axis in zip(*ends, strict=False)), list(chunks.values()))
    except MalformedPickle as error:
        raise CheckpointError(f"{where}: {error}; the directory is damaged.") from None


def _refuse_overlaps(path: Path, pieces: list[TensorRef]) -> None:
    """No two tensors may share bytes."""
    end, before = 0, None
    for piece in sorted(pieces, key=lambda piece: (piece.path, piece.offset)):
        if piece.path == before and piece.offset < end:
            raise CheckpointError(f"{piece.path}: two tensors share its byte {piece.offset}; {path} is damaged.")
        before, end = piece.path, piece.offset + piece.nbytes


def _nest(path: Path, tensors: dict[tuple[str, ...], object], orders: Orders) -> dict[object, object]:
    """Nested dicts, the keys of each in the order in which its own entry lists them."""
    root: dict[object, object] = {}
    for keys in sorted(tensors, key=lambda keys: _place(keys, orders)):
        inner: object = root
        for step in keys[:-1]:
            inner = inner.setdefault(step, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or keys[-1] in inner:
            raise CheckpointError(f"{path} > {printable(keys[-1])}: is in the manifest beside what it lies in.")
        inner[keys[-1]] = tensors[keys]
    return root


def _place(keys: tuple[str, ...], orders: Orders) -> list[int]:
    """Where a tensor stands in the order of its mapping, of the mapping around that, and so on."""
    listed = [orders.get(keys[:depth], {}) for depth in range(len(keys))]
    return [order.get(step, len(order)) for step, order in zip(keys, listed, strict=True)]


TORCHSNAPSHOT = Container(NAME, is_snapshot, read_snapshot, no_checksums)
