"""Directories as Hugging Face writes them: one file of weights, or shards with an index that places each tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from memrec_convert.checkpoint.checksum import Checksum
from memrec_convert.checkpoint.containers.container import Container, Contents, beside
from memrec_convert.checkpoint.containers.rank_files import read_torch_file, sum_rank_files
from memrec_convert.checkpoint.containers.safetensors_file import SUFFIX as SAFETENSORS_SUFFIX
from memrec_convert.checkpoint.containers.safetensors_file import read_safetensors, refuse_repeated
from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.tensor_ref import TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NAME = "Hugging Face directory"
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_LARGEST_INDEX = 10_000_000


def find_index(path: Path) -> Path | None:
    """The index that a path is, or that a directory has; None where there is none, or more than one."""
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.name.endswith(INDEX_SUFFIXES)]
        return found[0] if len(found) == 1 else None
    return path if path.name.endswith(INDEX_SUFFIXES) else None


def is_hugging_face(path: Path, head: bytes) -> bool:
    """Whether a path is an index, or a directory with one or with a single file of weights."""
    return find_index(path) is not None or any((path / name).is_file() for name in _SINGLE)


def read_hugging_face(path: Path) -> Contents:
    """The tensors of all files, in the order of the index; of a directory with one file, that file's."""
    index = find_index(path)
    if index is None:
        file = beside(path, next(name for name in _SINGLE if (path / name).is_file()), str(path), links=True)
        held = read_safetensors(file) if file.suffix == SAFETENSORS_SUFFIX else read_torch_file(file)
        both = all((path / name).is_file() for name in _SINGLE)
        notes = (f"the directory has {' and '.join(_SINGLE)}; {file.name} was taken",) if both else ()
        return replace(held, files=(file,), notes=notes)
    names = _read_index(index)
    read = read_safetensors if index.name.endswith(INDEX_SUFFIXES[0]) else read_torch_file
    # A link out of the directory is how downloads are cached; what it leads to must be of the same form by itself.
    files = {name: beside(index.parent, name, str(index), links=True) for name in dict.fromkeys(names.values())}
    stored, unrun = dict[str, dict[object, object]](), dict[str, None]()
    for name, file in files.items():
        held = read(file)
        stored[name] = held.root if isinstance(held.root, dict) else {}
        unrun |= dict.fromkeys(held.unrun_classes)
    root: dict[str, object] = {}
    for tensor, name in names.items():
        if tensor not in stored[name]:
            raise IncompleteCheckpointError(
                f"{files[name]}: does not hold {printable(tensor)}, which {index.name} places there; copy the whole "
                "directory again."
            )
        root[tensor] = stored[name][tensor]
    kind = f"sharded {'safetensors' if read is read_safetensors else '.bin'}"
    return Contents(kind, root, tuple(unrun), (index, *files.values()), ordered=False)


def sum_hugging_face(path: Path, tensors: Iterable[TensorRef]) -> list[Checksum]:
    """Those of files of torch.save; safetensors have none."""
    return sum_rank_files(path, [tensor for tensor in tensors if tensor.path.suffix == ".bin"])


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
        raise CheckpointError(f"{index}: not an index of weights (no weight_map); it is damaged.") from None
    return names


HUGGING_FACE = Container(NAME, is_hugging_face, read_hugging_face, sum_hugging_face)
