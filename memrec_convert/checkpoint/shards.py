"""ShardedTensors of per-rank files: each rank's pickle holds its own shards, and says where all shards lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memrec_convert.checkpoint.chunked_ref import Chunk, join_chunks
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, Placeholder, check_sizes, printable
from memrec_convert.checkpoint.tensor_ref import StoredTensor, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

SHARDED_TENSOR = "torch.distributed._shard.sharded_tensor.api.ShardedTensor"
_DEEPEST = 16


@dataclass(frozen=True)
class Sharded:
    """What one rank's pickle says of a ShardedTensor: its whole shape, how many shards there are, and its own."""

    shape: tuple[int, ...]
    shards: int
    own: tuple[Chunk, ...]


def read_fields(value: object) -> dict[object, object]:
    """The fields of a pickled dataclass: its state, which is a dict, or (None, dict) where it has slots."""
    state = value.state if isinstance(value, Placeholder) else None
    if isinstance(state, tuple) and len(state) == 2:
        state = state[1]
    return state if isinstance(state, dict) else {}


def is_sharded(value: object) -> bool:
    """Whether a pickled value is a ShardedTensor."""
    return isinstance(value, Placeholder) and value.name == SHARDED_TENSOR


def parse_sharded(value: Placeholder) -> Sharded:
    """The shards of a pickled ShardedTensor; MalformedPickle where it is not as torch writes it."""
    state = value.args[3] if len(value.args) > 3 else value.state
    if not isinstance(state, tuple) or len(state) < 2 or not isinstance(state[0], list):
        raise MalformedPickle("a ShardedTensor is not as torch writes it")
    metadata = read_fields(state[1])
    listed = metadata.get("shards_metadata")
    own = []
    for shard in state[0]:
        fields = read_fields(shard)
        place, tensor = read_fields(fields.get("metadata")), fields.get("tensor")
        if not isinstance(tensor, TensorRef):
            raise MalformedPickle("a shard holds no tensor that can be read")
        if check_sizes(place.get("shard_sizes"), "shard sizes") != tensor.shape:
            raise MalformedPickle("a shard is of another shape than its description")
        own.append(Chunk(check_sizes(place.get("shard_offsets"), "shard offsets"), tensor))
    return Sharded(
        check_sizes(metadata.get("size"), "size"), len(listed) if isinstance(listed, list) else 0, tuple(own)
    )


def join_ranks(roots: Sequence[object], where: str) -> object:
    """The contents of all ranks' files as one: shards joined, everything else as the first rank has it.

    `where` is the path that was given. IncompleteCheckpointError where shards are missing, CheckpointError where they
    do not fit together.
    """
    return _join(list(roots), where, {}, 0)


def _join(values: list[object], where: str, joined: dict[tuple[int, ...], object], depth: int) -> object:
    """`joined` remembers what was joined before: a pickle may refer to one mapping any number of times."""
    first, key = values[0], tuple(map(id, values))
    if is_sharded(first):
        return _join_shards([value for value in values if isinstance(value, Placeholder)], where)
    if not isinstance(first, dict) or depth > _DEEPEST:
        return first
    if key not in joined:
        joined[key] = _join_mappings(values, where, joined, depth)
    return joined[key]


def _join_mappings(
    values: list[object], where: str, joined: dict[tuple[int, ...], object], depth: int
) -> dict[object, object]:
    merged: dict[object, object] = {}
    for value in values:
        if isinstance(value, dict):
            for key in value:
                merged.setdefault(key, None)
    for key in merged:
        inner = [value[key] for value in values if isinstance(value, dict) and key in value]
        shown = f"{where} > {printable(key)}" if isinstance(key, str) else where
        merged[key] = _join(inner, shown, joined, depth + 1)
    return merged


def _directory(where: str) -> Path:
    path = Path(where.split(" > ")[0].split(",")[0])
    return path if path.is_dir() else path.parent


def _join_shards(values: list[Placeholder], where: str) -> StoredTensor:
    try:
        found = [parse_sharded(value) for value in values if is_sharded(value)]
        own = [chunk for sharded in found for chunk in sharded.own]
        chunks = {chunk.offsets: chunk for chunk in own}
        if len(chunks) != len(own):
            raise MalformedPickle("two shards lie in the same place")
        if len(chunks) < found[0].shards:
            raise IncompleteCheckpointError(
                f"{where}: {len(chunks)} of the {found[0].shards} shards of this ShardedTensor are here, the others in "
                f"the files of other ranks: give the directory of all ranks' files ({_directory(where)}), or their "
                "paths separated by commas."
            )
        return join_chunks(found[0].shape, list(chunks.values()))
    except MalformedPickle as error:
        raise CheckpointError(f"{where}: a ShardedTensor that cannot be put together: {error}.") from None
