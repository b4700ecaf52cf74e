"""Reading checkpoints: containers (file forms) and layouts (frameworks' names), without executing anything in them."""

from __future__ import annotations

from memrec_convert.checkpoint.facts import NOTHING_STATED, READINGS, Assumption, Facts, parse_assumed, read_facts
from memrec_convert.checkpoint.reading import read_source, read_state, verify_storage
from memrec_convert.checkpoint.source import SourceModel, SourceTable
from memrec_convert.checkpoint.state_dict import StateDict
from memrec_convert.checkpoint.tensor_ref import StoredTensor, TensorRef

__all__ = [
    "NOTHING_STATED",
    "READINGS",
    "Assumption",
    "Facts",
    "SourceModel",
    "SourceTable",
    "StateDict",
    "StoredTensor",
    "TensorRef",
    "parse_assumed",
    "read_facts",
    "read_source",
    "read_state",
    "verify_storage",
]
