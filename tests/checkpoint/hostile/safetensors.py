"""Safetensors files and indices that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from hostile.building import Build, Case, directory_of, entry, file_of, safetensors_bytes


def _file(header: object, sentence: str = "header|overlap|truncated", **options: object) -> Case:
    return file_of(safetensors_bytes(header, **options), sentence, called="m.safetensors")  # type: ignore[arg-type]


def _long(text: bytes, times: int) -> Build:
    """A header of one text again and again, written without holding it."""

    def build(folder: Path) -> Path:
        with (folder / "m.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text) * times + 16) + b'{"a":[0')
            for _ in range(min(times // 1000, 5000)):  # of what is too long the rest takes no room on the disk
                file.write(text * 1000)
            file.seek(15 + len(text) * times)
            file.write(b"]}       ")
        return folder / "m.safetensors"

    return build


_OVERLAP = {"b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}}
_SAME = {"b": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}


def _index(content: object, sentence: str, *, links: dict[str, str] | None = None, **more: bytes) -> Case:
    """A directory with an index and one good shard."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    files = {"model.safetensors.index.json": text, "a.safetensors": safetensors_bytes(entry()), **more}
    return directory_of(files, sentence, links=links)


def _map(**names: object) -> dict[str, object]:
    return {"metadata": {}, "weight_map": {key.replace("__", "."): value for key, value in names.items()}}


_NONE = "not an index of weights"
CASES: dict[str, Case] = {
    "header longer than the file": _file(entry(), claimed=10_000),
    "header of 2^63 bytes": _file(entry(), claimed=2**63),
    "header of 2^64 - 1 bytes": _file(entry(), claimed=2**64 - 1),
    "header of no bytes": _file(b"", "not JSON"),
    "header that is no JSON": _file(b"{]", "not JSON"),
    "header that is a list": _file(b"[1]", "not a JSON object"),
    "header that is a number": _file(b"{}", "header describes 0 bytes", claimed=2),
    "header with a name twice": _file(b'{"a": {}, "a": {}}', "unique names"),
    "header with a field twice": _file(
        b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [3, 2], "data_offsets": [0, 24]}}', "unique names"
    ),
    "header that nests": _file(b'{"a":' * 100_000, "not JSON"),
    "header in no encoding": _file(b"\xff\xfe", "not JSON"),
    "header in UTF-16": _file(json.dumps(entry()).encode("utf-16"), "not JSON"),
    "header of a number of 5,000 digits": _file(b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
    "header of 100 MB": (_long(b",[]", 33_000_000), "its header takes 99000016 bytes"),
    "header of 9 MB of lists": (_long(b",[]", 3_000_000), "not an object|not JSON"),
    "header of 9 MB of mappings": (_long(b",{}", 3_000_000), "not an object|not JSON"),
    "header of 9 MB of numbers": (_long(b",.", 4_500_000), "not JSON"),
    "entry that is a number": _file({"a": 1}, "not an object"),
    "entry without fields": _file({"a": {}}),
    "negative shape": _file(entry(shape=[-3, -2])),
    "shape of wrong size": _file(entry(shape=[4, 2])),
    "shape past 2^63": _file(entry(shape=[2**40, 2**40])),
    "shape of 2^64 rows": _file(entry(shape=[2**64, 0])),
    "shape of a float": _file(entry(shape=[3.0, 2])),
    "shape of true": _file(entry(shape=[True, 6])),
    "shape that is text": _file(entry(shape="32")),
    "shape of a thousand sizes": _file(entry(shape=[1] * 1000)),
    "dtype that is a list": _file(entry(dtype=[])),
    "dtype of half the size": _file(entry(dtype="F16")),
    "dtype of twice the size": _file(entry(dtype="F64")),
    "offsets reversed": _file(entry(data_offsets=[24, 0])),
    "offsets past the end": _file(entry(data_offsets=[24, 48])),
    "offsets before the begin": _file(entry(data_offsets=[-24, 0])),
    "offsets past 2^63": _file(entry(data_offsets=[2**63, 2**63 + 24])),
    "offsets of floats": _file(entry(data_offsets=[0.0, 24.0])),
    "one offset": _file(entry(data_offsets=[24])),
    "three offsets": _file(entry(data_offsets=[0, 12, 24])),
    "gap at the begin": _file(entry(data_offsets=[6, 30]), data=bytes(30)),
    "gap at the end": _file(entry(), data=bytes(30)),
    "data cut short": _file(entry(), data=bytes(23)),
    "overlap": _file(entry() | _OVERLAP),
    "overlap of all": _file(entry() | _SAME),
    "unknown type past the end": _file({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 48]}}),
    "index that is no JSON": _index(b"{", _NONE),
    "index that nests": _index(b'{"weight_map":' * 100_000, _NONE),
    "index without a map": _index({"metadata": {}}, _NONE),
    "index whose map is a list": _index({"weight_map": ["a.safetensors"]}, _NONE),
    "index whose file is a number": _index(_map(a=1), _NONE),
    "index with a name twice": _index(
        b'{"weight_map": {"emb_l.0.weight": "a.safetensors", "emb_l.0.weight": "b.safetensors"}}', _NONE
    ),
    "index that leads up": _index(_map(emb_l__0__weight="../a.safetensors"), "outside of its directory"),
    "index that leads away": _index(_map(emb_l__0__weight="/etc/passwd"), "outside of its directory"),
    "index with a backslash": _index(_map(emb_l__0__weight="..\\a.safetensors"), "outside of its directory"),
    "index with a null": _index(_map(emb_l__0__weight="a.safetensors\0"), "outside of its directory"),
    "index of a missing file": _index(_map(emb_l__0__weight="b.safetensors"), "is missing"),
    "index of itself": _index(_map(emb_l__0__weight="model.safetensors.index.json"), "header"),
    "index of a missing tensor": _index(_map(emb_l__7__weight="a.safetensors"), "does not hold"),
    "index of a link to itself": _index(_map(a="b"), "is missing", links={"b": "b"}),
    "index of a link to a device": _index(_map(a="b"), "is missing", links={"b": "/dev/zero"}),
    "index of 20 MB": _index(b'{"weight_map":{' + b" " * 20_000_000 + b"}}", _NONE),
}
