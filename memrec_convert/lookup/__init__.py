"""The representation as it runs: table modules, the operator, memory, and what the kernel is handed."""

from __future__ import annotations

from memrec_convert.lookup import operator as operator  # which registers memrec::embed
from memrec_convert.lookup import weight_calls as weight_calls  # which registers them
from memrec_convert.lookup.in_place import (
    find_tables,
    hasten,
    hold_table,
    is_plain,
    named_tables,
    own_state,
    refuse_other_state,
    spread_state,
)
from memrec_convert.lookup.modules import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedModule,
    build_module,
    describe_module,
)
from memrec_convert.lookup.table import CompressedTable, HashGroup
from memrec_convert.lookup.weight import CompressedWeight

__all__ = [
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "CompressedModule",
    "CompressedTable",
    "CompressedWeight",
    "HashGroup",
    "build_module",
    "describe_module",
    "find_tables",
    "hasten",
    "hold_table",
    "is_plain",
    "named_tables",
    "own_state",
    "refuse_other_state",
    "spread_state",
]
