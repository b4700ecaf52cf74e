"""What a checkpoint does not say about itself, and its owner may: stated facts take the place of assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memrec_convert.errors import CheckpointError

FACTS = ("qr_operation", "field_sizes", "table_order", "interaction", "pooling", "state")
"""The fields of `Facts`, as recipes and options name them."""

LIST_FACTS = ("field_sizes", "table_order")
READINGS = ("pairs", "dense_transform", *FACTS)
"""Everything that can be stated about a checkpoint; the first two stand in the architecture under these names."""

QR_OPERATIONS = ("mult", "add", "concat")
POOLINGS = ("sum", "mean")
DENSE_TRANSFORMS = ("log1p", "log(x+3)", "identity")
PAIRS = ("lower", "upper")
INTERACTIONS = ("dot", "dot-with-itself", "cat")

_CHOICES = {
    "pairs": PAIRS,
    "dense_transform": DENSE_TRANSFORMS,
    "qr_operation": QR_OPERATIONS,
    "interaction": INTERACTIONS,
    "pooling": POOLINGS,
}
_WORDS = {
    "qr_operation": "the quotient-remainder operation",
    "interaction": "the interaction",
    "pooling": "the pooling",
    "pairs": "the order of pairs",
    "dense_transform": "the dense transform",
}


@dataclass(frozen=True)
class Facts:
    """None leaves a fact to the layout's assumption.

    qr_operation   what joins the two rows of quotient-remainder tables: "mult", "add" or "concat"
    field_sizes    ids per field of a joint table (pytorch-fm), in the order of the fields
    table_order    names of the tables in the order of the network's inputs, where the file's order is another
    interaction    "dot", "dot-with-itself" or "cat", where the top layer's width fits several
    pooling        what becomes of a bag of several ids: "sum" or "mean"
    state          the key, or the beginning of the names, of the state to take where a file holds several
    """

    qr_operation: str | None = None
    field_sizes: tuple[int, ...] | None = None
    table_order: tuple[str, ...] | None = None
    interaction: str | None = None
    pooling: str | None = None
    state: str | None = None

    def to_json(self) -> dict[str, object]:
        """What is stated, and nothing that is left open; `state_facts(**...)` reads it back."""
        found = {name: getattr(self, name) for name in FACTS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if value}

    def __post_init__(self) -> None:
        for name in ("qr_operation", "interaction", "pooling"):
            value = getattr(self, name)
            if value is not None:
                check_choice(name, value)
        if self.field_sizes is not None and not all(_is_size(size) for size in self.field_sizes):
            raise CheckpointError(f"the field sizes {list(self.field_sizes)!r} are not whole numbers above zero.")


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


def check_choice(fact: str, value: object) -> None:
    """CheckpointError for a value that a fact cannot have."""
    if value not in _CHOICES[fact]:
        raise CheckpointError(f"{_WORDS[fact]} {value!r} is not one of {', '.join(_CHOICES[fact])}.")


def state_facts(
    *,
    qr_operation: str | None = None,
    field_sizes: Sequence[int] | None = None,
    table_order: Sequence[str] | None = None,
    interaction: str | None = None,
    pooling: str | None = None,
    state: str | None = None,
) -> Facts:
    """Facts from plain values, as recipes and the command line have them; CheckpointError for unknown ones."""
    sizes = None if field_sizes is None else tuple(field_sizes)
    order = None if table_order is None else tuple(table_order)
    return Facts(qr_operation, sizes, order, interaction, pooling, state)


def parse_assumed(given: Mapping[str, str]) -> dict[str, object]:
    """NAME=VALUE texts of `--assume` as plain values of `READINGS`; CheckpointError for unknown names and values."""
    found: dict[str, object] = {}
    for key, text in given.items():
        name = str(key).replace("-", "_")
        if name not in READINGS:
            raise CheckpointError(f"{key!r} is nothing that can be assumed; expected one of {', '.join(READINGS)}.")
        if name in _CHOICES:
            check_choice(name, text)
            found[name] = text
        elif name == "state":
            found[name] = str(text)
        elif name == "table_order":
            found[name] = [part.strip() for part in str(text).split(",")]
        else:
            found[name] = [int(part) if part.strip().isdecimal() else part for part in str(text).split(",")]
    return found


def read_facts(architecture: Mapping[str, object]) -> Facts:
    """The facts that were stated of an original, from the `stated` of its architecture."""
    stated = architecture.get("stated", {})
    if not isinstance(stated, Mapping) or not set(stated) <= set(FACTS):
        raise CheckpointError(f"architecture > stated: expected some of {', '.join(FACTS)}, found {stated!r}.")
    lists = [stated[name] for name in LIST_FACTS if name in stated]
    if not all(isinstance(value, (list, tuple)) for value in lists):
        raise CheckpointError(f"architecture > stated: expected lists, found {stated!r}.")
    return state_facts(**stated)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
