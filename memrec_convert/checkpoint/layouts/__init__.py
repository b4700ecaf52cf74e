"""The frameworks whose names are known, tried in order."""

from __future__ import annotations

from memrec_convert.checkpoint.layouts.facebookresearch_dlrm import FACEBOOKRESEARCH_DLRM
from memrec_convert.checkpoint.layouts.layout import Layout, Reading, read_layout
from memrec_convert.checkpoint.layouts.torchrec_dlrm import TORCHREC_DLRM
from memrec_convert.checkpoint.state_dict import StateDict, describe_tables
from memrec_convert.errors import CheckpointError, NoTablesError

__all__ = ["LAYOUTS", "Layout", "Reading", "find_layout", "read_layout"]

LAYOUTS: tuple[Layout, ...] = (FACEBOOKRESEARCH_DLRM, TORCHREC_DLRM)


def find_layout(state: StateDict, where: str) -> Layout:
    """The layout of a state dict; an error that says what was found where none matches."""
    for layout in LAYOUTS:
        if layout.matches(state):
            return layout
    known = " or ".join(layout.name for layout in LAYOUTS)
    tables = describe_tables(state)
    if tables:
        raise CheckpointError(f"{where}: has {tables}, but its names are not those of {known}; no other is read.")
    raise NoTablesError(f"{where}: holds {len(state)} entries and no embedding table; {known} are read.")
