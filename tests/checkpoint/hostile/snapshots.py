"""Snapshots whose manifest lies, or would expand without end."""

from __future__ import annotations

import json

from hostile.building import Case, directory_of

_TABLE = "0/emb_l.0.weight"


def _blob(**changes: object) -> dict[str, object]:
    return {
        "type": "Tensor",
        "location": "blob",
        "serializer": "buffer_protocol",
        "dtype": "torch.float32",
        "shape": [3, 2],
        "byte_range": [0, 24],
    } | changes


def _part(at: list[int], sizes: list[int], **changes: object) -> dict[str, object]:
    length = 4 * sizes[0] * sizes[1] if len(sizes) == 2 and min(sizes) >= 0 else 0
    own = {"shape": sizes, "byte_range": [8 * at[0], 8 * at[0] + length]} | changes
    return {"offsets": at, "sizes": sizes, "tensor": _blob(**own)}


def _text(text: str | bytes, sentence: str, *, links: dict[str, str] | None = None) -> Case:
    content = text if isinstance(text, bytes) else text.encode()
    return directory_of({".snapshot_metadata": content, "blob": bytes(64)}, sentence, links=links)


def _manifest(sentence: str, links: dict[str, str] | None = None, **entries: object) -> Case:
    named = {key.replace("__", "/"): value for key, value in entries.items()}
    return _text(json.dumps({"manifest": named}), sentence, links=links)


def _one(sentence: str, *, links: dict[str, str] | None = None, **changes: object) -> Case:
    return _text(json.dumps({"manifest": {_TABLE: _blob(**changes)}}), sentence, links=links)


def _cut(sentence: str, *parts: object) -> Case:
    return _text(json.dumps({"manifest": {_TABLE: {"type": "ShardedTensor", "shards": list(parts)}}}), sentence)


def _nested(depth: int) -> list[object]:
    nested: list[object] = []
    for _ in range(depth):
        nested = [nested]
    return nested


