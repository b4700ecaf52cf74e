"""Which row of an earlier day each of today's rows was, where rows were renumbered in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from memrec_convert.clicklog.columns import BLOCK_ROWS, arrow_errors, read_ids, read_names
from memrec_convert.clicklog.csv import read_first_line, stream_table
from memrec_convert.clicklog.parquet import open_table
from memrec_convert.errors import LogError
from memrec_convert.remote import as_source

COLUMNS = ("table", "old", "new")


def read_row_map(path: str | Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Of each table that the file names, the earlier row of every row, int64 [rows today]; -1 where it had none.

    The file (parquet or CSV, or a URL of either) has the columns `table`, `old` and `new`, one line for each row.
    `sizes` has the rows of each table then and now. A row that the file does not list has the number that it had,
    unless that belongs to another row now, or the table had no such row.

    LogError where the file cannot be read, has other columns or values, names a table or a row that is not there, or
    gives a row of today two earlier ones.
    """
    found: dict[str, np.ndarray] = {}
    path = as_source(path)
    for names, tables, old, new in _read_lines(path):
        for place, name in enumerate(names):
            if name not in sizes:
                near = ", ".join(map(repr, get_close_matches(name, sizes) or list(sizes)[:10]))
                raise LogError(
                    f"{path} > table: no table {name[:100]!r} is in both models; found were {near}; name tables as "
                    "`inspect` does."
                )
            before, now = sizes[name]
            origins = found.setdefault(name, np.full(now, -1, dtype=np.int64))
            here = tables == place
            _check_ids(old[here], before, f"{path} > old", f"the earlier table {name!r}")
            _check_ids(new[here], now, f"{path} > new", f"today's table {name!r}")
            _put(origins, old[here], new[here], f"{path} > new: row", name)
    for name, origins in found.items():
        _fill(origins, sizes[name][0])
    return found


def _read_lines(path: Path) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of the file: the names that occur; of each line the place of its name, and its two rows."""
    where = str(path)
    if not path.is_file():
        found = "is not a file; expected parquet or CSV" if path.exists() else "does not exist: check the path"
        raise LogError(f"the row map {path} {found}.")
    for batch in _read_parquet(path) if _is_parquet(path) else _read_csv(path):
        names = read_names(batch.column("table"), where=f"{where} > table")
        old, new = (read_ids(batch.column(name), where=f"{where} > {name}") for name in COLUMNS[1:])
        yield names.dictionary.to_pylist(), names.indices.to_numpy(), old, new


def _is_parquet(path: Path) -> bool:
    with arrow_errors(str(path)), path.open("rb") as file:
        return bytes(file.read(4)) == b"PAR1"


def _read_parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with arrow_errors(str(path)), open_table(path) as file:
        _check_columns(path, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=BLOCK_ROWS, columns=list(COLUMNS))


def _read_csv(path: Path) -> Iterator[pa.RecordBatch]:
    _check_columns(path, [name.strip('"') for name in read_first_line(path).split(",")])
    types = {"table": pa.string(), "old": pa.int64(), "new": pa.int64()}
    convert = pacsv.ConvertOptions(include_columns=list(COLUMNS), column_types=types, strings_can_be_null=True)
    yield from stream_table(path, delimiter=",", convert=convert)


def _check_columns(path: Path, names: list[str]) -> None:
    if any(names.count(name) != 1 for name in COLUMNS):
        raise LogError(
            f"the row map {path} has the columns {', '.join(map(repr, names[:40]))[:400] or 'none'}; "
            f"expected {', '.join(map(repr, COLUMNS))}, separated by commas (other columns are ignored)."
        )


def _check_ids(ids: np.ndarray, rows: int, where: str, table: str) -> None:
    outside = (ids < 0) | (ids >= rows)
    if outside.any():
        raise LogError(
            f"{where}: found {ids[outside.argmax()]}, expected rows of {table}, 0 to {rows - 1}; leave out rows that "
            "one of the two days does not have."
        )


def _put(origins: np.ndarray, old: np.ndarray, new: np.ndarray, where: str, name: str) -> None:
    """Writes the earlier rows; LogError for a row that has one already."""
    present, first = np.unique(new, return_index=True)
    twice = present[origins[present] >= 0] if len(first) == len(new) else np.delete(new, first)
    if len(twice):
        raise LogError(f"{where} {twice[0]} of table {name!r} stands there twice; give each new row one earlier row.")
    origins[new] = old


def _fill(origins: np.ndarray, before: int) -> None:
    """Gives rows that were not listed the number that they have, where it is free."""
    free = np.ones(before, dtype=bool)
    free[origins[origins >= 0]] = False
    same = np.flatnonzero(origins[:before] < 0)
    same = same[free[same]]
    origins[same] = same
