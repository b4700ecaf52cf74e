"""The bytes of a safetensors file before any tensor exists: all follow from names, shapes and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from memrec_convert.encoding.spec import TensorShapes, count_bytes
from memrec_convert.errors import ModelError

METADATA_KEY = "memrec_convert"
"""The one key of the header's metadata: several would come in no fixed order from some writers."""

LARGEST_HEADER = 10_000_000
"""More is not written and not read: a header is parsed whole, and may take twenty times its bytes in memory."""

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def order_names(shapes: TensorShapes) -> list[str]:
    """Widest dtype first, then by name: every tensor is then aligned to its own element."""
    return sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))


def build_header(shapes: TensorShapes, metadata: str) -> bytes:
    """The length field and the JSON header, padded with spaces so that the tensors begin at a multiple of 8.

    ModelError for a tensor that the format has no name for.
    """
    header: dict[str, object] = {"__metadata__": {METADATA_KEY: metadata}}
    start = 0
    for name in order_names(shapes):
        dtype, shape = shapes[name]
        if dtype not in _DTYPE_NAMES or name in header:
            raise ModelError(
                f"the model's tensor {name!r} is {dtype}, and an artifact has no place for it; store it as float, "
                "integer or bool under another name, or leave it out of the state dict."
            )
        stop = start + count_bytes([(dtype, shape)])
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = canonical_json(header, sort=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise ModelError(
            f"the model's {len(shapes)} tensors make a header of {len(text)} bytes, and an artifact has room for "
            f"{LARGEST_HEADER:,}; leave some out of the state dict."
        )
    return len(text).to_bytes(8, "little") + text


def count_file_bytes(shapes: TensorShapes, metadata: str) -> int:
    """Exact size of the file."""
    return len(build_header(shapes, metadata)) + count_bytes(shapes.values())


def canonical_json(value: Mapping[str, object], *, sort: bool = True) -> str:
    """JSON without spaces, ASCII only, keys sorted: equal values give equal bytes."""
    return json.dumps(value, sort_keys=sort, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