GOOD = _one("")
_TWICE = f'{{"manifest": {{"{_TABLE}": {json.dumps(_blob())}, "{_TABLE}": {json.dumps(_blob(shape=[6, 1]))}}}}}'
_LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
_DTYPE = f"manifest:\n  {_TABLE}:\n    type: Tensor\n    serializer: buffer_protocol\n    dtype: *a29\n"
_NEITHER, _RANGE = "neither JSON nor YAML", "no shape or no byte range"
CASES: dict[str, Case] = {
    "YAML that calls": _text("manifest: !!python/object/apply:os.system ['true']", _NEITHER),
    "YAML of a Python object": _text("manifest: !!python/object/new:os.system [true]", _NEITHER),
    "YAML of a Python name": _text("manifest: !!python/name:os.system", _NEITHER),
    "YAML of an unknown tag": _text("manifest: !evil {}", _NEITHER),
    "YAML of a billion laughs": _text(_LAUGHS + _DTYPE, _NEITHER),
    "YAML of a billion merges": _text(_MERGES, _NEITHER),
    "YAML in itself": _text("manifest: &a [*a]", _NEITHER),
    "YAML that nests": _text("manifest: " + "[" * 100_000, _NEITHER),
    "YAML that nests in blocks": _text("manifest:\n" + "".join(" " * n + "- a:\n" for n in range(1, 500)), _NEITHER),
    "YAML of 600 kB": _text("manifest: {}\n" + "#" * 600_000, "larger than"),
    "YAML of 500 kB of lists": _text("manifest: [" + "[]," * 170_000 + "]", "has no manifest"),
    "YAML of two documents": _text("manifest: {}\n---\nmanifest: {}\n", _NEITHER),
    "JSON that is cut": _text('{"manifest": {', _NEITHER),
    "JSON that nests": _text('{"manifest":' * 100_000, _NEITHER),
    "JSON of 11 MB": _text('{"manifest": {}' + " " * 11_000_000 + "}", "larger than"),
    "JSON with a name twice": _text(_TWICE, _NEITHER),
    "no encoding": _text(b'{"\xff": 1}', _NEITHER),
    "no manifest": _text('{"version": "0.1.0"}', "has no manifest"),
    "manifest that is a list": _text('{"manifest": [1]}', "has no manifest"),
    "empty manifest": _text('{"manifest": {}}', "no embedding table"),
    "entry whose kind is a list": _one("no embedding table", type=["Tensor"]),
    "entry whose kind nests": _one("no embedding table", type=_nested(900)),
    "entries that are numbers": _manifest("no embedding table", **{"0__emb": 1}),
    "metadata that is a link out": directory_of(
        {"blob": bytes(64)}, "a link to a file outside", links={".snapshot_metadata": "../outside"}
    ),
    "place above": _one("outside of its directory", location="../outside"),
    "place far away": _one("outside of its directory", location="/etc/passwd"),
    "place that is missing": _one("is missing", location="absent"),
    "place that is a list": _one("outside of its directory", location=["blob"]),
    "place that is a link out": _one("a link to a file outside", location="l", links={"l": "../outside"}),
    "place in a folder that is a link": _one("a link to a file outside", location="l/outside", links={"l": ".."}),
    "place that is a device": _one("is missing", location="l", links={"l": "/dev/zero"}),
    "type that nests": _one("no embedding table|stored as tensor of", dtype=_nested(900)),
    "type of half the size": _one("needs 12 bytes", dtype="torch.float16"),
    "serializer that is a pickle": _one("no embedding table|stored as tensor of", serializer="torch_save"),
    "shape of negative rows": _one(_RANGE, shape=[-3, -2]),
    "shape of 2^62 rows": _one("truncated or damaged", shape=[2**62 + 3, 2]),
    "shape of fractions": _one(_RANGE, shape=[1.5, 4]),
    "shape that is missing": _one(_RANGE, shape=None),
    "bytes past the end": _one("truncated or damaged", byte_range=[48, 72]),
    "bytes reversed": _one("truncated or damaged", byte_range=[24, 0]),
    "bytes before the begin": _one(_RANGE, byte_range=[-24, 0]),
    "bytes of one number": _one(_RANGE, byte_range=[24]),
    "bytes that all of a file are not": _one("truncated or damaged", byte_range=None),
    "tensors that share bytes": _manifest("share", **{"0__emb_a": _blob(), "0__emb_b": _blob(byte_range=[20, 44])}),
    "tensors in one place": _manifest("share", **{"0__emb_a": _blob(), "0__emb_b": _blob()}),
    "tensor in a tensor": _manifest(
        "beside what it lies in", **{"0__a": _blob(), "0__a__b": _blob(byte_range=[24, 48])}
    ),
    "tensor whole and in shards": _manifest(
        "in two forms", **{"0__emb": _blob(), "1__emb": {"type": "ShardedTensor", "shards": [_part([0, 0], [3, 2])]}}
    ),
    "no shards": _cut("none of its chunks"),
    "shards that overlap": _cut("overlap", _part([0, 0], [3, 2]), _part([2, 0], [3, 2])),
    "shards that leave a gap": _cut("leave a gap", _part([0, 0], [3, 2]), _part([4, 0], [3, 2])),
    "shards in one place": _cut("in the same place", _part([0, 0], [3, 2]), _part([0, 0], [3, 2], byte_range=[24, 48])),
    "shard of another shape": _cut("of the shape that is given", _part([0, 0], [3, 2]) | {"sizes": [2, 2]}),
    "shard at a negative place": _cut("put together|offsets|damaged", _part([0, 0], [3, 2]) | {"offsets": [-1, 0]}),
    "shard of other dimensions": _cut("number of offsets", _part([0, 0], [3, 2]) | {"offsets": [0]}),
    "shard that is a number": _cut("not a plain tensor", 7),
    "shards of two types": _cut(
        "different types", _part([0, 0], [3, 2]), _part([3, 0], [3, 2], dtype="torch.float16", byte_range=[24, 36])
    ),
}
