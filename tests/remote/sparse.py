"""Checkpoints of any size that take no room: real headers, and holes where the rows would be."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch._utils import _rebuild_tensor_v2

TABLES = {f"emb_l.{number}.weight": (1_500_000, 128) for number in range(26)}
"""Twenty gigabytes of float32."""


def write_sparse_safetensors(path: Path, tensors: dict[str, tuple[int, int]] = TABLES) -> Path:
    """One float32 tensor after another."""
    header, end = {}, 0
    for name, (rows, dim) in tensors.items():
        header[name] = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [end, end + rows * dim * 4]}
        end += rows * dim * 4
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def write_sparse_zip(path: Path, tensors: dict[str, tuple[int, int]] = TABLES) -> Path:
    """What torch.save writes of a state dict, its storages left out."""
    state = OrderedDict((name, _Tensor(str(place), shape)) for place, (name, shape) in enumerate(tensors.items()))
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=2).dump(state)
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        for place, (rows, dim) in enumerate(tensors.values()):
            member = zipfile.ZipInfo(f"archive/data/{place}")
            member.file_size = member.compress_size = rows * dim * 4
            member.header_offset, member.CRC = file.seek(archive.start_dir), 0
            file.write(member.FileHeader(zip64=True))
            archive.start_dir = file.seek(member.file_size, 1)
            archive.filelist.append(member)
    return path


class _Storage:
    def __init__(self, key: str, elements: int) -> None:
        self.key, self.elements = key, elements


class _Tensor:
    def __init__(self, key: str, shape: tuple[int, int]) -> None:
        self.key, self.shape = key, shape

    def __reduce__(self) -> tuple[object, ...]:
        storage = _Storage(self.key, self.shape[0] * self.shape[1])
        return _rebuild_tensor_v2, (storage, 0, self.shape, (self.shape[1], 1), False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> tuple[object, ...] | None:
        if not isinstance(value, _Storage):
            return None
        return "storage", torch.FloatStorage, value.key, "cpu", value.elements
