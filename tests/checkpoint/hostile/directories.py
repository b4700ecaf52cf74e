"""Directories whose description and files disagree, or lead elsewhere."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

from hostile.building import Case, directory_of, name, ops, storage, tensor

_TABLE = "emb_l.0.weight"


def _plain(value: object) -> bytes:
    """The opcodes of a plain value, without a memo: pieces may stand in any order."""
    held = io.BytesIO()
    pickler = pickle._Pickler(held, 2)  # type: ignore[attr-defined]
    pickler.memoize = lambda _: None
    pickler.dump(value)
    return held.getvalue()[2:-1]


def _object(cls: str, fields: Mapping[str, bytes]) -> bytes:
    """The opcodes of an object of a class of torch.distributed with these fields."""
    pairs = b"".join(_plain(key) + value for key, value in fields.items())
    return name("torch.distributed.checkpoint.metadata", cls) + b")\x81}(" + pairs + b"ub"


def _archive(pickled: bytes, data: bytes = bytes(24)) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", data)
    return held.getvalue()


_PART = _archive(b"\x80\x02" + tensor() + b".")
_HERE = {"relative_path": "__0_0.distcp", "offset": 0, "length": len(_PART)}


def _metadata(
    *,
    size: object = (3, 2),
    chunks: object = (((0, 0), (3, 2)),),
    places: object = (((0, 0), {}),),
    path: object = (_TABLE,),
    fqn: object = _TABLE,
    twice: bool = False,
) -> bytes:
    """A `.metadata` of one table in these chunks, stored in these places."""
    listed = (
        b"]("
        + b"".join(
            _object("ChunkStorageMetadata", {"offsets": _plain(at), "sizes": _plain(sizes)})
            for at, sizes in chunks  # type: ignore[attr-defined]
        )
        + b"e"
    )
    table = _object("TensorStorageMetadata", {"size": _plain(size), "chunks": listed})
    stored = b"".join(
        _object("MetadataIndex", {"fqn": _plain(fqn), "offset": _plain(at)})
        + _object("StorageInfo", {field: _plain(value) for field, value in {**_HERE, **changes}.items()})
        for at, changes in places  # type: ignore[attr-defined]
    )
    names = [_TABLE, "emb_l.1.weight"] if twice else [_TABLE]
    if twice:
        second = {**_HERE, "offset": len(_PART)}
        stored += _object("MetadataIndex", {"fqn": _plain(names[1]), "offset": _plain((0, 0))})
        stored += _object("StorageInfo", {field: _plain(value) for field, value in second.items()})
    tensors = b"}(" + b"".join(_plain(one) + table for one in names) + b"u"
    nesting = _plain(dict.fromkeys(names, path))
    fields = {"state_dict_metadata": tensors, "planner_data": nesting, "storage_data": b"}(" + stored + b"u"}
    return b"\x80\x02" + _object("Metadata", fields) + b"."


def _dcp(
    sentence: str,
    *,
    part: bytes = _PART,
    metadata: bytes | None = None,
    links: dict[str, str] | None = None,
    **options: object,
) -> Case:
    described = _metadata(**options) if metadata is None else metadata  # type: ignore[arg-type]
    return directory_of({".metadata": described, "__0_0.distcp": part}, sentence, links=links)


def _in_place(**changes: object) -> tuple[tuple[tuple[int, int], dict[str, object]], ...]:
    return (((0, 0), changes),)


GOOD_DISTRIBUTED = _dcp("")
_ONE_ROW = ((0, 0), (1, 2))
_TWO_PLACES = (((0, 0), {}), ((1, 0), {"offset": 5, "length": len(_PART) - 5}))
_MANY = tuple(((row, 0), (1, 2)) for row in range(1, 3000))
_DCP: dict[str, Case] = {
    "metadata that is no pickle": _dcp("damaged", metadata=b"{}"),
    "metadata that calls": _dcp(
        "lists no tensors", metadata=b"\x80\x02" + name("os", "system") + b"(" + ops("true") + b"tR."
    ),
    "metadata that is a list": _dcp("lists no tensors", metadata=b"\x80\x02]."),
    "metadata with a storage": _dcp("where none can be", metadata=b"\x80\x02" + storage() + b"."),
    "metadata of three million opcodes": _dcp("opcodes", metadata=b"\x80\x02" + b"N" * 3_000_000 + b"."),
    "chunk in a file above": _dcp("outside of its directory", places=_in_place(relative_path="../outside")),
    "chunk in a file far away": _dcp("outside of its directory", places=_in_place(relative_path="/etc/passwd")),
    "chunk in a file that is missing": _dcp("is missing", places=_in_place(relative_path="x.distcp")),
    "chunk in a file that is a number": _dcp("outside of its directory", places=_in_place(relative_path=7)),
    "chunk in the directory itself": _dcp("is missing", places=_in_place(relative_path=".")),
    "chunk in a link that leads out": _dcp(
        "a link to a file outside", places=_in_place(relative_path="l"), links={"l": "../outside"}
    ),
    "chunk in a folder that is a link": _dcp(
        "a link to a file outside", places=_in_place(relative_path="l/outside"), links={"l": ".."}
    ),
    "chunk in a link to itself": _dcp("is missing", places=_in_place(relative_path="l"), links={"l": "l"}),
    "chunk past its file": _dcp("it is truncated", places=_in_place(length=len(_PART) + 1)),
    "chunk of 2^62 bytes": _dcp("it is truncated", places=_in_place(length=2**62)),
    "chunk before its file": _dcp("place holds something other", places=_in_place(offset=-1)),
    "chunk of a byte": _dcp("truncated or damaged", places=_in_place(length=1)),
    "chunk that is compressed": _dcp("compressed", places=_in_place(transform_descriptors=["zstd"])),
    "chunks that share bytes": _dcp("share", chunks=(_ONE_ROW, ((1, 0), (2, 2))), places=_TWO_PLACES),
    "chunk listed twice": _dcp("two chunks lie", chunks=(((0, 0), (3, 2)),) * 2),
    "chunks of no place": _dcp("is missing", chunks=_MANY),
    "chunk of another shape": _dcp("is not a tensor of shape", chunks=(((0, 0), (2, 2)),)),
    "chunk that calls": _dcp(
        "is not a tensor",
        part=_archive(b"\x80\x02" + name("os", "system") + b"(" + ops("true") + b"tR."),
        places=_in_place(length=len(_archive(b"\x80\x02" + name("os", "system") + b"(" + ops("true") + b"tR."))),
    ),
    "chunk with a wrong checksum": _dcp("do not match", part=_PART.replace(bytes(24), bytes(23) + b"\1")),
    "no chunks": _dcp("none of its chunks", chunks=()),
    "chunks that leave a gap": _dcp("end at row 3 of 4", size=(4, 2)),
    "chunks of fewer rows": _dcp("no part|end at row", size=(2, 2)),
    "chunk at a negative place": _dcp("offset", chunks=(((-1, 0), (3, 2)),)),
    "size of 2^70 rows": _dcp("size from 0 to 2", size=(2**70, 2)),
    "place that is a list of lists": _dcp("is taken or no place", path=([_TABLE],)),
    "place of a million steps": _dcp("is taken or no place", path=("a",) * 1000),
    "place that is taken": _dcp("is taken or no place", twice=True, path=("a",), part=_PART * 2),
}


def _pt(pickled: bytes, data: bytes = bytes(24)) -> bytes:
    return _archive(b"\x80\x02" + pickled + b".", data)


def _linear(inputs: int, outputs: int) -> tuple[bytes, bytes, bytes]:
    """Weight, bias, and the zeros that both lie in."""
    held = storage(elements=inputs * outputs)
    weight = tensor(held, 0, (outputs, inputs), (inputs, 1))
    return weight, tensor(held, 0, (outputs,), (1,)), bytes(4 * inputs * outputs)


def _mlp(inputs: int, outputs: int, *, named: tuple[str, str] = ("weights", "biases"), lists: bool = True) -> bytes:
    weight, bias, data = _linear(inputs, outputs)
    first, second = (b"]" + weight + b"a", b"]" + bias + b"a") if lists else (weight, bias)
    return _pt(b"}(" + _plain(named[0]) + first + _plain(named[1]) + second + b"u", data)


_ORDER = {"data": {"device_mapping": {"embedding": [[0, 1]]}}, "config": {"interaction_op": "dot"}}
NVIDIA: dict[str, bytes] = {
    "metadata.pt": _pt(_plain(_ORDER)),
    "bottom_model.mlp.pt": _mlp(2, 4),
    "top_model.mlp.pt": _mlp(8, 2),
    "top_model.out.pt": _mlp(2, 1, named=("weight", "bias"), lists=False),
    "bottom_model.embeddings.0.bin": bytes(112),
    "embeddings.0.meta.pt": _pt(_plain({"shape": (7, 4)})),
    "bottom_model.embeddings.1.bin": bytes(80),
    "embeddings.1.meta.pt": _pt(_plain({"shape": (5, 4)})),
}


def _nvidia(
    sentence: str, changes: Mapping[str, bytes] | None = None, *, without: str = "", links: dict[str, str] | None = None
) -> Case:
    files = {key: value for key, value in (NVIDIA | dict(changes or {})).items() if key != without}
    return directory_of(files, sentence, links=links)


def _order(embedding: object) -> dict[str, bytes]:
    return {"metadata.pt": _pt(_plain({**_ORDER, "data": {"device_mapping": {"embedding": embedding}}}))}


def _shape(value: object) -> dict[str, bytes]:
    return {"embeddings.0.meta.pt": _pt(_plain({"shape": value}))}


GOOD_NVIDIA = _nvidia("")
_BIN = "bottom_model.embeddings.0.bin"
_NVIDIA: dict[str, Case] = {
    "table cut short": _nvidia("truncated or damaged", {_BIN: bytes(111)}),
    "table of no bytes": _nvidia("truncated or damaged", {_BIN: b""}),
    "table that is a link out": _nvidia("a link to a file outside", without=_BIN, links={_BIN: "../outside"}),
    "network that is a link out": _nvidia(
        "a link to a file outside", without="top_model.mlp.pt", links={"top_model.mlp.pt": "../outside"}
    ),
    "network that is no archive": _nvidia("not a file of torch.save", {"top_model.mlp.pt": b"\x80\x02}."}),
    "network that is missing": _nvidia("is missing", without="bottom_model.mlp.pt"),
    "network that is a number": _nvidia("no list of weights", {"top_model.mlp.pt": _pt(b"K\x01")}),
    "network of numbers": _nvidia(
        "other than tensors", {"top_model.mlp.pt": _pt(_plain({"weights": [1], "biases": [2]}))}
    ),
    "network of more biases": _nvidia(
        "no list of weights", {"top_model.mlp.pt": _pt(_plain({"weights": [1], "biases": [2, 3]}))}
    ),
    "shape of negative rows": _nvidia("cannot be read", _shape((-7, -4))),
    "shape of 2^62 rows": _nvidia("truncated or damaged", _shape((2**62 + 7, 4))),
    "shape that is text": _nvidia("cannot be read", _shape("74")),
    "shape that is missing": _nvidia("is missing", without="embeddings.0.meta.pt"),
    "shape that calls": _nvidia(
        "cannot be read", {"embeddings.0.meta.pt": _pt(name("os", "system") + b"(" + ops("true") + b"tR")}
    ),
    "order that names a table twice": _nvidia("does not name each table once", _order([[0, 0]])),
    "order that leaves a table out": _nvidia("which of them the network reads", _order([[0]])),
    "order of a table that is not there": _nvidia("is missing", _order([[0, 1, 2]])),
    "order of negative numbers": _nvidia("does not name each table once", _order([[0, -1]])),
    "order of true": _nvidia("which of them the network reads", _order([[0, True]])),
}


def _shard(rank: int, *, at: tuple[int, int], rows: int = 3, claimed: int = 2) -> bytes:
    """One rank's file: a ShardedTensor of 6 x 2 with its own shard of it."""
    place = _object("ShardMetadata", {"shard_offsets": _plain(list(at)), "shard_sizes": _plain([rows, 2])})
    own = b"]" + _object("Shard", {"tensor": tensor(), "metadata": place}) + b"a"
    whole = _object("ShardedTensorMetadata", {"size": _plain((6, 2)), "shards_metadata": _plain([0] * claimed)})
    sharded = name("torch.distributed._shard.sharded_tensor.api", "ShardedTensor") + b")\x81(" + own + whole + b"tb"
    return _pt(b"}" + _plain(_TABLE) + sharded + b"s", bytes([rank]) + bytes(23))


