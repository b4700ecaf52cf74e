"""RecBole: joint tables over all fields, whose offsets are in its pickled config and dataset; listed only."""

from __future__ import annotations

from memrec_convert.checkpoint.layouts.tables_only import name_tables

RECBOLE = name_tables("recbole", "token_embedding_table.", "first_order_linear.token_embedding_table.")
