"""Parquet logs: read row group by row group, never a whole file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from memrec_convert.clicklog.block import Block
from memrec_convert.clicklog.columns import BLOCK_ROWS, arrow_errors, assemble_block, is_list
from memrec_convert.clicklog.schema import ColumnChoice, LogSchema, choose_columns
from memrec_convert.remote import RemotePath


@dataclass(frozen=True)
class ParquetFile:
    """One parquet file of a log. Ids are integers of any width; a list column is a multi-hot table.

    footer: of an object of a store, which is then not asked for it again with each row group.
    """

    path: Path
    choice: ColumnChoice
    multi_hot: bool
    rows: int
    units: int
    footer: pq.FileMetaData | None = field(repr=False, compare=False, default=None)

    def blocks(self, unit: int, schema: LogSchema, *, multi_hot: bool) -> Iterator[Block]:
        """The rows of one row group in blocks of up to 65,536; LogError for anything unreadable."""
        with arrow_errors(str(self.path)), open_table(self.path, self.footer) as file:
            names = self.choice.all
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, row_groups=[unit], columns=names):
                columns = {name: batch.column(name) for name in names}
                yield assemble_block(columns, self.choice, schema, multi_hot=multi_hot, where=str(self.path))


def open_parquet(path: Path, schema: LogSchema) -> ParquetFile:
    """The file's columns and sizes from its footer; LogError where they do not fit the schema."""
    with arrow_errors(str(path)), open_table(path) as file:
        fields: pa.Schema = file.schema_arrow
        found = file.metadata
    choice = choose_columns(fields.names, schema, where=str(path))
    multi_hot = any(is_list(fields.field(name).type) for name in choice.tables)
    footer = found if isinstance(path, RemotePath) else None
    return ParquetFile(path, choice, multi_hot, found.num_rows, found.num_row_groups, footer)


@contextmanager
def open_table(path: Path, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A parquet file, or an object of a store, of which only the column chunks that are needed are read."""
    if not isinstance(path, RemotePath):
        with pq.ParquetFile(path) as file:
            yield file
        return
    with path.open("rb", buffering=0) as stream, pq.ParquetFile(stream, metadata=footer, pre_buffer=True) as file:
        yield file