def _ranks(sentence: str, first: bytes, second: bytes, links: dict[str, str] | None = None) -> Case:
    files = {"m_rank0.pt": first, "m_rank1.pt": second}
    return directory_of({key: value for key, value in files.items() if value}, sentence, links=links)


GOOD_RANKS = _ranks("", _shard(0, at=(0, 0)), _shard(1, at=(3, 0)))
_RANKS: dict[str, Case] = {
    "one shard of two in both files": _ranks("in the same place", *[_shard(rank, at=(0, 0)) for rank in (0, 1)]),
    "one shard twice, claimed to be all": _ranks(
        "in the same place", *[_shard(rank, at=(0, 0), claimed=1) for rank in (0, 1)]
    ),
    "shards that overlap": _ranks("overlap", _shard(0, at=(0, 0)), _shard(1, at=(2, 0))),
    "shards that leave a gap": _ranks("leave a gap", _shard(0, at=(0, 0)), _shard(1, at=(4, 0))),
    "shards at a column": _ranks("overlap|leave a gap|no part", _shard(0, at=(0, 0)), _shard(1, at=(3, 1))),
    "a shard of another shape": _ranks("another shape", _shard(0, at=(0, 0)), _shard(1, at=(3, 0), rows=2)),
    "a rank's file that is a link out": _ranks(
        "a link to a file outside", _shard(0, at=(0, 0)), b"", {"m_rank1.pt": "../outside"}
    ),
    "a rank's file that is something else": _ranks("not a file of torch.save", _shard(0, at=(0, 0)), b"hello"),
}


def _nest(folder: Path) -> Path:
    """A directory that contains itself."""
    (folder / "d").mkdir()
    (folder / "d" / "d").symlink_to(folder / "d", target_is_directory=True)
    return folder / "d"


CASES: dict[str, Case] = {
    **{f"distributed, {kind}": case for kind, case in _DCP.items()},
    **{f"NVIDIA, {kind}": case for kind, case in _NVIDIA.items()},
    **{f"ranks, {kind}": case for kind, case in _RANKS.items()},
    "in itself": (_nest, "a directory"),
    "TensorFlow's": directory_of({"saved_model.pb": b"x"}, "TensorFlow"),
    "of pictures": directory_of({"a.png": b"\x89PNG"}, "not one of a known checkpoint"),
}
