"""How a framework names its tensors, as data, and the reading of a state dict by such a description."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from memrec_convert.checkpoint.layouts.interaction import Interaction, deduce_interaction
from memrec_convert.checkpoint.source import PLAIN, SourceTable
from memrec_convert.checkpoint.stand_ins import Placeholder, printable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import FLOATING, TensorRef
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError

NUMBER = r"(?P<layer>0|[1-9][0-9]{0,5})"
KIND = r"(?P<kind>weight|bias)"
_LONGEST_NAME = 500


@dataclass(frozen=True)
class TableForm:
    """One way of storing a table: the name of its main tensor (group `table`), and the names of further parts."""

    form: str
    pattern: re.Pattern[str]
    parts: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class Unsupported:
    """Tensors whose presence makes the network one that cannot be converted yet, and what they are."""

    pattern: re.Pattern[str]
    meaning: str


@dataclass(frozen=True)
class Layout:
    """A framework's names. A new layout with the same network is a file with such a constant, added to `LAYOUTS`.

    `bottom` and `top` are patterns with the groups `layer` and `kind`, in the order of the layers; `layer_step` is the
    distance of their numbers (2 where a ReLU lies between). `numbered` tables are ordered by number, others as stored.
    """

    name: str
    tables: tuple[TableForm, ...]
    bottom: tuple[re.Pattern[str], ...]
    top: tuple[re.Pattern[str], ...]
    layer_step: int
    numbered: bool
    interactions: tuple[str, ...]
    pairs: str
    assumed: tuple[str, ...]
    table_prefix: str = ""
    unsupported: tuple[Unsupported, ...] = ()

    def matches(self, state: StateDict) -> bool:
        """Whether a state dict has a table and a first top layer by these names."""
        tables = any(form.pattern.fullmatch(name) for form in self.tables for name in state)
        return tables and any(pattern.fullmatch(name) for pattern in self.top for name in state)


@dataclass
class Reading:
    """What a layout found. `problems` forbid conversion; for inspection they are warnings."""

    tables: tuple[SourceTable, ...] = ()
    table_keys: dict[str, str] = field(default_factory=dict)
    dense: dict[str, TensorRef] = field(default_factory=dict)
    architecture: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[CheckpointError] = field(default_factory=list)


def read_layout(layout: Layout, state: StateDict, where: str) -> Reading:
    """Tables, dense part and architecture of a state dict that the layout matches."""
    reading = Reading()
    _read_tables(layout, state, where, reading)
    _note_unsupported(layout, state, where, reading)
    bottom = _read_layers(layout.bottom, layout, state, f"{where} > bottom MLP")
    top = _read_layers(layout.top, layout, state, f"{where} > top MLP")
    reading.dense = _name_layers("bottom", bottom) | _name_layers("top", top)
    _describe_network(layout, bottom, top, where, reading)
    return reading


def _read_tables(layout: Layout, state: StateDict, where: str, reading: Reading) -> None:
    """Find the tables in the order of the network's inputs, and check what each holds."""
    found: dict[str, tuple[TableForm, str]] = {}
    numbers: dict[str, int] = {}
    for key in state:
        for form in layout.tables:
            match = form.pattern.fullmatch(key)
            if match is not None:
                name = printable(layout.table_prefix + match["table"], limit=_LONGEST_NAME)
                if name in found:
                    raise CheckpointError(f"{where} > {printable(key)}: {name} is in the file twice, under two names.")
                found[name] = (form, key)
                numbers[name] = int(match["table"]) if layout.numbered else len(numbers)
    names = sorted(found, key=numbers.__getitem__)
    missing = next((place for place, name in enumerate(names) if numbers[name] != place), None)
    if missing is not None:
        problem = f"{where}: tables up to {names[-1]} are there, but not number {missing}; give the whole checkpoint."
        reading.problems.append(IncompleteCheckpointError(problem))
    reading.tables = tuple(_read_table(name, *found[name], state, where) for name in names)
    reading.table_keys = {name: found[name][1] for name in names}
    _note_forms(layout, where, reading)
    _note_shared(reading)


def _read_table(name: str, form: TableForm, key: str, state: StateDict, where: str) -> SourceTable:
    """One table's tensors, checked to be rows and columns that lie in the file."""
    weight = state[key]
    if not isinstance(weight, TensorRef):
        kind = weight.name if isinstance(weight, Placeholder) else type(weight).__name__
        raise CheckpointError(
            f"{where} > {printable(key)}: is stored as {kind}, which is not read (a sharded tensor holds one process's "
            "part); gather the model in one process and save model.state_dict()."
        )
    if len(weight.shape) != 2 or 0 in weight.shape:
        raise CheckpointError(f"{where} > {printable(key)}: shape {list(weight.shape)}; a table has rows and columns.")
    if 0 in weight.strides and weight.rows > 1:
        raise CheckpointError(f"{where} > {printable(key)}: all its rows are one stored row (an expanded tensor).")
    stem = key[: form.pattern.fullmatch(key).start("tail")] if form.parts else ""  # type: ignore[union-attr]
    parts = [state.get(stem + part) for part in form.parts]
    return SourceTable(name, weight, form=form.form, parts=tuple(part for part in parts if isinstance(part, TensorRef)))


