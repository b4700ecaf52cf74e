"""Match an optimizer's state to the tables: Adagrad's accumulators tell how much each row was trained.

Names decide if the state has them, else shape and order if only one match is possible; a warning names the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.state_dict import StateDict, is_optimizer_key, strip_name, words_of
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor

_KINDS = (
    ("sum", "adagrad"),
    ("momentum2", "adam"),
    ("momentum1", "adagrad"),
    ("momentum", "adagrad"),
    ("mu_product", "nadam"),
    ("exp_inf", "adamax"),
    ("exp_avg_sq", "adam"),
    ("exp_avg", "lion"),
    ("acc_delta", "adadelta"),
    ("square_avg", "rmsprop"),
    ("momentum_buffer", "sgd"),
    ("row_var", "adafactor"),
    ("ax", "asgd"),
    ("prev", "rprop"),
)
"""A slot of a parameter's state -> the optimizer that keeps it, the most telling first (momentum1, 2: fbgemm's)."""

_SETTINGS = (("lr_decay", "adagrad"), ("betas", "adam"), ("dampening", "sgd"), ("etas", "rprop"), ("rho", "adadelta"))
_ROW_SLOTS = ("momentum", "momentum1")
_FLAT = re.compile(r"state\.(?P<name>.+)\.(?P<slot>[^.]+)")
_DEEPEST = 8
_MOST_VISITED = 10_000
_IN_ORDER = "the optimizer's parameters are in the state dict's order"
_NO_NAME = "entries whose param_names are of another number"
_GENERAL = words_of(
    " opt optim optimizer optimizers adagrad state states dict model net module network weights params sparse dense "
    "fused emb embs embedding embeddings table tables checkpoint"
)
"""Words of keys that name no part of a model."""
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_DIGITS = re.compile(r"(\d+)", re.ASCII)


@dataclass(frozen=True, eq=False)
class _Entry:
    """One parameter's state: its group, its name where the file tells it, and the slots by their last name."""

    group: int
    name: str | None
    slots: Mapping[str, object]
    table: str | None = None

    def accumulator(self) -> tuple[StoredTensor, bool] | None:
        """Adagrad's sum of squares, and whether it is one that may have a number per row."""
        slot = "sum" if "sum" in self.slots else next((one for one in _ROW_SLOTS if one in self.slots), "")
        found = self.slots.get(slot)
        if "momentum2" in self.slots or not isinstance(found, StoredTensor) or found.dtype not in FLOATING:
            return None
        return found, slot in _ROW_SLOTS

    def shown(self) -> tuple[StoredTensor, bool] | None:
        """What tells the parameter's shape: the accumulator, or another optimizer's tensor of the same shape."""
        others = (one for one in self.slots.values() if isinstance(one, StoredTensor) and one.shape)
        other = next(others, None)
        return self.accumulator() or (None if other is None else (other, False))

    def suits(self, parameter: StoredTensor) -> bool:
        """Whether the state can be this parameter's, by its shape; one that has none can be any's."""
        found = self.shown()
        if found is None:
            return True
        tensor, by_row = found
        by_row = by_row or bool(self.name)
        return suits_rows(tensor, parameter) if by_row else tensor.shape == parameter.shape


