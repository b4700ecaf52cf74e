"""Fits on disk, so that another budget, or a run that was interrupted, need not fit anew. No pickle: safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from memrec_convert.artifact.files import write_file
from memrec_convert.artifact.layout import canonical_json

_KEY = "fit"
Fit = TypeVar("Fit")


@dataclass(frozen=True)
class FitStore:
    """One file per fit in a folder; `facts` say what fits belong to. Without a folder it forgets all."""

    folder: Path | None
    facts: Mapping[str, Any]

    def recall(self, name: str, make: Callable[[], Fit], classes: Sequence[type]) -> Fit:
        """What `make` gave under the same facts, or gives now; `classes` are the dataclasses that occur in it."""
        if self.folder is None:
            return make()
        facts = canonical_json({**self.facts, "fit": name})
        path = self.folder / f"fit-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.safetensors"
        known = {one.__name__: one for one in classes}
        found = _read(path, facts, known)
        if found is not None:
            fit: Fit = found
            return fit
        fit = make()
        tensors: dict[str, Tensor] = {}
        plain = flatten(fit, tensors, known)
        write_file(path, [save(tensors, metadata={"facts": facts, _KEY: json.dumps(plain)})])
        return fit


def flatten(value: Any, tensors: dict[str, Tensor], known: Mapping[str, type]) -> Any:  # noqa: ANN401 - any fit
    """`value` as plain JSON values; its tensors and arrays go into `tensors` and are named in their places."""
    if isinstance(value, Tensor | np.ndarray):
        name = f"{len(tensors):05d}"
        tensors[name] = torch.as_tensor(value).detach().clone().contiguous()
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if is_dataclass(value) and known.get(type(value).__name__) is type(value):
        held = {one.name: flatten(getattr(value, one.name), tensors, known) for one in fields(value)}
        return {"class": type(value).__name__, "fields": held}
    if isinstance(value, Mapping):
        return {"pairs": [[flatten(part, tensors, known) for part in pair] for pair in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [flatten(part, tensors, known) for part in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a fit holds a {type(value).__name__}, which has no place on disk")


def restore(plain: Any, tensors: Mapping[str, Tensor], known: Mapping[str, type]) -> Any:  # noqa: ANN401 - any fit
    """The way back from `flatten`; KeyError, TypeError or ValueError for what it did not make."""
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        return tensors[plain["tensor"]]
    if "array" in plain:
        return tensors[plain["array"]].numpy()
    if "class" in plain:
        parts = {name: restore(part, tensors, known) for name, part in plain["fields"].items()}
        return known[plain["class"]](**parts)
    if "pairs" in plain:
        return {restore(key, tensors, known): restore(part, tensors, known) for key, part in plain["pairs"]}
    if "list" in plain:
        return [restore(part, tensors, known) for part in plain["list"]]
    return tuple(restore(part, tensors, known) for part in plain["tuple"])


def _read(path: Path, facts: str, known: Mapping[str, type]) -> Any:  # noqa: ANN401 - any fit
    """The fit, or None where it is not there, belongs to something else or is damaged: then it is made anew."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("facts") != facts:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return restore(json.loads(metadata[_KEY]), tensors, known)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
