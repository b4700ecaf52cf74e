"""CSV logs with a header line, plain or gzip: read as a stream with the types that the inputs need."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from memrec_convert.clicklog.block import Block
from memrec_convert.clicklog.columns import arrow_errors, assemble_block
from memrec_convert.clicklog.schema import ColumnChoice, LogSchema, choose_columns
from memrec_convert.errors import LogError
from memrec_convert.remote import RemotePath

GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 4 << 20
_LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class CsvFile:
    """One CSV file of a log: a header line, then one sample a line, one id per table."""

    path: Path
    choice: ColumnChoice
    delimiter: str
    multi_hot: bool = False
    rows: int | None = None
    units: int = 1

    def blocks(self, unit: int, schema: LogSchema, *, multi_hot: bool) -> Iterator[Block]:
        """The rows in blocks of about 4 MB of text; LogError for anything unreadable."""
        types = dict.fromkeys(self.choice.tables, pa.int64())
        types |= dict.fromkeys(self.choice.dense, pa.float32())
        if self.choice.label is not None:
            types[self.choice.label] = pa.float32()
        if self.choice.group is not None:  # as text, or a later block may look like another type than the first
            types.setdefault(self.choice.group, pa.string())
        convert = pacsv.ConvertOptions(include_columns=self.choice.all, column_types=types)
        for batch in stream_table(self.path, delimiter=self.delimiter, convert=convert):
            columns = {name: batch.column(name) for name in self.choice.all}
            yield assemble_block(columns, self.choice, schema, multi_hot=multi_hot, where=str(self.path))


def open_csv(path: Path, schema: LogSchema) -> CsvFile:
    """The columns from the header line (separated by commas, or by tabs where it has no comma)."""
    line = read_first_line(path)
    delimiter = "\t" if "\t" in line and "," not in line else ","
    names = next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    return CsvFile(path, choose_columns(names, schema, where=str(path)), delimiter)


def stream_table(
    path: Path, *, delimiter: str, convert: pacsv.ConvertOptions, names: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The record batches of a delimited text file; `names` for a file without header, where nothing is quoted."""
    read = pacsv.ReadOptions(block_size=_BLOCK_BYTES, column_names=None if names is None else list(names))
    parse = pacsv.ParseOptions(delimiter=delimiter, quote_char='"' if names is None else False)
    with arrow_errors(str(path)), open_stream(path) as stream:
        reader = pacsv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert)
        yield from (batch for batch in reader if batch.num_rows)


@contextmanager
def open_stream(path: Path) -> Iterator[pa.NativeFile]:
    """The file's bytes as an arrow stream, decompressed where the content (not the name) says gzip."""
    remote = isinstance(path, RemotePath)
    with pa.PythonFile(path.open("rb"), mode="r") if remote else pa.OSFile(str(path)) as plain:
        is_gzip = plain.read(2) == GZIP_MAGIC
        plain.seek(0)
        if not is_gzip:
            yield plain
            return
        with pa.CompressedInputStream(plain, "gzip") as stream:
            yield stream


def read_first_line(path: Path) -> str:
    """The first line without its end, of a plain or gzip text file; LogError for an empty or binary file."""
    with arrow_errors(str(path)):
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            with gzip.open(raw) if is_gzip else raw as file:
                line = file.readline(_LONGEST_LINE_BYTES)
        text = line.decode("utf-8-sig").rstrip("\r\n")
    if not text or "\x00" in text:
        found = "binary content" if text else "an empty file or first line"
        raise LogError(f"cannot read the log {path}: found {found}, expected lines of text with a header or Criteo's.")
    return text
