"""Sharded safetensors: `*.safetensors.index.json` says in which file of its directory each tensor lies."""

from __future__ import annotations

import json
from pathlib import Path

from memrec_convert.checkpoint.containers.container import Container, Contents, beside, no_checksums
from memrec_convert.checkpoint.containers.safetensors_file import read_safetensors, refuse_repeated
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NAME = "sharded safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_LARGEST_INDEX = 10_000_000


def find_index(path: Path) -> Path | None:
    """The index that a path is, or that a directory has; None where there is none, or more than one."""
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.name.endswith(INDEX_SUFFIX)]
        return found[0] if len(found) == 1 else None
    return path if path.name.endswith(INDEX_SUFFIX) else None


def is_safetensors_shards(path: Path, head: bytes) -> bool:
    """Whether a path is an index, or a directory with one."""
    return find_index(path) is not None


def read_safetensors_shards(path: Path) -> Contents:
    """The tensors of all files, in the order of the index."""
    index = find_index(path)
    assert index is not None, "sniffed before"
    names = _read_index(index)
    # A link out of the directory is how downloads are cached; what it leads to must be safetensors by itself.
    held_in = dict.fromkeys(names.values())
    files = {name: beside(index.parent, name, str(index), links=True) for name in held_in}
    stored: dict[str, dict[str, object]] = {}
    for name, file in files.items():
        held = read_safetensors(file).root
        stored[name] = held if isinstance(held, dict) else {}
    root: dict[str, object] = {}
    for tensor, name in names.items():
        if tensor not in stored[name]:
            raise IncompleteCheckpointError(
                f"{files[name]}: does not hold {printable(tensor)}, which {index.name} places there; copy the whole "
                "directory again."
            )
        root[tensor] = stored[name][tensor]
    return Contents(NAME, root, (), (index, *files.values()))


def _read_index(index: Path) -> dict[str, str]:
    """Tensor -> file name."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError("too large")
        parsed = json.loads(index.read_bytes().decode("utf-8"), object_pairs_hook=refuse_repeated)
        names = parsed["weight_map"]
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("no map of names")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{index}: not an index of safetensors files (no weight_map); it is damaged.") from None
    return names


SAFETENSORS_SHARDS = Container(NAME, is_safetensors_shards, read_safetensors_shards, no_checksums)
