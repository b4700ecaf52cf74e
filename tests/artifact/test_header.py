"""The header that is counted before any tensor exists is the one that safetensors' own library reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load as load_bytes
from torch import Tensor

from memrec_convert.artifact.layout import METADATA_KEY, build_header, canonical_json, count_file_bytes, order_names
from memrec_convert.artifact.metadata import tensor_bytes
from memrec_convert.errors import ModelError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def draw_tensors(shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Numbers of every dtype."""
    draw = torch.Generator().manual_seed(1)
    return {name: torch.randint(0, 100, shape, generator=draw).to(dtype) for name, (dtype, shape) in shapes.items()}


def render(tensors: dict[str, Tensor], metadata: str) -> bytes:
    """The whole file."""
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    content = build_header(shapes, metadata) + b"".join(bytes(tensor_bytes(tensors[n])) for n in order_names(shapes))
    assert len(content) == count_file_bytes(shapes, metadata)
    return content


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=8), st.text(max_size=40))
def test_safetensors_reads_what_is_rendered(
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]], metadata: str
) -> None:
    """Any names, dtypes and shapes, scalars and empty ones too, come back from the library with the same bytes."""
    tensors = draw_tensors(shapes)
    content = render(tensors, metadata)
    read = load_bytes(content)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read[name], tensor)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert header["__metadata__"] == {METADATA_KEY: metadata}


def test_an_opened_file_has_everything(tmp_path: Path) -> None:
    """safe_open finds the tensors of every dtype and the metadata in a written file."""
    tensors = draw_tensors({f"t.{dtype}": (dtype, (3, 2)) for dtype in DTYPES})
    path = tmp_path / "x.safetensors"
    path.write_bytes(render(tensors, "ä\n"))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {METADATA_KEY: "ä\n"}
        assert set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=8))
def test_tensors_are_aligned_to_their_elements(shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Each tensor begins in the file at a multiple of its element's size, and the order of names changes nothing."""
    header = build_header(shapes, "m")
    plain = json.loads(header[8:])
    for name, (dtype, _) in shapes.items():
        assert (len(header) + plain[name]["data_offsets"][0]) % dtype.itemsize == 0
    assert build_header(dict(reversed(shapes.items())), "m") == header


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16, torch.float8_e5m2])
def test_types_without_a_place_are_refused(dtype: torch.dtype) -> None:
    """A tensor of a type that the format has no name for is refused by its name."""
    with pytest.raises(ModelError, match=r"'net\.phase'.*" + str(dtype)):
        build_header({"net.phase": (dtype, (2,))}, "m")


def test_a_tensor_cannot_take_the_metadatas_name() -> None:
    """A tensor called as the metadata's place is refused, not written over it."""
    with pytest.raises(ModelError, match="__metadata__"):
        build_header({"__metadata__": (torch.float32, (2,))}, "m")


def test_canonical_json_is_one_text() -> None:
    """Keys in any order give the same ASCII text, and numbers that JSON does not know are refused."""
    assert canonical_json({"b": [1, 0.1], "a": "ä"}) == canonical_json({"a": "ä", "b": [1, 0.1]})
    assert canonical_json({"b": [1, 0.1], "a": "ä"}) == '{"a":"\\u00e4","b":[1,0.1]}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


def test_bytes_of_views_are_those_in_row_order() -> None:
    """Transposed and strided tensors are written in row-major order, contiguous ones without a copy."""
    wide = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    assert bytes(tensor_bytes(wide.t())) == wide.t().contiguous().numpy().tobytes()
    assert bytes(tensor_bytes(wide[:, ::2])) == wide[:, ::2].contiguous().numpy().tobytes()
    view = tensor_bytes(wide)
    wide[0, 0] = 258
    assert bytes(view[:2]) == b"\x02\x01"
    assert len(tensor_bytes(torch.empty(0, 3))) == 0
    assert bytes(tensor_bytes(torch.tensor(True))) == b"\x01"
