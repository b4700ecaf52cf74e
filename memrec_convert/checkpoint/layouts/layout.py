"""What a layout is: a framework's way of naming tensors, which can be recognised and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from memrec_convert.checkpoint.facts import Assumption, Facts
from memrec_convert.checkpoint.source import SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import CheckpointError


@dataclass
class Reading:
    """What a layout found. `problems` forbid conversion; for inspection they are warnings.

    `table_keys`: table -> the entry of the state dict that its optimizer state belongs to. `open_facts`: what was
    assumed and has alternatives.
    """

    tables: tuple[SourceTable, ...] = ()
    table_keys: dict[str, str] = field(default_factory=dict)
    dense: dict[str, StoredTensor] = field(default_factory=dict)
    architecture: dict[str, object] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    open_facts: list[Assumption] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[CheckpointError] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """One framework's names. A new one is a file with such a constant, added to `LAYOUTS`.

    `matches(state)` says whether a state dict is of this layout, by names (and where they are common, shapes);
    `read(state, where, facts)` finds tables, dense part and architecture; `where` heads the sentences of errors.
    """

    name: str
    matches: Callable[[StateDict], bool]
    read: Callable[[StateDict, str, Facts], Reading]
