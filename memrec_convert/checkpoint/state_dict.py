"""Find the state dict in a file: under any key, in a tuple, in a whole module, with or without wrappers' prefixes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memrec_convert.checkpoint.inert.stand_ins import NumpyArray, Placeholder, printable
from memrec_convert.checkpoint.tensor_ref import StoredTensor, hold_array
from memrec_convert.errors import CheckpointError

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "model_state", "network", "weights", "params")
"""Keys under which training scripts store the model's state, the most specific first."""

_WRAPPERS = re.compile(r"(?:(?:module|model|_orig_mod)\.)+", re.ASCII)
_INNER_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", re.ASCII
)
_WORDS = re.compile(r"[^a-z]+")
_MOVING = frozenset({"ema", "avg", "average", "averaged", "swa", "shadow", "polyak", "teacher"})
_SPARE = _MOVING | {"best", "old", "last", "prev", "backup"}
_PLAIN = frozenset(
    {"", "model", "state", "states", "dict", "net", "network", "module", "params", "parameters", "weights"}
)
_OPTIMIZERS = frozenset({"opt", "optim", "optimizer", "optimizers"})
_NO_MODELS = _OPTIMIZERS | {"scheduler", "schedulers", "scaler", "hyper", "hparams", "config", "args"}
_CONTAINERS = (dict, list, tuple, Placeholder)
_MOST_ARGUMENTS = 8
TABLE_WORDS = re.compile(r"emb|lookup|_factors|(?:^|[._])tables?(?:[._]|$)", re.IGNORECASE)
"""Matches names of embedding tables."""

NO_TABLE_WORDS = re.compile(r"(?:^|[._])(?:pos|position|positional|running|proj|projection|norm|bn)(?:[._]|$|_)")
"""Matches names, in lower case, that never belong to a table."""

_DEEPEST = 64
_MOST_MODULES = 100_000
_MOST_NAMED = 4
_METRIC = re.compile(r"(?:.*_)?(?:auc|acc|loss|logloss)", re.ASCII)

StateDict = dict[str, object]
"""Name -> `StoredTensor`, or an inert value if the entry is not a readable tensor."""


@dataclass(frozen=True)
class FoundState:
    """The model's state and what there is to say of its choice.

    `bare`: arrays without the names of a network; `path`: the keys that lead to all of it.
    """

    state: StateDict
    notes: tuple[str, ...] = ()
    bare: bool = False
    path: tuple[str, ...] = ()


_Path = tuple["_Path", str] | None
"""The keys that lead to a value, the last one outside; shared by what lies beside each other."""


@dataclass(frozen=True)
class _Candidate:
    """A mapping that holds matrices, and the keys that lead to it; `loose`: a list of tensors."""

    path: tuple[str, ...]
    entries: StateDict
    loose: bool = False

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(self.path)

    @property
    def names_table(self) -> bool:
        """Whether a name of it, the keys that lead to it included, is that of a table."""
        return any(TABLE_WORDS.search(f"{self.name}.{name}") for name in self.entries)

    @property
    def is_state(self) -> bool:
        """Whether its own names are those of a state dict."""
        return any(name.endswith("weight") or TABLE_WORDS.search(name) for name in self.entries)


def find_state_dict(root: object, where: Path, *, wanted: str | None = None) -> FoundState:
    """Finds the model's tensors by name, without wrappers' prefixes; CheckpointError if there are none.

    `wanted` is the key (dotted if nested) of the state to take, or a prefix of its names. Default: the state under the
    first of `STATE_KEYS`; else every state that is not an average of another, each under its key.
    """
    if isinstance(root, StoredTensor) and len(root.shape) == 2:
        return FoundState({"table": root}, bare=True)
    found = list(_walk(root, where))
    if not found:
        return FoundState(strip_wrappers(_read_bare_root(root, where), str(where)))
    taken = _choose(found) if wanted is None else _choose_wanted(found, wanted, where)
    depth = _common_depth([one.path for one in taken])
    state: StateDict = {}
    for one in taken:
        beginning = "".join(f"{key}." for key in one.path[depth:])
        named = {beginning + name: value for name, value in one.entries.items()}
        if twice := next((name for name in named if name in state), None):
            raise CheckpointError(
                f"{where}: {printable(twice)!r} is in the file twice, once nested; rename one of them."
            )
        state |= named
    state, notes = strip_wrappers(state, str(where)), _note_others(found, taken)
    if wanted is None:
        state, averages = _drop_averages(state)
        notes += [
            f"{one}.* repeats the model's entries and was ignored: to use it, pass --assume state={one}"
            for one in averages
        ]
    return FoundState(state, tuple(notes), bare=all(one.loose for one in taken), path=taken[0].path[:depth])


