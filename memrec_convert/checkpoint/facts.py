"""What a checkpoint does not say about itself, and its owner may: stated facts take the place of assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from memrec_convert.choices import DenseTransform, Interaction, Pairs, Pooling, QrOperation, values_of
from memrec_convert.errors import CheckpointError

_CHOICES = {
    "pairs": values_of(Pairs),
    "dense_transform": values_of(DenseTransform),
    "qr_operation": values_of(QrOperation),
    "interaction": values_of(Interaction),
    "pooling": values_of(Pooling),
}
_WORDS = {
    "qr_operation": "the quotient-remainder operation",
    "interaction": "the interaction",
    "pooling": "the pooling",
    "pairs": "the order of pairs",
    "dense_transform": "the dense transform",
}
_LISTS = ("field_sizes", "table_order")


@dataclass(frozen=True)
class Facts:
    """None leaves a fact to the layout's assumption. CheckpointError for a value that a fact cannot have.

    pairs            order of the interaction's pairs: "lower" or "upper"
    dense_transform  what training did to dense values: "log1p", "log(x+3)" or "identity"
    qr_operation     what joins the two rows of quotient-remainder tables: "mult", "add" or "concat"
    field_sizes      ids per field of a joint table (pytorch-fm), in the order of the fields
    table_order      names of the tables in the order of the network's inputs, where the file's order is another
    interaction      "dot", "dot-with-itself" or "cat", where the top layer's width fits several
    pooling          what becomes of a bag of several ids: "sum" or "mean"
    state            the key, or the beginning of the names, of the state to take where a file holds several
    """

    pairs: Pairs | None = None
    dense_transform: DenseTransform | None = None
    qr_operation: QrOperation | None = None
    field_sizes: tuple[int, ...] | None = None
    table_order: tuple[str, ...] | None = None
    interaction: Interaction | None = None
    pooling: Pooling | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise CheckpointError(f"{_WORDS[name]} {value!r} is not one of {', '.join(known)}.")
        for name in _LISTS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not all(isinstance(size, int) and type(size) is not bool and size > 0 for size in self.field_sizes or ()):
            raise CheckpointError(f"the field sizes {list(self.field_sizes or ())!r} are not whole numbers above zero.")

    def to_json(self) -> dict[str, object]:
        """What is stated and stands under `stated` in an architecture, whose own fields hold pairs and transform."""
        found = {name: getattr(self, name) for name in FACTS}
        return {name: list(value) if name in _LISTS else value for name, value in found.items() if value}


READINGS = tuple(one.name for one in fields(Facts))
"""Everything that can be stated about a checkpoint."""

FACTS = READINGS[2:]
"""What of it an architecture keeps under `stated`."""

NOTHING_STATED = Facts()


@dataclass(frozen=True)
class Assumption:
    """A fact that the file leaves open: its name, the value that is taken, and the others that it may have.

    Values are texts, as `--assume` takes them.
    """

    fact: str
    taken: str
    others: tuple[str, ...]


def assume_one(fact: str, taken: str) -> Assumption:
    """One of the choices of a fact, the others left as they are known."""
    return Assumption(fact, taken, tuple(value for value in _CHOICES[fact] if value != taken))


def parse_assumed(given: Mapping[str, str | Sequence[str] | Sequence[int]], known: Facts = NOTHING_STATED) -> Facts:
    """`known` with what `--assume` states, NAME=VALUE as texts or as lists; CheckpointError for unknown ones."""
    found: dict[str, Any] = {}
    if not isinstance(given, Mapping):
        raise CheckpointError(f"assume is a {type(given).__name__}; expected names and values, as {{'state': 'ema'}}.")
    for key, value in given.items():
        name = str(key).replace("-", "_")
        if name not in READINGS:
            raise CheckpointError(f"{key!r} is nothing that can be assumed; expected one of {', '.join(READINGS)}.")
        if not isinstance(value, Sequence):
            raise CheckpointError(f"assume > {name} is {value!r}; expected a text, or a list of texts or numbers.")
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
        if name == "field_sizes":
            parts = [int(part) if isinstance(part, str) and part.isdecimal() else part for part in parts]
        found[name] = parts if name in _LISTS else value
    return replace(known, **found)


def read_facts(architecture: Mapping[str, object]) -> Facts:
    """The facts that were stated of an original, from its architecture; the order of pairs is always taken from it."""
    stated = architecture.get("stated", {})
    if not isinstance(stated, Mapping) or not set(stated) <= set(FACTS):
        raise CheckpointError(f"architecture > stated: expected some of {', '.join(FACTS)}, found {stated!r}.")
    if not all(isinstance(stated[name], (list, tuple)) for name in _LISTS if name in stated):
        raise CheckpointError(f"architecture > stated: expected lists, found {stated!r}.")
    pairs = {"pairs": architecture.get("pairs")} if architecture.get("interaction") == "dot" else {}
    return Facts(**pairs, **stated)  # type: ignore[arg-type]  # checked when they are stated
