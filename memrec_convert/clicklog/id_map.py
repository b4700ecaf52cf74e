"""Id maps: which row of its table a raw token has, as the preprocessing of a training log numbered them.

Three forms, chosen by the suffix; columns are named as in the log (C1 to C26), tokens are the integers of their
hex digits:

- .parquet: three columns, `column` (string), `token` (integer, or string of hex digits) and `row` (integer);
- .npz: two integer arrays per column, `C1_tokens` and `C1_rows`, of equal length;
- .json: {"C1": {"68fd1e64": 0, ...}, ...}, tokens as hex digits.

A token must not occur twice in a column. A row outside the table is dealt with where the log is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memrec_convert.clicklog.columns import arrow_errors
from memrec_convert.clicklog.npz import read_npz
from memrec_convert.errors import LogError


@dataclass(frozen=True)
class IdMap:
    """Per column, the tokens in ascending order and the row of each (both int64)."""

    columns: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def find_rows(self, column: str, tokens: np.ndarray) -> np.ndarray:
        """The row of each token (int64 [n]); -1 - token, outside every table, for those that the map does not know."""
        known, rows = self.columns[column]
        # Not one number for all unknown tokens: oov="hash" would then send them all to the same row.
        unknown = -1 - tokens
        if not len(known):
            return unknown
        places = np.minimum(np.searchsorted(known, tokens), len(known) - 1)
        return np.where(known[places] == tokens, rows[places], unknown)


def read_id_map(path: Path, columns: Sequence[str]) -> IdMap:
    """The map of the columns that are needed; LogError where it is unreadable, lacks one, or repeats a token."""
    readers = {".parquet": _read_parquet, ".npz": _read_npz, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise LogError(f"the id map {path} is of an unknown kind: expected .parquet, .npz or .json.")
    pairs = reader(path, columns)
    missing = [name for name in columns if name not in pairs]
    if missing:
        raise LogError(f"the id map {path} lacks the columns {', '.join(missing)}: expected one map per table.")
    return IdMap({name: _sort_pairs(path, name, *pairs[name]) for name in columns})


def _sort_pairs(path: Path, name: str, tokens: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fits = tokens.shape == rows.shape and tokens.ndim == 1
    if not fits or not all(array.dtype.kind in "iu" for array in (tokens, rows) if array.size):
        raise LogError(f"the id map {path} > {name}: expected as many integer tokens as integer rows.")
    order = np.argsort(tokens, kind="stable")
    tokens, rows = tokens[order].astype(np.int64), rows[order].astype(np.int64)
    if (tokens[1:] == tokens[:-1]).any():
        raise LogError(f"the id map {path} > {name}: a token occurs twice, expected one row for each.")
    return tokens, rows


def _read_parquet(path: Path, columns: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with arrow_errors(f"the id map {path}"):
        table = pq.read_table(path)
    if not {"column", "token", "row"} <= set(table.column_names):
        found = ", ".join(table.column_names)
        raise LogError(f"the id map {path}: found the columns {found}, expected column, token and row.")
    pairs = {}
    names = table["column"].combine_chunks()
    for name in columns:
        with arrow_errors(f"the id map {path} > {name}"):
            part = table.filter(pc.equal(names, name))
            if part.num_rows:
                pairs[name] = _parse_numbers(path, part["token"]), _parse_numbers(path, part["row"])
    return pairs


def _parse_numbers(path: Path, column: pa.ChunkedArray) -> np.ndarray:
    if column.null_count:
        raise LogError(f"the id map {path}: found missing tokens or rows, expected none.")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _parse_hex(path, column.to_pylist())
    return np.asarray(column.to_numpy())


def _read_npz(path: Path, columns: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = read_npz(path, what="the id map")
    return {
        name: (arrays[f"{name}_tokens"], arrays[f"{name}_rows"])
        for name in columns
        if f"{name}_tokens" in arrays and f"{name}_rows" in arrays
    }


def _read_json(path: Path, columns: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LogError(f"cannot read the id map {path}: {error}; expected JSON of tokens and rows.") from error
    pairs = {}
    for name in columns:
        tokens = content.get(name) if isinstance(content, dict) else None
        if isinstance(tokens, dict):
            if not all(type(row) is int and abs(row) < 2**63 for row in tokens.values()):
                raise LogError(f"the id map {path} > {name}: expected an integer row for each token.")
            pairs[name] = _parse_hex(path, list(tokens)), np.array(list(tokens.values()), dtype=np.int64)
    return pairs


def _parse_hex(path: Path, tokens: Sequence[str]) -> np.ndarray:
    try:
        return np.array([int(token, 16) for token in tokens], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise LogError(f"the id map {path}: found a token that is not a number in hex digits ({error}).") from error
