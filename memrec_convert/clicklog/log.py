"""A click log: one or more files read as one stream of batches, in order or shuffled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from memrec_convert.clicklog.batch import Batch, LogDigest, make_batch
from memrec_convert.clicklog.block import Block, limit_rows, number_places, rebatch, shuffle_windows
from memrec_convert.clicklog.columns import arrow_errors
from memrec_convert.clicklog.schema import ColumnChoice, LogSchema
from memrec_convert.errors import LogError
from memrec_convert.parallel import ALONE, Crew
from memrec_convert.remote import RemotePath

SHUFFLE_WINDOW_ROWS = 1 << 22
"""Rows that a shuffled stream holds at once (4,194,304): a log no larger than this is shuffled fully."""

_DIGEST_CHUNK_BYTES = 1 << 22


class LogFile(Protocol):
    """One file of a log, readable unit by unit (the row groups of a parquet file; the whole of a text file)."""

    @property
    def path(self) -> Path:
        """Where the file is."""

    @property
    def choice(self) -> ColumnChoice:
        """The columns that serve the model."""

    @property
    def multi_hot(self) -> bool:
        """Whether a table's column holds several ids a row."""

    @property
    def rows(self) -> int | None:
        """The number of rows, where the file tells it without being read."""

    @property
    def units(self) -> int:
        """How many parts can be read apart."""

    def blocks(self, unit: int, schema: LogSchema, *, multi_hot: bool) -> Iterator[Block]:
        """The rows of one unit."""


class ClickLog:
    """A log of one kind over one or more files. Nothing is read before it is asked for, and nothing is kept.

    `paths`, in the order of reading; `kind`: "parquet", "csv" or "criteo"; `rows`, or None where the files do not tell
    it; `schema`; `has_labels`; `group_column`, the one that the schema's `group` means, or None.
    """

    def __init__(self, files: tuple[LogFile, ...], *, kind: str, schema: LogSchema) -> None:
        self.kind = kind
        self.schema = schema
        self.paths = tuple(file.path for file in files)
        self.has_labels = files[0].choice.label is not None
        self._files = files
        self._units = [(file, unit) for file in files for unit in range(file.units)]
        self._digest: LogDigest | None = None
        self._multi_hot = any(file.multi_hot for file in files)
        without = [file.path for file in files if (file.choice.label is not None) != self.has_labels]
        if without:
            raise LogError(f"the files {files[0].path} and {without[0]} disagree: only one of them has labels.")
        self.group_column = files[0].choice.group
        other = next((file for file in files if file.choice.group != self.group_column), None)
        if other is not None:
            raise LogError(
                f"the files {files[0].path} and {other.path} disagree: {schema.group!r} means the column "
                f"{self.group_column!r} in one and {other.choice.group!r} in the other; name a column that both have."
            )

    def __repr__(self) -> str:
        return f"ClickLog(kind={self.kind!r}, rows={self.rows}, paths={[str(path) for path in self.paths]})"

    @property
    def rows(self) -> int | None:
        """The number of rows over all files, where they tell it without being read."""
        rows = [file.rows for file in self._files if file.rows is not None]
        return sum(rows) if len(rows) == len(self._files) else None

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """The log as batches of exactly `batch_size` samples (the last may be shorter), across files and row groups.

        With `shuffle_seed`, files and row groups come in a random order and rows are permuted within consecutive
        windows of SHUFFLE_WINDOW_ROWS rows: a full shuffle for logs up to that size, the same for the same seed and
        files. `limit` ends the stream, shuffled or not, after that many rows. LogError for unreadable files, missing
        or non-finite values and a log without rows; IdRangeError for ids outside a table (under oov="error").
        """
        if batch_size < 1 or (limit is not None and limit < 1):
            raise LogError(f"cannot read batches of {batch_size} rows with the limit {limit}: both must be above zero.")
        if shuffle_seed is None:
            rows = rebatch(limit_rows(self.blocks(), limit), batch_size)
        else:
            generator = np.random.default_rng(shuffle_seed)
            window_rows = max(SHUFFLE_WINDOW_ROWS, batch_size)
            window_rows -= window_rows % batch_size
            blocks = self.blocks(generator)
            shuffled = shuffle_windows(blocks, generator, window_rows=window_rows, batch_size=batch_size)
            rows = limit_rows(shuffled, limit)
        yield from map(make_batch, rows)

    def blocks(self, generator: np.random.Generator | None = None) -> Iterator[Block]:
        """The log's rows in blocks as they are decoded, files and row groups permuted where a generator is given."""
        order = range(len(self._units)) if generator is None else generator.permutation(len(self._units)).tolist()
        is_empty = True
        for block in self.blocks_of(order):
            is_empty = False
            yield block
        if is_empty:
            raise self.without_rows()

    @property
    def units(self) -> int:
        """How many parts can be read apart."""
        return len(self._units)

    def blocks_of(self, units: Iterable[int]) -> Iterator[Block]:
        """The blocks of some of the parts, which may be none."""
        for place in units:
            file, unit = self._units[place]
            seen = 0
            for block in file.blocks(unit, self.schema, multi_hot=self._multi_hot):
                if block.rows:
                    yield replace(block, places=number_places(place, seen, block.rows))
                    seen += block.rows

    def without_rows(self) -> LogError:
        """The error that says that there are none."""
        return LogError(f"the log {self._describe()} holds no rows: expected at least one sample.")

    def digest(self, crew: Crew = ALONE) -> LogDigest:
        """The SHA-256 digests of the files' contents; they are read once, shared by a crew, and remembered."""
        if self._digest is None:
            digests = list(crew.map("digests of the log", _hash_file, self.paths))
            combined = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
            names = tuple(map(name_of, self.paths))
            self._digest = LogDigest(combined[:32], tuple(digest[:16] for digest in digests), names)
        return self._digest

    def _describe(self) -> str:
        others = len(self.paths) - 1
        return str(self.paths[0]) + (f" and {others} more files" if others else "")


def name_of(path: Path) -> str:
    """A file's name; of a URL without its query, which may hold what signs it."""
    return path.local_name if isinstance(path, RemotePath) else path.name


def _hash_file(path: Path) -> str:
    sha = hashlib.sha256()
    with arrow_errors(str(path)), path.open("rb") as file:
        while chunk := file.read(_DIGEST_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()