@dataclass(frozen=True)
class FoundOptimizer:
    """The optimizer's name, each parameter's sums by parameter name, warnings, and what is assumed of the sums."""

    name: str | None
    sums: dict[str, StoredTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def suits_rows(sums: StoredTensor, weight: StoredTensor) -> bool:
    """Whether sums are of a parameter's shape, or, of a matrix, one for each row: [n] or [n, 1]."""
    by_row = {weight.shape[:1], (*weight.shape[:1], 1)} if len(weight.shape) == 2 else set()
    return sums.shape == weight.shape or sums.shape in by_row


def find_optimizer(root: object, state: StateDict, *, path: Sequence[str] = (), ordered: bool = True) -> FoundOptimizer:
    """The optimizer of a state and its sums.

    `path`: the keys that lead to the state; an optimizer under the name of another part is not its own. `ordered`: the
    state dict has the order of the model's parameters, by which torch.optim numbers them.
    """
    every = list(_find_states(root))
    optimizers = [found for keys, found in every if not _is_foreign(keys, path)]
    notes = [
        f"the optimizer state under {keys} is not {'.'.join(path)}'s" for keys, _ in every if _is_foreign(keys, path)
    ]
    notes = [f"{printable(note)} and is not used" for note in notes]
    entries = [entry for number, found in enumerate(optimizers) for entry in _read_entries(found, 10_000 * number)]
    kind = _name_kind(entries, optimizers)
    if kind != "adagrad":
        return FoundOptimizer(kind and _describe_other(kind), notes=tuple(notes))
    parameters = _list_parameters(state)
    ends = _index_ends(parameters)
    named = {key: entry for entry in entries if (key := _find_named(entry, parameters, ends)) is not None}
    free = {name: value for name, value in parameters.items() if name not in named}
    rest = [entry for entry in entries if entry.name is None]
    placed, more, assumed = _place(rest, free, ordered and _keeps_order(parameters))
    notes += [*_note_unplaced(entries, [*named.values()]), *more]
    found = {key: sums[0] for key, entry in (named | placed).items() if (sums := entry.accumulator()) is not None}
    rowwise = any(sums.shape != parameters[key].shape for key, sums in found.items())
    return FoundOptimizer("rowwise-adagrad" if rowwise else "adagrad", found, tuple(notes), assumed)


def _is_foreign(keys: str, path: Sequence[str]) -> bool:
    """Whether an optimizer's keys name one part of a model, and the state's keys another (generator, d_optimizer)."""
    own, its = words_of(" ".join(path)), words_of(keys)
    part, other = own - its - _GENERAL, its - own - _GENERAL
    return bool(part and other) and not any(a.startswith(b) or b.startswith(a) for a in part for b in other)


def _note_unplaced(entries: Sequence[_Entry], named: Sequence[_Entry]) -> list[str]:
    """What to say of sums under names that are no parameter's, or that do not fit the one they name."""
    held = {id(entry) for entry in named}
    unheld = [entry for entry in entries if entry.accumulator() and id(entry) not in held]
    lost = list(dict.fromkeys(entry.name for entry in unheld if entry.name is not None))
    if not lost:
        return []
    names = ", ".join(printable(name) for name in lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return [f"the optimizer state of {names} fits no parameter of the model by name and shape and is not used"]


def _find_states(root: object) -> Iterator[tuple[str, Mapping[object, object]]]:
    """Every mapping of a file that is an optimizer's state dict, by its form or its key, after the keys to it."""
    pending: list[tuple[int, str, object]] = [(0, "", root)]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_VISITED:
        depth, keys, value = pending.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple)) or depth > _DEEPEST:
            continue
        seen.add(id(value))
        if not isinstance(value, dict):
            pending += [(depth + 1, keys, one) for one in reversed(value) if isinstance(one, (dict, list, tuple))]
        elif _is_optimizer(value, inside=is_optimizer_key(keys)):
            yield keys, value
        else:
            inner = [(key, one) for key, one in value.items() if isinstance(one, (dict, list, tuple))]
            pending += [(depth + 1, f"{keys} {printable(key)}".strip(), one) for key, one in reversed(inner)]


def _is_optimizer(value: Mapping[object, object], *, inside: bool) -> bool:
    """Whether a mapping has an optimizer's state: as torch.optim has it, or (below an optimizer's key) flattened."""
    if isinstance(value.get("state"), dict):
        return inside or "param_groups" in value
    return inside and any(isinstance(key, str) and _FLAT.fullmatch(key) for key in value)


