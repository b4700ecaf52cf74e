"""From a compressed model to its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from torch import Tensor, nn

from memrec_convert.artifact.dense import narrow_tensor
from memrec_convert.artifact.layout import build_header, count_file_bytes, order_names
from memrec_convert.artifact.metadata import Metadata, tensor_bytes
from memrec_convert.encoding.spec import TableSpec, TensorShapes
from memrec_convert.errors import ModelError
from memrec_convert.lookup import CompressedTable, HashGroup, find_tables, named_tables, spread_state
from memrec_convert.safe_files import write_file

KEPT_MODULE = {"place": "weight"}
"""In the description of a table: its module stays and looks up the table's rows; nothing else could stand for it."""


def write_model(path: Path, model: nn.Module, metadata: Metadata) -> int:
    """Writes the model's tensors and the metadata; returns the file's bytes. OutputError leaves nothing behind."""
    return write_file(path, list_parts(model, metadata))


def list_parts(model: nn.Module, metadata: Metadata) -> Iterator[bytes | memoryview]:
    """The file's bytes, in pieces: the header, then each tensor. What cannot be stored is refused before the first."""
    tensors, aliases = collect_tensors(model, dense=metadata.dense)
    _refuse_cast_tables(model)
    if dict(metadata.aliases) != aliases:
        raise ModelError("the model's shared tensors changed since its size was planned.")
    metadata = metadata.with_digests(tensors)
    shapes: TensorShapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    header = build_header(shapes, metadata.to_text())

    return chain([header], (tensor_bytes(tensors[name]) for name in order_names(shapes)))


def collect_tensors(model: nn.Module, *, dense: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model's state dict by name, each storage once, and the names that share another's tensor."""
    owned = {id(buffer) for table in find_tables(model) for buffer in table.buffers()}
    tensors: dict[str, Tensor] = {}
    first_name: dict[tuple[object, ...], str] = {}
    state, aliases = spread_state(model)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"the model's state holds {name!r}, which is no tensor and cannot be stored.")
        key = storage_key(tensor)
        if tensor.numel() and key in first_name:
            aliases[name] = first_name[key]
            continue
        first_name[key] = name
        tensors |= narrow_tensor(name, tensor.detach(), "fp32" if id(tensor) in owned else dense)
    return tensors, aliases


def storage_key(tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that show the same elements of memory in the same order: a transposed view is another."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def predict_shapes(dense_shapes: TensorShapes, specs: Mapping[str, TableSpec]) -> tuple[TensorShapes, dict[str, str]]:
    """Names and shapes of the file's tensors for these table specs by module path, and the aliases of shared groups."""
    shapes: TensorShapes = dict(dense_shapes)
    aliases: dict[str, str] = {}
    owner: dict[str, str] = {}
    for path, spec in specs.items():
        shapes |= {f"{path}.{name}": shape for name, shape in spec.tensors().items()}
        if spec.hashing is None:
            continue
        for name, shape in spec.hashing.tensors().items():
            own, first = f"{path}.group.{name}", f"{owner.setdefault(spec.hashing.group, path)}.group.{name}"
            if own == first:
                shapes[own] = shape
            else:
                aliases[own] = first
    return shapes, aliases


def count_model_bytes(shapes: TensorShapes, metadata: Metadata) -> int:
    """Exact bytes of the file that these tensors and this metadata will make."""
    return count_file_bytes(shapes, metadata.with_blank_digests(list(shapes)).to_text())


def _refuse_cast_tables(model: nn.Module) -> None:
    """`model.half()` and its like change what the codes are decoded with; no file may hold that."""
    for path, table in named_tables(model):
        parts: list[CompressedTable | HashGroup] = [table, *([table.group] if table.group is not None else [])]
        for module, (name, (dtype, _)) in [(part, one) for part in parts for one in part.spec.tensors().items()]:
            found = module.get_buffer(name).dtype
            if found != dtype:
                raise ModelError(
                    f"{path} > {name} is {found}, expected {dtype}: a compressed table cannot be stored once the model"
                    " was cast to another precision; save it before."
                )
