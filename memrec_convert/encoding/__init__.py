"""The representation: stored and hashed tokens, index, row codecs, the modules that hold them, and their bytes."""

from __future__ import annotations

from memrec_convert.encoding.modules import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedModule,
    build_module,
    describe_module,
    describe_table,
)
from memrec_convert.encoding.spec import HashSpec, LevelSpec, TableSpec, count_bytes, count_table_bytes
from memrec_convert.encoding.table import CompressedTable, HashGroup, describe_form

__all__ = [
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "CompressedModule",
    "CompressedTable",
    "HashGroup",
    "HashSpec",
    "LevelSpec",
    "TableSpec",
    "build_module",
    "count_bytes",
    "count_table_bytes",
    "describe_form",
    "describe_module",
    "describe_table",
]