def _read_entries(optimizer: Mapping[object, object], first_group: int) -> list[_Entry]:
    """The parameters of an optimizer in the order of its groups; those without state have no slots."""
    states = _nest(optimizer)
    entries, listed = list[_Entry](), set[object]()
    for number, group in enumerate(_groups_of(optimizer)):
        identities, names = group.get("params"), group.get("param_names")
        fits = not isinstance(names, (list, tuple)) or (
            isinstance(identities, (list, tuple)) and len(names) == len(identities)
        )
        for place, identity in enumerate(identities if isinstance(identities, (list, tuple)) else ()):
            name = identity if not isinstance(names, (list, tuple)) else names[place] if fits else _NO_NAME
            identity = _as_number(identity)
            if isinstance(identity, (int, str)):
                entries.append(_make_entry(first_group + number, name, states.get(identity)))
                listed.add(identity)
    numbers = [identity for identity in states if type(identity) is int]
    if not listed and numbers and max(numbers) < 10 * len(numbers) + 100:
        entries += [_make_entry(first_group, place, states.get(place)) for place in range(max(numbers) + 1)]
    strays = [identity for identity in states if isinstance(identity, str) and identity not in listed]
    return entries + [_make_entry(first_group, identity, states[identity]) for identity in strays]


def _groups_of(optimizer: Mapping[object, object]) -> list[dict[object, object]]:
    groups = optimizer.get("param_groups")
    return [group for group in groups if isinstance(group, dict)] if isinstance(groups, (list, tuple)) else []


def _nest(optimizer: Mapping[object, object]) -> dict[object, object]:
    """State by parameter; keys of the form `state.NAME.SLOT`, as distributed checkpoints flatten them, are parted."""
    states = optimizer.get("state")
    if isinstance(states, dict):
        return {_as_number(key): value for key, value in states.items()}
    nested: dict[object, object] = {}
    for key, value in optimizer.items():
        match = _FLAT.fullmatch(key) if isinstance(key, str) else None
        inner = nested.setdefault(match["name"], {}) if match is not None else None
        if match is not None and isinstance(inner, dict):
            inner[match["slot"]] = value
    return nested


def _as_number(identity: object) -> object:
    """A parameter's number where it is written as text, as JSON has keys; anything else as it is."""
    return int(identity) if isinstance(identity, str) and _NUMBER.fullmatch(identity) else identity


def _make_entry(group: int, name: object, slots: object) -> _Entry:
    own = {key: value for key, value in slots.items() if isinstance(key, str)} if isinstance(slots, dict) else {}
    table = next((key.rpartition(".")[0] for key in own if "." in key), None)
    plain = {key.rpartition(".")[2]: value for key, value in own.items()}
    return _Entry(group, strip_name(name) if isinstance(name, str) else None, plain, table)


def _name_kind(entries: Sequence[_Entry], optimizers: Sequence[Mapping[object, object]]) -> str | None:
    """What the optimizer is called, by what it keeps or else by its settings; None where the file has none."""
    slots = {slot for entry in entries for slot in entry.slots}
    listed = [group for one in optimizers for group in _groups_of(one)]
    settings = {key for group in listed for key in group}
    known = [name for slot, name in _KINDS if slot in slots] or [name for key, name in _SETTINGS if key in settings]
    if known:
        return known[0]
    if not slots:
        return "without state" if optimizers and settings else None
    return f"unknown ({', '.join(printable(slot) for slot in sorted(slots)[:4])})"


def _describe_other(kind: str) -> str:
    """The name of an optimizer whose state is not used, and why."""
    if kind in ("adam", "nadam", "adamax", "rmsprop"):
        return f"{kind} (not used: its averages forget rows read long ago and serve less well than Adagrad's sums)"
    return f"{kind} (not used: it does not tell how often rows were read)"


def _list_parameters(state: StateDict) -> dict[str, StoredTensor]:
    """Floats of a state dict that may be parameters, each tensor under its first name."""
    first: dict[StoredTensor, str] = {}
    for name, value in state.items():
        if isinstance(value, StoredTensor) and value.dtype in FLOATING:
            first.setdefault(value, name)
    return {name: value for value, name in first.items()}


def _index_ends(names: Iterable[str]) -> dict[str, list[str]]:
    """Every end of a dotted name -> the names that end so."""
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".", _DEEPEST)
        for start in range(len(parts)):
            found.setdefault(".".join(parts[start:]), []).append(name)
    return found