def _note_others(found: list[_Candidate], taken: list[_Candidate]) -> list[str]:
    """What lies beside the chosen state and may be another."""
    paths = {one.path for one in taken}
    repeated = {name for one in taken for name in one.entries}
    others = [one for one in found if one.path not in paths and (repeated & one.entries.keys() or one.names_table)]
    if not others:
        return []
    first = printable(taken[0].name) or "the top level"
    names = ", ".join(printable(one.name) or "the top level" for one in others[:_MOST_NAMED])
    way = next(
        (f": to use that, pass --assume state={printable(one.name)}" for one in others if one.name), "; save all in one"
    )
    return [f"the model's state was taken from {first}; {names} also has tensors{way}"]


def _walk(root: object, where: Path) -> Iterator[_Candidate]:
    """Every mapping in a file that holds a matrix, optimizers' states left out; each container is entered once."""
    pending: list[tuple[int, _Path, object]] = [(0, None, root)]
    seen, arrays = set[int](), 0
    while pending:
        depth, path, value = pending.pop()
        if not value or id(value) in seen or depth > _DEEPEST:
            continue
        seen.add(id(value))
        if isinstance(value, Placeholder) and is_module(value):
            yield _Candidate(_unroll(path), flatten_module(value, str(where)))
            continue
        entries = _entries_of(value)
        if {"state", "param_groups"} <= entries.keys():
            continue
        for key, inner in entries.items():
            if isinstance(inner, NumpyArray) and inner.values is not None:
                entries[key] = hold_array(where, arrays, inner.values) or inner
                arrays += 1
        if any(is_matrix(inner) for inner in entries.values()):
            yield _Candidate(_unroll(path), entries, loose=isinstance(value, (list, tuple)))
        nested = [(key, inner) for key, inner in entries.items() if isinstance(inner, _CONTAINERS)]
        nested.sort(key=lambda pair: pair[0] not in STATE_KEYS)  # of a state under two keys, the telling one counts
        pending += [
            (depth + 1, (path, key), inner) for key, inner in reversed(nested) if not _NO_MODELS & words_of(key)
        ]


def _unroll(path: _Path) -> tuple[str, ...]:
    keys: list[str] = []
    while path is not None:
        path, key = path
        keys.append(key)
    return tuple(reversed(keys))


def _entries_of(value: object) -> StateDict:
    """What a container holds under names: of a list, the places; of an object, its attributes and items."""
    if isinstance(value, dict):
        return {str(key): inner for key, inner in value.items() if isinstance(key, (str, int))}
    if isinstance(value, (list, tuple)):
        kept = (*_CONTAINERS, StoredTensor, NumpyArray)
        return {str(place): inner for place, inner in enumerate(value) if isinstance(inner, kept)}
    if not isinstance(value, Placeholder) or shape_of_unread(value) is not None:
        return {}
    pairs = [item for item in value.items if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)]
    return {**_entries_of(value.state if isinstance(value.state, dict) else {}), **dict(pairs)}


def is_matrix(value: object) -> bool:
    """Whether an entry is a tensor with at least two dimensions, readable or not."""
    shape = value.shape if isinstance(value, StoredTensor) else shape_of_unread(value)
    return shape is not None and len(shape) > 1


def shape_of_unread(value: object) -> tuple[int, ...] | None:
    """Returns the shape of an unread tensor, as far as its pickled arguments tell; None if it is not a tensor."""
    if isinstance(value, NumpyArray):
        return None if value.values is None else value.values.shape
    if isinstance(value, Placeholder) and value.name.startswith("numpy.ma."):  # its shape is in its state
        parts = value.state[:_MOST_ARGUMENTS] if isinstance(value.state, tuple) else ()
        return next((one for one in parts if isinstance(one, tuple) and all(type(n) is int for n in one)), (0, 0))
    if not isinstance(value, Placeholder) or not ("ensor" in value.name or value.name.startswith("numpy array")):
        return None
    arguments = [*value.args[:_MOST_ARGUMENTS]]
    arguments += [inner for one in arguments if isinstance(one, tuple) for inner in one[:_MOST_ARGUMENTS]]
    shapes = (one for one in arguments if isinstance(one, tuple) and len(one) <= _MOST_ARGUMENTS)
    return next((one for one in shapes if all(type(size) is int for size in one)), (0, 0))


def _choose(found: list[_Candidate]) -> list[_Candidate]:
    """The candidates that are the model."""
    firm = [one for one in found if not one.loose] or found
    models = [one for one in firm if not any(_is_spare(key, _SPARE) for key in one.path)] or firm[:1]
    named = [one for one in models if one.path and one.path[-1] in STATE_KEYS]
    if named:
        return [min(named, key=lambda one: (STATE_KEYS.index(one.path[-1]), len(one.path)))]
    inner = [one for one in models if one.path]
    if models[0].path or not (models[0].is_state or not inner):
        return inner
    return [models[0], *(one for one in inner if one.names_table)]


