"""A part of a checkpoint that is a directory, given alone: refused with a sentence that names the directory."""

from __future__ import annotations

import re
from pathlib import Path

from memrec_convert.checkpoint.containers.hugging_face import INDEX_SUFFIXES
from memrec_convert.checkpoint.containers.nvidia_directory import PARTS
from memrec_convert.errors import CheckpointError

_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(?:safetensors|bin)", re.ASCII)
_HIGHEST = 4


def refuse_part(path: Path) -> None:
    """CheckpointError where a path is one file (or folder) of a checkpoint that is a whole directory."""
    found = _find_whole(path)
    if found is not None:
        directory, kind = found
        raise CheckpointError(f"{path}: a part of {kind}, no checkpoint by itself; give the directory {directory}.")


def _find_whole(path: Path) -> tuple[Path, str] | None:
    """The directory that a part belongs to, and what that is."""
    parent = path.parent
    if (path.suffix == ".distcp" or path.name == ".metadata") and (parent / ".metadata").is_file():
        return parent, "a torch.distributed.checkpoint"
    for above in list(path.parents)[:_HIGHEST]:
        if (above / ".snapshot_metadata").is_file():
            return above, "a torchsnapshot"
    if PARTS.fullmatch(path.name) and (parent / "metadata.pt").is_file() and (parent / "top_model.out.pt").is_file():
        return parent, "a checkpoint of NVIDIA's DLRM"
    if _SHARD.fullmatch(path.name) and any(file.name.endswith(INDEX_SUFFIXES) for file in parent.iterdir()):
        return parent, "a checkpoint in shards"
    return None
