"""Lookup counts that were made where the log is: parquet of (table, id, count), read into a profile."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memrec_convert.clicklog.batch import LogDigest
from memrec_convert.clicklog.block import MISSING_ID
from memrec_convert.clicklog.columns import BLOCK_ROWS, arrow_errors, read_ids, read_names, settle_range
from memrec_convert.clicklog.profiles.profile import Profile
from memrec_convert.clicklog.schema import LogSchema
from memrec_convert.errors import CheckpointError, LogError
from memrec_convert.remote import as_source

COLUMNS = ("table", "id", "count")
_SUFFIXES = (".parquet", ".pq")
_MOST_LOOKUPS = 1 << 62
_READ_BYTES = 1 << 20
"""Read at once of each column; without a bound, a file of one row group would be held whole."""
_MOST_NAMES = 10


def read_counts(path: str | Path, schema: LogSchema, inputs: Mapping[str, int], *, samples: int) -> Profile:
    """The profile that counts of lookups give: what `take_profile` gives for the log that they were counted in.

    `path` is a parquet file, or a directory of such files (not deeper), whose counts are summed, or a URL of either.
    Each row says how often `id` was looked up in `table`. `inputs` says which entry of `schema.tables` each table of
    the model reads; tables that read the same one must agree, or all but one be left out. `samples` is the number of
    the log's rows. The profile has no digest of a file, so `refuse_leak` refuses nothing for it; `digest.combined` is
    one of the counts.

    LogError where the files cannot be read, have other columns, types or tables than these, missing values, or counts
    below zero; IdRangeError for ids outside a table, which the schema's `oov` decides about as it does in a log.
    """
    if not str(path).strip():
        raise LogError("--counts: found an empty path, expected a parquet file or a directory of them.")
    path = as_source(path)
    try:
        counts = _sum_parts(path, schema, inputs)
    except CheckpointError as error:  # of a URL
        raise LogError(str(error)) from error
    joined = _join(path, counts, inputs, len(schema.tables))
    return Profile(joined, samples, _digest(joined, samples))


def _sum_parts(path: Path, schema: LogSchema, inputs: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The counts of each table that occurs, int64 [rows]."""
    counts: dict[str, np.ndarray] = {}
    total = 0.0
    for part in _find_parts(path):
        for names, tables, ids, lookups in _read_part(part):
            total += float(lookups.sum(dtype=np.float64))
            if total > _MOST_LOOKUPS:
                raise LogError(f"{part} > count: the counts add up to more than 2^62 lookups; they are damaged.")
            for place, name in enumerate(names):
                _check_name(name, inputs, part)
                rows = schema.tables[inputs[name]][1]
                table = counts.setdefault(name, np.zeros(rows, dtype=np.int64))
                here = tables == place
                found = settle_range(ids[here], (name, rows), schema.oov, where=f"{part} > id")
                present = found != MISSING_ID
                np.add.at(table, found[present], lookups[here][present])
    return counts


def _find_parts(path: Path) -> list[Path]:
    """The file, or the parquet files of a directory by name; LogError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise LogError(f"the counts {path} do not exist: check the path.")
    with arrow_errors(str(path)):
        parts = sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES and not one.name.startswith((".", "_")))
    if not parts:
        raise LogError(
            f"the directory {path} holds no counts: expected parquet files (.parquet, .pq) with the columns "
            f"{', '.join(COLUMNS)}; folders inside it are not read."
        )
    return parts


def _read_part(path: Path) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """Up to 65,536 rows at a time: the names that occur; of each row the place of its name, its id and its count."""
    with (
        arrow_errors(str(path)),
        path.open("rb") as stream,
        pq.ParquetFile(stream, buffer_size=_READ_BYTES, pre_buffer=False) as file,
    ):
        fields = file.schema_arrow.names
        if any(fields.count(name) != 1 for name in COLUMNS):
            raise LogError(
                f"the counts {path} have the columns {', '.join(fields[:40]) or 'none'}; expected {', '.join(COLUMNS)} "
                "(other columns are ignored): rename them where the counts are made."
            )
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=list(COLUMNS)):
            names = read_names(batch.column("table"), where=f"{path} > table")
            ids = read_ids(batch.column("id"), where=f"{path} > id")
            numbers = _read_numbers(batch.column("count"), where=f"{path} > count")
            yield names.dictionary.to_pylist(), names.indices.to_numpy(), ids, numbers


def _read_numbers(column: pa.Array, *, where: str) -> np.ndarray:
    """Counts as int64; LogError for other types, missing values, and numbers below zero or past int64."""
    if not pa.types.is_integer(column.type):
        raise LogError(
            f"{where}: found values of type {column.type}, expected whole numbers: CAST(... AS BIGINT) where the "
            "counts are made."
        )
    if column.null_count:
        raise LogError(f"{where}: found {column.null_count:,} missing counts; give every row one.")
    numbers = np.asarray(column.to_numpy(zero_copy_only=False))
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) > _MOST_LOOKUPS):
        odd = numbers[(numbers < 0) | (numbers > _MOST_LOOKUPS)]
        raise LogError(f"{where}: found the count {odd[0]}, expected numbers of lookups from 0 to 2^62.")
    return numbers.astype(np.int64)


def _check_name(name: str, inputs: Mapping[str, int], part: Path) -> None:
    if name not in inputs:
        raise LogError(
            f"{part} > table: the model has no table {name[:100]!r}; its tables are "
            f"{_list(get_close_matches(name, inputs) or inputs)}: name them as `inspect` does, and count no others."
        )


def _join(
    path: Path, counts: Mapping[str, np.ndarray], inputs: Mapping[str, int], total: int
) -> tuple[np.ndarray, ...]:
    """One array per input; LogError where none of its tables was counted, or two of them differently."""
    joined: dict[int, tuple[str, np.ndarray]] = {}
    for name, found in counts.items():
        other, kept = joined.setdefault(inputs[name], (name, found))
        if not np.array_equal(kept, found):
            raise LogError(
                f"the counts {path} differ for {other!r} and {name!r}, which the model reads by the same ids; "
                "count one of them."
            )
    missing = [name for name, place in inputs.items() if place not in joined]
    if missing:
        raise LogError(
            f"the counts {path} lack the tables {_list(missing)}; count the lookups of every table of the model (a row "
            "with the count 0 stands for a table without any)."
        )
    return tuple(joined[place][1] for place in range(total))


def _digest(counts: tuple[np.ndarray, ...], samples: int) -> LogDigest:
    """A digest of the counts themselves, however they were cut into files."""
    sha = hashlib.sha256(f"counts of {samples} samples".encode())
    for table in counts:
        sha.update(len(table).to_bytes(8, "little"))
        sha.update(table.astype("<i8", copy=False).data)
    return LogDigest(sha.hexdigest()[:32], ())


def _list(names: Collection[str]) -> str:
    shown = [repr(name) for name in list(names)[:_MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")