def _choose_wanted(found: list[_Candidate], wanted: str, where: Path) -> list[_Candidate]:
    """The candidates at or below a key, or the entries whose names begin with it."""
    taken = [one for one in found if one.name == wanted or one.name.startswith(f"{wanted}.")]
    if taken:
        return taken
    for one in found:
        for entries in (one.entries, strip_wrappers(one.entries, str(where))):
            inside = {name[len(wanted) + 1 :]: held for name, held in entries.items() if name.startswith(f"{wanted}.")}
            if inside:
                return [_Candidate((*one.path, wanted), inside)]
    raise CheckpointError(
        f"{where}: has no state {wanted!r}; tensors are under "
        f"{', '.join(printable(one.name) or 'the top level' for one in found[: 2 * _MOST_NAMED])}."
    )


def _drop_averages(state: StateDict) -> tuple[StateDict, list[str]]:
    """The state without entries that repeat others under the prefix of an average, and those prefixes."""
    groups: dict[str, set[str]] = {}
    for name in state:
        first, _, rest = name.partition(".")
        groups.setdefault(first, set()).add(rest)
    names, dropped = set(state), []
    for first in [first for first in groups if _is_spare(first, _MOVING)][:_MOST_NAMED]:
        rests = groups[first]
        repeats = rests <= names or any(rests <= groups[other] for other in groups if other != first)
        if "" not in rests and repeats:
            dropped.append(first)
    kept = {name: value for name, value in state.items() if name.partition(".")[0] not in dropped}
    return (kept, dropped) if kept else (state, [])


def _common_depth(paths: list[tuple[str, ...]]) -> int:
    """How many keys all paths share; of one path, all."""
    depth = 0
    while all(len(path) > depth and path[depth] == paths[0][depth] for path in paths):
        depth += 1
    return depth


def _is_spare(key: str, kinds: frozenset[str]) -> bool:
    """Whether a key says that it holds a spare model and no more: model_ema, but not teacher_tower or last_item_emb."""
    words = words_of(key)
    return bool(words & kinds) and words <= kinds | _PLAIN


def words_of(key: str) -> frozenset[str]:
    """The words of a key, in lower case."""
    return frozenset(_WORDS.split(key.lower()))


def _read_bare_root(root: object, where: Path) -> StateDict:
    """The entries of a file without any matrix, by which a layout says what is missing."""
    for _ in range(_DEEPEST):
        if isinstance(root, Placeholder):
            return flatten_module(root, str(where))
        if not isinstance(root, dict):
            raise CheckpointError(f"{where}: holds a {_kind(root)}, not a state dict; save model.state_dict().")
        inner = next((root[key] for key in STATE_KEYS if isinstance(root.get(key), (dict, Placeholder))), None)
        if inner is None:
            return {name: value for name, value in root.items() if isinstance(name, str)}
        root = inner
    raise CheckpointError(f"{where}: nests state dicts deeper than {_DEEPEST} levels; the file is damaged.")


def is_optimizer_key(key: object) -> bool:
    """Whether a key is one under which training scripts keep an optimizer's state."""
    return isinstance(key, str) and bool(_OPTIMIZERS & words_of(key))


def is_module(value: object) -> bool:
    """Whether a pickled object is a whole module."""
    return (
        isinstance(value, Placeholder)
        and isinstance(value.state, dict)
        and isinstance(value.state.get("_modules"), dict)
    )


def flatten_module(module: Placeholder, where: str) -> StateDict:
    """Builds the state dict of a whole pickled module from its `_parameters`, `_buffers` and `_modules`."""
    if not is_module(module):
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
    """Removes the prefixes of training wrappers from the names of a state dict."""
    result: StateDict = {}
    for name, value in state.items():
        plain = strip_name(name)
        if plain in result:
            raise CheckpointError(
                f"{where}: {printable(name)!r} and another entry become {printable(plain)!r} without their prefixes; "
                "save the state dict of one model."
            )
        result[plain] = value
    return result


def strip_name(name: str) -> str:
    """Removes leading `module.` and `model.`, and the parts that FSDP, Fabric and compile add, from a name."""
    plain = _INNER_WRAPPERS.sub("", name)
    match = _WRAPPERS.match(plain)
    return plain if match is None or match.end() == len(plain) else plain[match.end() :]


def find_metrics(root: object) -> dict[str, float]:
    """Returns the finite figures that a training script stored beside the model, such as test_auc."""
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
