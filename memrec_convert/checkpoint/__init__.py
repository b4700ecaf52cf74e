"""Reading checkpoints: containers (file forms) and layouts (frameworks' names), without executing anything in them."""

from __future__ import annotations

from memrec_convert.checkpoint.reading import read_source, verify_storage
from memrec_convert.checkpoint.source import SourceModel, SourceTable
from memrec_convert.checkpoint.tensor_ref import TensorRef

__all__ = ["SourceModel", "SourceTable", "TensorRef", "read_source", "verify_storage"]