def _note_forms(layout: Layout, where: str, reading: Reading) -> None:
    """Forbid the conversion of tables that are not plain rows of floats, one sentence per kind."""
    refusals = {form.form: form.refusal for form in layout.tables}
    reasons: dict[str, list[str]] = {}
    for table in reading.tables:
        if table.form != PLAIN:
            reasons.setdefault(f"{refusals[table.form]}; this version converts plain tables", []).append(table.name)
        elif table.dtype not in FLOATING:
            reason = f"stored as {table.dtype} (a quantised model); conversion needs floating-point rows"
            reasons.setdefault(reason, []).append(table.name)
    for reason, names in reasons.items():
        which = f"{names[0]} and {len(names) - 1} more tables are" if names[1:] else f"{names[0]} is"
        reading.problems.append(CheckpointError(f"{where}: {which} {reason}."))


def _note_shared(reading: Reading) -> None:
    """Warn where two tables are one stored tensor: its bytes are counted twice."""
    first: dict[TensorRef, str] = {}
    for table in reading.tables:
        if table.weight in first:
            reading.warnings.append(f"{table.name} is stored as the same tensor as {first[table.weight]}")
        first.setdefault(table.weight, table.name)


def _note_unsupported(layout: Layout, state: StateDict, where: str, reading: Reading) -> None:
    for unsupported in layout.unsupported:
        found = [name for name in state if unsupported.pattern.fullmatch(name)]
        if found:
            reading.problems.append(
                CheckpointError(
                    f"{where} > {printable(found[0])}: {unsupported.meaning}; this version does not convert these."
                )
            )


Layers = list[tuple[TensorRef, TensorRef]]
"""(weight [out, in], bias [out]) of each linear layer, in order."""


def _read_layers(patterns: tuple[re.Pattern[str], ...], layout: Layout, state: StateDict, where: str) -> Layers:
    """An MLP's layers, each with weight and bias, their widths fitting each other."""
    layers: dict[tuple[int, int], dict[str, TensorRef]] = {}
    for name, value in state.items():
        for place, pattern in enumerate(patterns):
            match = pattern.fullmatch(name)
            if match is not None and isinstance(value, TensorRef):
                own = layers.setdefault((place, int(match.groupdict().get("layer") or 0)), {})
                if match["kind"] in own:
                    raise CheckpointError(f"{where}: {printable(name)} is in the file twice, under two names.")
                own[match["kind"]] = value
    for place in range(len(patterns)):
        numbers = sorted(number for own, number in layers if own == place)
        if numbers != [step * layout.layer_step for step in range(len(numbers))]:
            raise IncompleteCheckpointError(f"{where}: its layers are numbered {numbers}; some are missing.")
    if not layers:
        raise IncompleteCheckpointError(f"{where}: not in the file; give the whole model's checkpoint.")
    result: Layers = []
    for place_and_number in sorted(layers):
        layer = layers[place_and_number]
        if len(layer) != 2:
            raise IncompleteCheckpointError(f"{where}: its layer {len(result)} lacks its weight or its bias.")
        _check_layer(layer["weight"], layer["bias"], result, where)
        result.append((layer["weight"], layer["bias"]))
    return result


def _check_layer(weight: TensorRef, bias: TensorRef, before: Layers, where: str) -> None:
    """A linear layer's shapes and dtypes, and its width against the layer before."""
    fits = len(weight.shape) == 2 and bias.shape == weight.shape[:1] and 0 not in weight.shape
    fits = fits and (not before or before[-1][0].shape[0] == weight.shape[1])
    plain = {weight.dtype, bias.dtype} <= FLOATING and 0 not in (*weight.strides, *bias.strides)
    if not fits or not plain:
        raise CheckpointError(
            f"{where}: layer {len(before)} has a weight of shape {list(weight.shape)} {weight.dtype} and a bias of "
            f"shape {list(bias.shape)} {bias.dtype}, which do not form one linear layer after the layer before."
        )


def _name_layers(part: str, layers: Layers) -> dict[str, TensorRef]:
    """The layers under the names of `models.dlrm.DLRM`: a ReLU takes every second place of the sequence."""
    named = {}
    for place, (weight, bias) in enumerate(layers):
        named[f"{part}.{2 * place}.weight"], named[f"{part}.{2 * place}.bias"] = weight, bias
    return named


def _widths(layers: Layers) -> list[int]:
    return [layers[0][0].shape[1], *(weight.shape[0] for weight, _ in layers)]


def _describe_network(layout: Layout, bottom: Layers, top: Layers, where: str, reading: Reading) -> None:
    """The architecture, its interaction deduced from the width of the first top layer."""
    bottom_widths, top_widths = _widths(bottom), _widths(top)
    if top_widths[-1] != 1:
        raise CheckpointError(f"{where} > top MLP: ends in {top_widths[-1]} outputs; a click model has one.")
    dims = [bottom_widths[-1] if table.form != PLAIN else table.dim for table in reading.tables]
    interaction: Interaction | None = None
    try:
        interaction = deduce_interaction(layout.interactions, bottom_widths[-1], dims, top_widths[0], where)
        if interaction.warning:
            reading.warnings.append(interaction.warning)
    except CheckpointError as error:
        if not reading.problems:  # otherwise a consequence of what was found already
            reading.problems.append(error)
    reading.architecture = {
        "name": "dlrm",
        "interaction": interaction.name if interaction else "unknown",
        "pairs": layout.pairs,
        "self_interaction": interaction is not None and interaction.itself,
        "bottom": bottom_widths,
        "top": top_widths,
        "tables": [[table.rows, table.dim] for table in reading.tables],
        "dense_transform": "log1p",
    }
