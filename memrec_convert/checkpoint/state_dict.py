"""Find the state dict in what a file holds: under a wrapper's key, inside a whole pickled module, behind prefixes."""

from __future__ import annotations

import math
import re

from memrec_convert.checkpoint.inert.stand_ins import Placeholder, printable
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import CheckpointError

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts store the model's state, the most specific first."""

_WRAPPERS = re.compile(r"(?:(?:module|model|_orig_mod)\.)+", re.ASCII)
_DEEPEST = 64
_MOST_MODULES = 100_000
_METRIC = re.compile(r"(?:.*_)?(?:auc|acc|loss|logloss)", re.ASCII)

StateDict = dict[str, object]
"""Name -> `StoredTensor`, or an inert value where the entry is no tensor that can be read."""


def find_state_dict(root: object, where: str) -> StateDict:
    """The model's tensors by name, wrappers' prefixes taken off; CheckpointError where there is no such thing."""
    for _ in range(_DEEPEST):
        if isinstance(root, Placeholder):
            return strip_wrappers(flatten_module(root, where), where)
        if not isinstance(root, dict):
            raise CheckpointError(f"{where}: holds a {_kind(root)}, not a state dict; save model.state_dict().")
        inner = next((root[key] for key in STATE_KEYS if isinstance(root.get(key), (dict, Placeholder))), None)
        if inner is None:
            return strip_wrappers({name: value for name, value in root.items() if isinstance(name, str)}, where)
        root = inner
    raise CheckpointError(f"{where}: nests state dicts deeper than {_DEEPEST} levels; the file is damaged.")


def flatten_module(module: Placeholder, where: str) -> StateDict:
    """The state dict of a whole pickled module, from the `_parameters`, `_buffers` and `_modules` of its state."""
    if not (isinstance(module.state, dict) and isinstance(module.state.get("_modules"), dict)):
        raise CheckpointError(f"{where}: holds an object of class {module.name}, not a model; save model.state_dict().")
    result: StateDict = {}
    pending: list[tuple[str, int, object]] = [("", 0, module)]
    for visited in range(_MOST_MODULES):
        if not pending:
            return result
        prefix, depth, part = pending.pop()
        if not isinstance(part, Placeholder) or not isinstance(part.state, dict):
            continue
        if depth > _DEEPEST or visited == _MOST_MODULES - 1:
            break
        for kind in ("_parameters", "_buffers"):
            own = part.state.get(kind)
            entries = own.items() if isinstance(own, dict) else ()
            result |= {prefix + name: value for name, value in entries if isinstance(name, str) and value is not None}
        children = part.state.get("_modules")
        if isinstance(children, dict):
            named = [(f"{prefix}{name}.", depth + 1, child) for name, child in children.items()]
            pending.extend(reversed(named))  # the stack then yields them in their own order
    raise CheckpointError(f"{where}: the pickled module contains itself or nests too deep; save model.state_dict().")


def strip_wrappers(state: StateDict, where: str) -> StateDict:
    """The state dict without the leading `module.` and `model.` of training wrappers."""
    result: StateDict = {}
    for name, value in state.items():
        match = _WRAPPERS.match(name)
        plain = name[match.end() :] if match is not None else name
        if plain in result:
            raise CheckpointError(
                f"{where}: {printable(name)!r} and another entry are both {printable(plain)!r} without their prefixes; "
                "save the state dict of one model."
            )
        result[plain] = value
    return result


def find_metrics(root: object) -> dict[str, float]:
    """Figures that a training script stored beside the model, such as test_auc; finite ones only."""
    if not isinstance(root, dict):
        return {}
    return {
        name: float(value)
        for name, value in root.items()
        if isinstance(name, str) and _METRIC.fullmatch(name) and _is_finite_number(value)
    }


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def _kind(value: object) -> str:
    return "tensor" if isinstance(value, StoredTensor) else type(value).__name__
