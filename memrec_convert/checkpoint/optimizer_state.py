"""Match an optimizer's state to the tables: Adagrad's accumulators tell how much each row was trained.

Names decide if the state has them, else shape and order if only one match is possible; a warning names the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.state_dict import StateDict, is_optimizer_key, strip_name
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
        return tensor.shape == parameter.shape or (
            by_row and len(parameter.shape) == 2 and tensor.shape == parameter.shape[:1]
        )


def find_optimizer(
    root: object, state: StateDict, *, ordered: bool = True
) -> tuple[str | None, dict[str, StoredTensor], list[str]]:
    """Returns the optimizer's name, the accumulators by parameter name, and warnings.

    `ordered`: the state dict has the order in which torch.optim numbers the model's parameters.
    """
    optimizers = list(_find_states(root))
    entries = [entry for number, found in enumerate(optimizers) for entry in _read_entries(found, 10_000 * number)]
    kind = _name_kind(entries, optimizers)
    if kind != "adagrad":
        return kind and _describe_other(kind), {}, []
    parameters = _list_parameters(state)
    ends = _index_ends(parameters)
    named = {key: entry for entry in entries if (key := _find_named(entry, parameters, ends)) is not None}
    rest = [entry for entry in entries if entry.name is None]
    free = {name: value for name, value in parameters.items() if name not in named}
    placed, notes = _place(rest, free, ordered and _keeps_order(parameters))
    found = {key: sums[0] for key, entry in (named | placed).items() if (sums := entry.accumulator()) is not None}
    rowwise = any(sums.shape != parameters[key].shape for key, sums in found.items())
    return "rowwise-adagrad" if rowwise else "adagrad", found, notes


def _find_states(root: object) -> Iterator[Mapping[object, object]]:
    """Every mapping of a file that is an optimizer's state dict, by its form or by its key."""
    pending: list[tuple[int, bool, object]] = [(0, False, root)]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_VISITED:
        depth, inside, value = pending.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple)) or depth > _DEEPEST:
            continue
        seen.add(id(value))
        if not isinstance(value, dict):
            pending += [(depth + 1, inside, one) for one in reversed(value) if isinstance(one, (dict, list, tuple))]
        elif _is_optimizer(value, inside=inside):
            yield value
        else:
            inner = [(key, one) for key, one in value.items() if isinstance(one, (dict, list, tuple))]
            pending += [(depth + 1, inside or is_optimizer_key(key), one) for key, one in reversed(inner)]


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
        for place, identity in enumerate(identities if isinstance(identities, (list, tuple)) else ()):
            name = names[place] if isinstance(names, (list, tuple)) and place < len(names) else identity
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
        return states
    nested: dict[object, object] = {}
    for key, value in optimizer.items():
        match = _FLAT.fullmatch(key) if isinstance(key, str) else None
        inner = nested.setdefault(match["name"], {}) if match is not None else None
        if match is not None and isinstance(inner, dict):
            inner[match["slot"]] = value
    return nested


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
    by_table = ends.get(f"{entry.table}.weight", []) if entry.table else []
    for keys in ([entry.name] if entry.name in parameters else [], ends.get(entry.name, []), by_table):
        if len(keys) == 1:
            return keys[0] if entry.suits(parameters[keys[0]]) else None
    return None


def _place(
    entries: Sequence[_Entry], parameters: Mapping[str, StoredTensor], ordered: bool
) -> tuple[dict[str, _Entry], list[str]]:
    """The parameters that entries without a name can belong to in one way only, and what to say of the others."""
    if not any(entry.accumulator() for entry in entries):
        return {}, []
    names = list(parameters)
    if len({entry.group for entry in entries}) == 1 and ordered:
        first = _embed(entries, [parameters[name] for name in names])
        last = _embed(entries[::-1], [parameters[name] for name in reversed(names)])
        if first is None or last is None:
            return {}, ["the optimizer state does not fit the shapes of the parameters and is not used"]
        places = [len(names) - 1 - place for place in reversed(last)]
        placed = {names[a]: entry for entry, a, b in zip(entries, first, places, strict=True) if a == b}
    else:
        placed = _place_by_shape(entries, parameters, ordered)
    left = [name for name in names if name not in placed and len(parameters[name].shape) == 2]
    doubtful = [name for name in left if any(e.accumulator() and e.suits(parameters[name]) for e in entries)]
    if not doubtful:
        return placed, []
    return placed, [
        f"the optimizer state does not name its parameters, and more parameters than {printable(doubtful[0])} have a "
        "matching shape: the state is not used; create the optimizer with model.named_parameters() and save again"
    ]


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


def _place_by_shape(
    entries: Sequence[_Entry], parameters: Mapping[str, StoredTensor], ordered: bool
) -> dict[str, _Entry]:
    """Entries of several groups: one of a shape that one parameter has; or as many as there are, all in one group."""
    placed: dict[str, _Entry] = {}
    by_shape: dict[tuple[object, ...], list[_Entry]] = {}
    for entry in entries:
        shown = entry.shown()
        if shown is None:
            return placed
        by_shape.setdefault((shown[0].shape, shown[1]), []).append(entry)
    for alike in by_shape.values():
        names = [name for name, parameter in parameters.items() if alike[0].suits(parameter)]
        together = ordered and len({entry.group for entry in alike}) == 1
        if len(names) == len(alike) and (together or len(names) == 1):
            placed |= {name: entry for name, entry in zip(names, alike, strict=True) if name not in placed}
    return placed


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