def _find_named(entry: _Entry, parameters: Mapping[str, StoredTensor], ends: Mapping[str, list[str]]) -> str | None:
    """The one parameter that an entry names: by its full name, by its end, or by fbgemm's name of a table."""
    if entry.name is None or entry.accumulator() is None:
        return None
    by_name = ends.get(f"{entry.name}.weight", [])
    by_table = ends.get(f"{entry.table}.weight", []) if entry.table else []
    for keys in ([entry.name] if entry.name in parameters else [], ends.get(entry.name, []), by_name, by_table):
        if len(keys) == 1:
            return keys[0] if entry.suits(parameters[keys[0]]) else None
    return None


def _place(
    entries: Sequence[_Entry], parameters: Mapping[str, StoredTensor], ordered: bool
) -> tuple[dict[str, _Entry], list[str], tuple[str, ...]]:
    """The parameters that entries without a name belong to, what to say of the others, and what is assumed."""
    if not any(entry.accumulator() for entry in entries):
        return {}, [], ()
    names = list(parameters)
    matrices = [name for name in names if len(parameters[name].shape) == 2]
    placed, assumed = _place_by_shape(entries, parameters), tuple[str, ...]()
    if len({entry.group for entry in entries}) == 1 and ordered:
        first = _embed(entries, [parameters[name] for name in names])
        last = _embed(entries[::-1], [parameters[name] for name in reversed(names)])
        if first is None or last is None:
            return {}, ["the optimizer state does not fit the parameters' shapes and is not used"], ()
        places = [len(names) - 1 - place for place in reversed(last)]
        sure = {names[a]: entry for entry, a, b in zip(entries, first, places, strict=True) if a == b}
        shapes = Counter(parameters[name].shape for name in matrices)
        if sure.keys() >= set(matrices):  # the whole model in one group, as Adagrad(model.parameters()) has it
            placed, assumed = sure, (_IN_ORDER,) if len(shapes) < len(matrices) else ()
        else:
            placed |= {name: entry for name, entry in sure.items() if shapes[parameters[name].shape] == 1}
    doubtful = [
        name
        for name in matrices
        if name not in placed and any(e.accumulator() and e.suits(parameters[name]) for e in entries)
    ]
    if not doubtful:
        return placed, [], assumed
    note = (
        f"the optimizer state does not name its parameters, and {printable(doubtful[0])} is not the only one that it "
        "may belong to by shape: such state is not used; save that of an optimizer over model.named_parameters()"
    )
    return placed, [note], assumed


def _embed(entries: Sequence[_Entry], parameters: Sequence[StoredTensor]) -> list[int] | None:
    """The earliest parameters that suit these entries one after the other; None where there are none."""
    places, at = [], 0
    for entry in entries:
        while at < len(parameters) and not entry.suits(parameters[at]):
            at += 1
        if at == len(parameters):
            return None
        places.append(at)
        at += 1
    return places


def _place_by_shape(entries: Sequence[_Entry], parameters: Mapping[str, StoredTensor]) -> dict[str, _Entry]:
    """Entries of a shape that no other entry has, and one parameter alone."""
    by_shape: dict[tuple[object, ...], list[_Entry]] = {}
    for entry in entries:
        shown = entry.shown()
        if shown is None:
            return {}
        by_shape.setdefault((shown[0].shape, shown[1]), []).append(entry)
    fitting = [
        ([name for name, value in parameters.items() if alike[0].suits(value)], alike) for alike in by_shape.values()
    ]
    taken = Counter(name for names, _ in fitting for name in names)
    return {names[0]: alike[0] for names, alike in fitting if len(names) == len(alike) == taken[names[0]] == 1}


def _keeps_order(parameters: Mapping[str, StoredTensor]) -> bool:
    """Whether the names come in an order that sorting them as text would not give (t_1, t_10, t_2)."""
    names = list(parameters)
    natural = sorted(
        names,
        key=lambda name: [
            (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _DIGITS.split(name)
        ],
    )
    return names != sorted(names) or names == natural
