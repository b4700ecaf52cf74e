"""Deduce a DLRM's interaction from the width of its first top layer, and with it whether tables are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

DOT, DOT_ITSELF, CAT = "dot", "dot with itself", "cat"
_MOST_TABLES = 10_000


@dataclass(frozen=True)
class Interaction:
    """`name` is "dot" or "cat"; `itself` adds each vector's product with itself to the pairs.

    `others` are the further kinds that the width fits, as `Facts.interaction` names them.
    """

    name: str
    itself: bool = False
    warning: str = ""
    others: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """The kind as `Facts.interaction` names it."""
        return _value(DOT_ITSELF if self.itself else self.name)


def top_width(kind: str, dense_dim: int, dims: Sequence[int]) -> int:
    """Width of the top MLP's input for a bottom output of `dense_dim` and tables of these dims."""
    vectors = len(dims) + 1
    if kind == CAT:
        return dense_dim + sum(dims)
    return dense_dim + vectors * (vectors + (1 if kind == DOT_ITSELF else -1)) // 2


def deduce_interaction(
    kinds: Sequence[str], dense_dim: int, dims: Sequence[int], width: int, where: str, *, stated: str | None = None
) -> Interaction:
    """The first of `kinds` (the stated one, where one is) that makes the top input `width` wide.

    Raises IncompleteCheckpointError where more tables would (a rank's file of a distributed run), CheckpointError where
    nothing does.
    """
    even = all(dim == dense_dim for dim in dims)
    fitting = [kind for kind in kinds if (even or kind == CAT) and top_width(kind, dense_dim, dims) == width]
    if stated is not None and fitting:
        if stated not in map(_value, fitting):
            raise CheckpointError(
                f"{where}: the interaction {stated!r} was stated, but the top MLP's input of {width} shows "
                f"{' or '.join(map(_value, fitting))}."
            )
        fitting = [kind for kind in fitting if _value(kind) == stated]
    if fitting:
        warning = f"the top layer's width fits {' and '.join(fitting)}; {fitting[0]} is assumed" if fitting[1:] else ""
        others = tuple(map(_value, fitting[1:]))
        return Interaction(CAT if fitting[0] == CAT else DOT, fitting[0] == DOT_ITSELF, warning, others)
    if not even:
        raise CheckpointError(
            f"{where}: the tables are {sorted(set(dims))} wide and the bottom MLP's output {dense_dim}; "
            "a dot interaction needs them equal."
        )
    more = [(kind, count) for kind in kinds if (count := _count_tables(kind, dense_dim, width)) is not None]
    needed = " or ".join(f"{count} ({kind})" for kind, count in more if count > len(dims))
    if needed:
        raise IncompleteCheckpointError(
            f"{where}: holds {len(dims)} tables, but the top MLP's input of {width} needs {needed}: tables are "
            "missing, as in the file of one rank of a distributed run; give the whole model's checkpoint."
        )
    raise CheckpointError(
        f"{where}: the top MLP's input of {width} fits none of {', '.join(kinds)} for {len(dims)} tables of width "
        f"{dense_dim}; the network has another interaction."
    )


def _value(kind: str) -> str:
    """A kind in one word."""
    return kind.replace(" ", "-")


def _count_tables(kind: str, dense_dim: int, width: int) -> int | None:
    """How many tables of equal width would make the top input `width` wide; None where no number does."""
    for count in range(1, _MOST_TABLES):
        got = dense_dim * (count + 1) if kind == CAT else top_width(kind, dense_dim, range(count))
        if got >= width:
            return count if got == width else None
    return None
