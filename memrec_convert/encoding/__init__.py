"""The representation as bytes: stored and hashed tokens, index, row codecs, and what each of them takes."""

from __future__ import annotations

from memrec_convert.encoding.description import describe_form, describe_table
from memrec_convert.encoding.spec import HashSpec, LevelSpec, TableSpec, count_bytes, count_table_bytes

__all__ = ["HashSpec", "LevelSpec", "TableSpec", "count_bytes", "count_table_bytes", "describe_form", "describe_table"]
