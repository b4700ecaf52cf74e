"""What a checkpoint does not say about itself, and its owner may: stated facts take the place of assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memrec_convert.errors import CheckpointError

FACTS = ("qr_operation", "field_sizes", "table_order")
"""The fields of `Facts`, as recipes and options name them."""

QR_OPERATIONS = ("mult", "add", "concat")


@dataclass(frozen=True)
class Facts:
    """None leaves a fact to the layout's assumption.

    qr_operation   what joins the two rows of quotient-remainder tables: "mult", "add" or "concat"
    field_sizes    ids per field of a joint table (pytorch-fm), in the order of the fields
    table_order    names of the tables in the order of the network's inputs, where the file's order is another
    """

    qr_operation: str | None = None
    field_sizes: tuple[int, ...] | None = None
    table_order: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """What is stated, and nothing that is left open; `state_facts(**...)` reads it back."""
        found = {name: getattr(self, name) for name in FACTS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if value}

    def __post_init__(self) -> None:
        if self.qr_operation is not None and self.qr_operation not in QR_OPERATIONS:
            known = ", ".join(QR_OPERATIONS)
            raise CheckpointError(f"the quotient-remainder operation {self.qr_operation!r} is not one of {known}.")
        if self.field_sizes is not None and not all(_is_size(size) for size in self.field_sizes):
            raise CheckpointError(f"the field sizes {list(self.field_sizes)!r} are not whole numbers above zero.")


def state_facts(
    *,
    qr_operation: str | None = None,
    field_sizes: Sequence[int] | None = None,
    table_order: Sequence[str] | None = None,
) -> Facts:
    """Facts from plain values, as recipes and the command line have them; CheckpointError for unknown ones."""
    sizes = None if field_sizes is None else tuple(field_sizes)
    return Facts(qr_operation, sizes, None if table_order is None else tuple(table_order))


def read_facts(architecture: Mapping[str, object]) -> Facts:
    """The facts that were stated of an original, from the `stated` of its architecture."""
    stated = architecture.get("stated", {})
    if not isinstance(stated, Mapping) or not set(stated) <= set(FACTS):
        raise CheckpointError(f"architecture > stated: expected some of {', '.join(FACTS)}, found {stated!r}.")
    lists = [stated[name] for name in FACTS[1:] if name in stated]
    if not all(isinstance(value, (list, tuple)) for value in lists):
        raise CheckpointError(f"architecture > stated: expected lists, found {stated!r}.")
    return state_facts(**stated)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
