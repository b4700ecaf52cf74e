"""The frameworks whose names are known, tried in order."""

from __future__ import annotations

from memrec_convert.checkpoint.layouts.deepctr_torch import DEEPCTR_TORCH
from memrec_convert.checkpoint.layouts.facebookresearch_dlrm import FACEBOOKRESEARCH_DLRM
from memrec_convert.checkpoint.layouts.layout import Layout, Reading
from memrec_convert.checkpoint.layouts.nvidia_dlrm import NVIDIA_DLRM
from memrec_convert.checkpoint.layouts.pytorch_fm import PYTORCH_FM
from memrec_convert.checkpoint.layouts.recbole import RECBOLE
from memrec_convert.checkpoint.layouts.tables_only import BARE_TABLES, TABLES_ONLY, keep_tables
from memrec_convert.checkpoint.layouts.torch_rechub import TORCH_RECHUB
from memrec_convert.checkpoint.layouts.torchrec_dlrm import TORCHREC_DLRM
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.errors import NoTablesError

__all__ = ["LAYOUTS", "Layout", "Reading", "find_layout", "keep_tables"]

LAYOUTS: tuple[Layout, ...] = (
    FACEBOOKRESEARCH_DLRM,
    TORCHREC_DLRM,
    NVIDIA_DLRM,
    DEEPCTR_TORCH,
    TORCH_RECHUB,
    PYTORCH_FM,
    RECBOLE,
    TABLES_ONLY,
)


def find_layout(state: StateDict, where: str, *, bare_tables: bool = False) -> Layout:
    """The layout of a state dict, NoTablesError where none matches; with `bare_tables` any matrix is a table."""
    for layout in (*LAYOUTS, BARE_TABLES) if bare_tables else LAYOUTS:
        if layout.matches(state):
            return layout
    raise NoTablesError(
        f"{where}: holds {len(state)} entries and no embedding table; give the checkpoint of a model that has one."
    )
