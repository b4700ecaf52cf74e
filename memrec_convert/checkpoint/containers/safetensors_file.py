"""A single .safetensors file: an 8-byte length, a JSON header, raw little-endian tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path

from memrec_convert.checkpoint.containers.container import Container, Contents, no_checksums
from memrec_convert.checkpoint.containers.foreign import HEAD_BYTES, refuse_foreign
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, Placeholder, check_sizes, printable
from memrec_convert.checkpoint.tensor_ref import TensorRef, contiguous_strides, itemsize
from memrec_convert.errors import CheckpointError

NAME = "safetensors"
SUFFIX = ".safetensors"
_LENGTH_BYTES = 8
_LARGEST_HEADER = 10_000_000
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_OWN = "memrec_convert"
"""The key of an artifact's metadata."""


def is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file is named .safetensors, or has a JSON object after a plausible length."""
    if path.suffix == SUFFIX and head:
        return True
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and int.from_bytes(head[:_LENGTH_BYTES], "little") < 2**32


def read_safetensors(path: Path) -> Contents:
    """The tensors by name, as references into the file; the header's entries must tile the file exactly."""
    with path.open("rb") as file:
        refuse_foreign(path, file.read(HEAD_BYTES))
    header, data_offset = _read_header(path)
    said = header.get("__metadata__")
    if isinstance(said, dict) and _OWN in said:
        raise CheckpointError(f"{path}: an artifact of memrec-convert, not a checkpoint; give the file it was made of.")
    entries = {name: _check_entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    _check_tiling(path, sorted(span for _, _, span in entries.values()), path.stat().st_size - data_offset)
    root: dict[str, object] = {}
    for name, (dtype, shape, (start, _)) in entries.items():
        if dtype in _DTYPES:
            root[name] = TensorRef(path, data_offset + start, _DTYPES[dtype], shape, contiguous_strides(shape))
        else:
            root[name] = Placeholder(f"tensor of {printable(dtype)}", (shape,))
    return Contents(NAME, root, ordered=False)


def _read_header(path: Path) -> tuple[dict[str, object], int]:
    """The JSON header and the byte at which the tensors begin."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > size - _LENGTH_BYTES:
            raise CheckpointError(
                f"{path}: not a safetensors file, or a truncated one: its header claims {length} bytes of {size}."
            )
        if length > _LARGEST_HEADER:
            raise CheckpointError(
                f"{path}: its header takes {length} bytes; at most {_LARGEST_HEADER:,} are read, which is room for "
                "some hundred thousand tensors."
            )
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=refuse_repeated)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: the header is not JSON with unique names; the file is damaged.") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is not a JSON object; the file is damaged.")
    return header, _LENGTH_BYTES + length


def refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs of a JSON object as a mapping; ValueError where a name occurs twice, for parsers differ in which one
    they take.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _check_entry(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """A header entry's dtype, shape and (first, last) byte, consistent with each other."""
    try:
        if not isinstance(entry, dict):
            raise MalformedPickle("its header entry is not an object")
        dtype, shape = entry.get("dtype"), check_sizes(entry.get("shape"), "shape")
        span = check_sizes(entry.get("data_offsets"), "data_offsets")
        if len(span) != 2 or not isinstance(dtype, str):
            raise MalformedPickle("its header entry has no dtype or no two data_offsets")
        if dtype in _DTYPES and math.prod(shape) * itemsize(_DTYPES[dtype]) != span[1] - span[0]:
            raise MalformedPickle(f"its shape {shape} of {dtype} does not fill its {span[1] - span[0]} bytes")
    except MalformedPickle as error:
        raise CheckpointError(f"{path} > {printable(name)}: damaged safetensors header: {error}.") from None
    return dtype, shape, (span[0], span[1])


def _check_tiling(path: Path, spans: list[tuple[int, int]], data_bytes: int) -> None:
    """The tensors must follow each other without gap or overlap and end with the file."""
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            raise CheckpointError(f"{path}: tensors overlap or leave a gap at byte {end} of the data; it is damaged.")
        end = stop
    if end != data_bytes:
        raise CheckpointError(
            f"{path}: the header describes {end} bytes of tensors, the file has {data_bytes}: truncated or damaged."
        )


SAFETENSORS = Container(NAME, is_safetensors, read_safetensors, no_checksums)
