"""A DLRM in a state dict: tables, bottom and top MLP by a framework's names, and the architecture they make."""

from __future__ import annotations

import re
from dataclasses import dataclass

from memrec_convert.checkpoint.facts import Assumption, Facts, assume_one
from memrec_convert.checkpoint.layouts.layout import Reading
from memrec_convert.checkpoint.layouts.networks.interaction import Interaction, deduce_interaction
from memrec_convert.checkpoint.layouts.networks.linear_layers import (
    Layers,
    check_single_output,
    name_layers,
    read_layers,
    widths_of,
)
from memrec_convert.checkpoint.layouts.tables import TableNames
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.errors import CheckpointError

DENSE_ASSUMPTION = "dense features enter as log(1 + x)"


@dataclass(frozen=True)
class DlrmNames:
    """A framework's names and conventions; `layer_step` is the distance of the layers' numbers."""

    tables: TableNames
    bottom: tuple[re.Pattern[str], ...]
    top: tuple[re.Pattern[str], ...]
    layer_step: int
    pairs: str

    def found_in(self, state: StateDict) -> bool:
        """Whether a state dict has a table and a top layer by these names."""
        top = any(pattern.fullmatch(name) for pattern in self.top for name in state)
        return top and self.tables.found_in(state)


@dataclass(frozen=True)
class Mlps:
    """Both MLPs of a DLRM."""

    bottom: Layers
    top: Layers

    @property
    def dim(self) -> int:
        """Width of the bottom MLP's output, and with it of the rows."""
        return self.bottom[-1][0].shape[0]

    def named(self) -> dict[str, object]:
        """Their widths, as an architecture has them."""
        return {"bottom": widths_of(self.bottom), "top": widths_of(self.top)}


def read_mlps(names: DlrmNames, state: StateDict, where: str) -> Mlps:
    """Bottom and top MLP; the top ends in one output."""
    bottom = read_layers(names.bottom, state, f"{where} > bottom MLP", step=names.layer_step)
    top = read_layers(names.top, state, f"{where} > top MLP", step=names.layer_step)
    check_single_output(top, f"{where} > top MLP")
    return Mlps(bottom, top)


def try_mlps(names: DlrmNames, state: StateDict, where: str, reading: Reading) -> Mlps | None:
    """Both MLPs; None, and a problem, where they are not as a DLRM has them: its tables can be listed all the same."""
    try:
        return read_mlps(names, state, where)
    except CheckpointError as error:
        reading.problems.append(error)
        return None


def deduce(kinds: tuple[str, ...], mlps: Mlps, reading: Reading, where: str, *, facts: Facts) -> Interaction | None:
    """The interaction that the top MLP's width shows; None, and a problem, where none fits."""
    dims = [table.dim for table in reading.tables]
    try:
        interaction = deduce_interaction(
            kinds, mlps.dim, dims, mlps.top[0][0].shape[1], where, stated=facts.interaction
        )
    except CheckpointError as error:
        if not reading.problems:  # otherwise a consequence of what was found already
            reading.problems.append(error)
        return None
    if interaction.warning:
        reading.warnings.append(interaction.warning)
        reading.open_facts.append(Assumption("interaction", interaction.value, interaction.others))
    return interaction


def describe_dlrm(reading: Reading, mlps: Mlps, interaction: Interaction | None, *, pairs: str) -> None:
    """Fill the dense part and the architecture of a reading whose tables are there."""
    reading.dense |= name_layers("bottom", mlps.bottom) | name_layers("top", mlps.top)
    reading.architecture = {
        "name": "dlrm",
        "interaction": interaction.name if interaction else "unknown",
        "pairs": pairs,
        "self_interaction": interaction is not None and interaction.itself,
        **mlps.named(),
        "tables": [[table.rows, table.dim] for table in reading.tables],
        "dense_transform": "log1p",
    }
    if interaction is not None and interaction.name == "dot":
        reading.open_facts.append(assume_one("pairs", pairs))
    reading.open_facts.append(assume_one("dense_transform", "log1p"))
