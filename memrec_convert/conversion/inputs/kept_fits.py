"""Fits and codes on disk, so that another budget, or a run that was interrupted, need not make them anew. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from memrec_convert.artifact.layout import canonical_json
from memrec_convert.distill.columns import ScratchColumn, as_bytes, slices
from memrec_convert.errors import OutputError
from memrec_convert.safe_files import write_file

_KEY = "fit"
Fit = TypeVar("Fit")


@dataclass
class Parts:
    """What a fit holds beside plain values: tensors and arrays, and the columns that lie in files, by name."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, ScratchColumn] = field(default_factory=dict)


@dataclass(frozen=True)
class FitStore:
    """One file per fit in a folder; `facts` say what fits belong to. Without a folder it forgets all."""

    folder: Path | None
    facts: Mapping[str, Any]

    def recall(self, name: str, make: Callable[[], Fit], classes: Sequence[type]) -> Fit:
        """What `make` gave under the same facts, or gives now; `classes` are the dataclasses that occur in it."""
        found: Fit | None = self.find(name, classes)
        if found is not None:
            return found
        fit = make()
        self.keep(name, fit, classes)
        return fit

    def find(self, name: str, classes: Sequence[type]) -> Any:  # noqa: ANN401 - any fit
        """What was kept under this name, or None where it is not there, belongs to something else or is damaged."""
        if self.folder is None:
            return None
        known = {one.__name__: one for one in classes}
        path, facts = self._place(name)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("facts") != facts:
                    return None
                parts = Parts({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
            plain = json.loads(metadata[_KEY])
            for key, (dtype, rows, width) in json.loads(metadata.get("columns", "{}")).items():
                parts.columns[key] = _open_column(path.with_suffix(f".{key}"), rows, np.dtype(dtype), width)
            return restore(plain, parts.tensors, known, parts.columns)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def keep(self, name: str, fit: Any, classes: Sequence[type]) -> None:  # noqa: ANN401 - any fit
        """Writes a fit under a name; OutputError where that cannot be."""
        if self.folder is None:
            return
        parts = Parts()
        plain = flatten(fit, parts.tensors, {one.__name__: one for one in classes}, parts.columns)
        path, facts = self._place(name)
        for key, column in parts.columns.items():
            write_file(path.with_suffix(f".{key}"), _read_slices(column))
        shapes = {
            key: (one.dtype.str, len(one), one.shape[1] if one.shape[1:] else 0) for key, one in parts.columns.items()
        }
        metadata = {"facts": facts, _KEY: json.dumps(plain)} | ({"columns": json.dumps(shapes)} if shapes else {})
        write_file(path, [save(parts.tensors, metadata=metadata)])

    def _place(self, name: str) -> tuple[Path, str]:
        """The file of a fit, and the facts that it must bear."""
        assert self.folder is not None
        facts = canonical_json({**self.facts, "fit": name})
        return self.folder / f"fit-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.safetensors", facts


NO_STORE = FitStore(None, {})


def open_work(folder: str | Path | None) -> Path | None:
    """A folder for what is kept between runs, made where it is missing; OutputError where that cannot be."""
    if folder is None:
        return None
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot use {path} to keep fits and results: {error.strerror or error}; name another folder."
        ) from error
    return path


def flatten(
    value: Any,  # noqa: ANN401 - any fit
    tensors: dict[str, Tensor],
    known: Mapping[str, type],
    columns: dict[str, ScratchColumn] | None = None,
) -> Any:  # noqa: ANN401
    """`value` as plain JSON values; its tensors and arrays go into `tensors` and are named in their places.

    Columns in files go into `columns`; TypeError where that is None, and for what has no place on disk.
    """
    if isinstance(value, Tensor | np.ndarray):
        name = f"{len(tensors):05d}"
        tensors[name] = torch.as_tensor(value).detach().clone().contiguous()
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, ScratchColumn) and columns is not None:
        name = f"column{len(columns)}"
        columns[name] = value
        return {"column": name}
    if is_dataclass(value) and known.get(type(value).__name__) is type(value):
        held = {one.name: flatten(getattr(value, one.name), tensors, known, columns) for one in fields(value)}
        return {"class": type(value).__name__, "fields": held}
    if isinstance(value, Mapping):
        return {"pairs": [[flatten(part, tensors, known, columns) for part in pair] for pair in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [flatten(part, tensors, known, columns) for part in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a fit holds a {type(value).__name__}, which has no place on disk")


def restore(
    plain: Any,  # noqa: ANN401 - any fit
    tensors: Mapping[str, Tensor],
    known: Mapping[str, type],
    columns: Mapping[str, ScratchColumn] | None = None,
) -> Any:  # noqa: ANN401
    """The way back from `flatten`; KeyError, TypeError or ValueError for what it did not make."""
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        return tensors[plain["tensor"]]
    if "array" in plain:
        return tensors[plain["array"]].numpy()
    if "column" in plain:
        return (columns or {})[plain["column"]]
    if "class" in plain:
        parts = {name: restore(part, tensors, known, columns) for name, part in plain["fields"].items()}
        return known[plain["class"]](**parts)
    if "pairs" in plain:
        return {restore(k, tensors, known, columns): restore(v, tensors, known, columns) for k, v in plain["pairs"]}
    if "list" in plain:
        return [restore(part, tensors, known, columns) for part in plain["list"]]
    return tuple(restore(part, tensors, known, columns) for part in plain["tuple"])


def _read_slices(column: ScratchColumn) -> Iterator[memoryview]:
    for part in slices(len(column)):
        yield as_bytes(column[part])


def _open_column(path: Path, rows: int, dtype: np.dtype[Any], width: int) -> ScratchColumn:
    """A kept column; ValueError where its file has another length than it should."""
    column = ScratchColumn(path.open("rb", buffering=0), rows, dtype, width)
    if path.stat().st_size != rows * column.row_bytes:
        raise ValueError(f"{path.name} is cut")
    return column
