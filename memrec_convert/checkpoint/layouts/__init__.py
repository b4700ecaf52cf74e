"""The frameworks whose names are known, tried in order."""

from __future__ import annotations

from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.checkpoint.layouts.deepctr_torch import DEEPCTR_TORCH
from memrec_convert.checkpoint.layouts.facebookresearch_dlrm import FACEBOOKRESEARCH_DLRM
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.nvidia_dlrm import NVIDIA_DLRM
from memrec_convert.checkpoint.layouts.pytorch_fm import PYTORCH_FM
from memrec_convert.checkpoint.layouts.recbole import RECBOLE
from memrec_convert.checkpoint.layouts.tables_only import BARE_TABLES, TABLES_ONLY, is_table, keep_tables
from memrec_convert.checkpoint.layouts.torch_rechub import TORCH_RECHUB
from memrec_convert.checkpoint.layouts.torchrec_dlrm import TORCHREC_DLRM
from memrec_convert.checkpoint.layouts.unread import name_unread_tables
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import StoredTensor
from memrec_convert.errors import NoTablesError

__all__ = ["LAYOUTS", "PYTORCH_FM", "TORCHREC_DLRM", "Layout", "Reading", "find_layout", "keep_tables"]

LAYOUTS: tuple[Layout, ...] = (
    FACEBOOKRESEARCH_DLRM,
    TORCHREC_DLRM,
    NVIDIA_DLRM,
    DEEPCTR_TORCH,
    TORCH_RECHUB,
    PYTORCH_FM,
    RECBOLE,
)
_DEEPEST_PREFIX = 3


def find_layout(state: StateDict, where: str, *, bare_tables: bool = False) -> tuple[Layout, StateDict]:
    """The layout of a state dict, and the state with the prefix before its names taken off.

    NoTablesError where none matches; with `bare_tables` any matrix is a table.
    """
    for layout in LAYOUTS:
        if layout.matches(state):
            return layout, state
    below = _find_below(state)
    if below is not None:
        return below
    for layout in (TABLES_ONLY, BARE_TABLES) if bare_tables else (TABLES_ONLY,):
        if layout.matches(state):
            return layout, state
    if name_unread_tables(state, ()):
        return TABLES_ONLY, state
    shapes = [
        f"{printable(name)} {list(value.shape)}"
        for name, value in state.items()
        if isinstance(value, StoredTensor) and len(value.shape) == 2
    ]
    named = f" by its name, only {', '.join(shapes[:4])}{f' and {len(shapes) - 4} more' if shapes[4:] else ''}"
    way = "where these are tables, rename them to end in embedding.weight"
    if not shapes:
        named, way = "", "give the checkpoint of a model that has one"
    raise NoTablesError(f"{where}: holds {len(state)} entries and no embedding table{named}; {way}.")


def _find_below(state: StateDict) -> tuple[Layout, StateDict] | None:
    """A known layout below a prefix that only it has, such as `net.`; None where tables lie outside, or two fit."""
    below: dict[str, StateDict] = {}
    for name, value in state.items():
        parts = name.split(".", _DEEPEST_PREFIX)
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth]) + "."
            below.setdefault(prefix, {})[name[len(prefix) :]] = value
    found = [(prefix, layout) for prefix, inner in below.items() for layout in LAYOUTS if layout.matches(inner)]
    if len(found) != 1:
        return None
    prefix, layout = found[0]
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    if outside.keys() & below[prefix].keys() or any(is_table(outside, name) for name in outside):
        return None
    return layout, {name.removeprefix(prefix): value for name, value in state.items()}
