"""The directory that NVIDIA's DLRM saves: a raw file per table, its shape beside it, and a small .pt per MLP."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from memrec_convert.checkpoint.checksum import Checksum
from memrec_convert.checkpoint.containers.container import Container, Contents, beside, refuse_links
from memrec_convert.checkpoint.containers.zip_archive import is_zip, read_zip, sum_zip
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, check_sizes
from memrec_convert.checkpoint.tensor_ref import TensorRef, contiguous_strides, itemsize
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NAME = "NVIDIA DLRM directory"
PARTS = re.compile(
    r"(bottom_model\.embeddings\.\d+\.bin|embeddings\.\d+\.meta\.pt|(bottom|top)_model\.(mlp|out)\.pt|metadata\.pt)",
    re.ASCII,
)
"""The names of the files in such a directory."""

_TABLE = re.compile(r"bottom_model\.embeddings\.(0|[1-9][0-9]{0,5})\.bin", re.ASCII)
_NETWORK = ("bottom_model.mlp", "top_model.mlp", "top_model.out")


def is_nvidia_directory(path: Path, head: bytes) -> bool:
    """Whether a directory has `metadata.pt` beside the files of DLRM."""
    return path.is_dir() and (path / "metadata.pt").is_file() and (path / "top_model.out.pt").is_file()


def read_nvidia_directory(path: Path) -> Contents:
    """One mapping: the tables as tensors, each MLP's file under its name, `metadata` as it is stored."""
    unrun: dict[str, None] = {}
    root: dict[object, object] = {}
    files = [path / "metadata.pt"]
    for part in ("metadata", *_NETWORK):
        file = beside(path, f"{part}.pt", str(path))
        root[part] = _read_pt(file, unrun)
        files.append(file)
    tables = {int(match[1]): file for file in sorted(path.iterdir()) if (match := _TABLE.fullmatch(file.name))}
    for number, file in sorted(tables.items()):
        refuse_links(path, file)
        meta = beside(path, f"embeddings.{number}.meta.pt", str(path))
        root[f"embeddings.{number}"] = _read_table(file, _read_pt(meta, unrun))
        files += [file, meta]
    return Contents(NAME, root, tuple(unrun), tuple(dict.fromkeys(files)))


def _read_pt(file: Path, unrun: dict[str, None]) -> object:
    with file.open("rb") as stream:
        head = stream.read(4)
    if not is_zip(file, head):
        raise CheckpointError(f"{file}: not a file of torch.save; copy the whole directory again.")
    contents = read_zip(file)
    unrun.update(dict.fromkeys(contents.unrun_classes))
    return contents.root


def _read_table(file: Path, meta: object) -> TensorRef:
    """A raw table: as many elements as its shape says, of four bytes (or two, where it was trained in half)."""
    try:
        shape = check_sizes(meta.get("shape") if isinstance(meta, dict) else None, "shape")
    except MalformedPickle as error:
        raise CheckpointError(f"{file}: the shape beside it cannot be read: {error}.") from None
    size = file.stat().st_size
    for dtype in ("float32", "float16"):
        if size and math.prod(shape) * itemsize(dtype) == size:
            return TensorRef(file, 0, dtype, shape, contiguous_strides(shape))
    raise IncompleteCheckpointError(
        f"{file}: {size} bytes, but a table of shape {list(shape)} in float32 has {4 * math.prod(shape)}: it is "
        "truncated or damaged; copy the whole directory again."
    )


def sum_nvidia_directory(path: Path, tensors: Iterable[TensorRef]) -> list[Checksum]:
    """The MLPs' files have a CRC-32 per storage; the raw tables have none."""
    own = [tensor for tensor in tensors if tensor.path.suffix == ".pt"]
    files = dict.fromkeys(tensor.path for tensor in own)
    return [one for file in files for one in sum_zip(file, [tensor for tensor in own if tensor.path == file])]


NVIDIA_DIRECTORY = Container(NAME, is_nvidia_directory, read_nvidia_directory, sum_nvidia_directory)
