"""Arrow columns -> the numpy columns of a block: types, missing values, ranges and the dense transform."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from memrec_convert.clicklog.block import MISSING_ID, Block, Ragged
from memrec_convert.clicklog.schema import ColumnChoice, LogSchema
from memrec_convert.errors import CheckpointError, IdRangeError, LogError

_ADVICE = (
    "; give missing values an id of their own, as in training, and write whole numbers as integers: "
    "frame[column].fillna(ID).astype('int64')"
)
_NO_ID = re.compile(r"(In CSV column #\d+(?:: Row #\d+)?): CSV conversion error to int64: (invalid value '.*')")

BLOCK_ROWS = 65_536
"""Rows decoded at once: large enough for vectorised work, small beside any table."""


def assemble_block(
    columns: Mapping[str, pa.Array], choice: ColumnChoice, schema: LogSchema, *, multi_hot: bool, where: str
) -> Block:
    """The chosen columns of B rows as a block, checked; LogError or IdRangeError naming file and column."""
    rows = len(columns[choice.all[0]]) if choice.all else 0
    dense = np.empty((rows, len(choice.dense)), dtype=np.float32)
    for place, name in enumerate(choice.dense):
        dense[:, place] = read_dense(columns[name], where=f"{where} > {name}")
    labels, any_number = None, schema.any_labels
    if choice.label is not None:
        labels = read_labels(columns[choice.label], where=f"{where} > {choice.label}", any_number=any_number)
    groups = None if choice.group is None else read_groups(columns[choice.group], where=f"{where} > {choice.group}")
    names = list(zip(choice.tables, schema.tables, strict=True))
    ids: np.ndarray | tuple[Ragged, ...]
    if multi_hot:
        ids = tuple(read_bags(columns[n], table, schema, where=f"{where} > {n}") for n, table in names)
    else:
        ids = np.empty((rows, len(names)), dtype=_choose_id_type(schema))
        for place, (name, table) in enumerate(names):
            found = read_ids(columns[name], where=f"{where} > {name}")
            ids[:, place] = settle_range(found, table, schema.oov, where=f"{where} > {name}")
    return Block(transform_dense(dense, schema.dense_transform, choice.dense, where=where), ids, labels, groups)


def read_ids(column: pa.Array, *, where: str) -> np.ndarray:
    """A column of integers as int64; LogError for nulls, other types and values past int64."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_integer(column.type):
        raise LogError(
            f"{where}: found values of type {column.type}{_show_first(column)}, expected integer ids (the rows of the "
            f"table){_ADVICE if pa.types.is_floating(column.type) else ''}."
        )
    if column.null_count:
        raise LogError(
            f"{where}: found {column.null_count:,} missing ids among {len(column):,}, expected an id in every row; "
            "give missing values an id of their own, as in training."
        )
    ids = np.asarray(column.to_numpy(zero_copy_only=False))
    if ids.dtype == np.uint64 and ids.size and ids.max() >= 1 << 63:
        wide = ids >= 1 << 63
        raise IdRangeError(
            f"{where}: found {int(wide.sum()):,} ids past 2^63 - 1 among {len(ids):,} (first: {ids[wide.argmax()]}), "
            "expected rows of the table; number (or hash) them before, as training did."
        )
    return ids.astype(np.int64)


def _show_first(column: pa.Array) -> str:
    """The first value of a column, for a sentence; "" where it has none."""
    known = column.drop_null()
    return f" (first: {str(known[0].as_py())[:40]!r})" if len(known) else ""


def read_names(column: pa.Array, *, where: str) -> pa.DictionaryArray:
    """A column of tables' names as a dictionary that holds each name of these rows once; LogError for other values."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if str(column.type) == "string_view":
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise LogError(f"{where}: found values of type {column.type}, expected the tables' names as strings.")
    if column.null_count:
        raise LogError(f"{where}: found {column.null_count:,} missing names; name a table in every row.")
    return column.dictionary_encode()


def read_bags(column: pa.Array, table: tuple[str, int], schema: LogSchema, *, where: str) -> Ragged:
    """A column of id lists (a null list is an empty one) or of single ids as a ragged column."""
    if not is_list(column.type):
        return Ragged.from_single(settle_range(read_ids(column, where=where), table, schema.oov, where=where))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False))
    values = settle_range(read_ids(column.flatten(), where=where), table, schema.oov, where=where)
    return Ragged.from_lengths(values.astype(_choose_id_type(schema)), lengths)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds several ids a row."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def settle_range(ids: np.ndarray, table: tuple[str, int], oov: str, *, where: str) -> np.ndarray:
    """int64 ids with those outside [0, rows) dealt with as `oov` says; a dropped lookup becomes MISSING_ID."""
    name, rows = table
    # Seen as unsigned, a negative id is larger than any table: one comparison finds both ends.
    outside = ids.view(np.uint64) >= np.uint64(rows)
    if not outside.any():
        return ids
    if oov == "error":
        found = int(np.count_nonzero(outside))
        raise IdRangeError(
            f"{where}: {found:,} of the {len(ids):,} ids read here lie outside table {name!r} of {rows:,} rows "
            f"(first: {int(ids[np.argmax(outside)])}); expected 0 to {rows - 1}; check that the log was numbered like "
            "the model's training log, or say what such ids do with --oov clip|hash|zero."
        )
    if oov == "clip":
        return np.asarray(np.clip(ids, 0, rows - 1))
    settled: np.ndarray = ids % rows if oov == "hash" else np.where(outside, MISSING_ID, ids)
    return settled


def read_labels(column: pa.Array, *, where: str, any_number: bool = False) -> np.ndarray:
    """Labels as float32 in [0, 1], or `any_number` that is finite; LogError for nulls and other values."""
    labels = _read_numbers(column, where=where)
    if any_number:
        if not np.isfinite(labels).all():
            raise LogError(
                f"{where}: found {labels[~np.isfinite(labels)][0]}, expected labels that are finite numbers."
            )
        return labels
    if labels.size and not (labels.min() >= 0 and labels.max() <= 1):
        odd = labels[~((labels >= 0) & (labels <= 1))]
        raise LogError(
            f"{where}: found the label {odd[0]:g}, expected 0 or 1 (or a probability between); "
            "turn the labels into clicks before."
        )
    return labels


def read_groups(column: pa.Array, *, where: str) -> np.ndarray:
    """A column of any one value a row as int64, equal where the values are; LogError for lists and nulls.

    Integers stand for themselves, other values for 64 bits of their text's hash: the same in every block and file.
    """
    if pa.types.is_nested(column.type):
        raise LogError(f"{where}: found values of type {column.type}, expected one group a row, such as a user's id.")
    if column.null_count:
        raise LogError(
            f"{where}: found {column.null_count:,} missing groups among {len(column):,}, expected one in every row; "
            "give rows without one a group of their own, or leave them out."
        )
    if pa.types.is_integer(column.type):
        return np.array(column.to_numpy(zero_copy_only=False)).astype(np.int64)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    hashes = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in column.dictionary.to_pylist()]
    numbers = np.frombuffer(b"".join(hashes), dtype="<i8").astype(np.int64)
    return np.asarray(numbers[column.indices.to_numpy(zero_copy_only=False)])


def read_dense(column: pa.Array, *, where: str) -> np.ndarray:
    """Dense values as float32; LogError for nulls, NaN and infinities."""
    values = _read_numbers(column, where=where)
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise LogError(
            f"{where}: found {wrong:,} NaN or infinite values among {len(values):,}, expected finite numbers; "
            "fill them as in training."
        )
    return values


def transform_dense(dense: np.ndarray, transform: str, names: tuple[str, ...], *, where: str) -> np.ndarray:
    """The dense transform, in float32 as in training; LogError where a logarithm has no finite value."""
    if transform == "identity":
        return dense
    shift = np.float32(1 if transform == "log1p" else 3)
    too_small = dense <= -shift
    if too_small.any():
        row, place = np.argwhere(too_small)[0]
        raise LogError(
            f"{where} > {names[place]}: found {dense[row, place]:g}, and {transform} has no finite value there; "
            "expected raw dense values; choose the dense transform of the training, or clamp the values as it did."
        )
    # torch's log1p, bit for bit that of a user who feeds the model by hand; its float32 log differs between processors.
    values = torch.from_numpy(np.ascontiguousarray(dense))
    own = torch.log1p(values) if transform == "log1p" else torch.log((values + shift).double()).float()
    transformed: np.ndarray = own.numpy()
    return transformed


@contextmanager
def arrow_errors(where: str) -> Iterator[None]:
    """Failures of pyarrow, of the file system and of a store as LogError naming `where`."""
    try:
        yield
    except CheckpointError as error:  # of an object of a store
        raise LogError(str(error)) from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        no_id = _NO_ID.search(str(error))
        if no_id is not None:
            raise LogError(
                f"{where}: {no_id[1]}, {no_id[2]}, expected integer ids (the rows of the table){_ADVICE}."
            ) from error
        reason = " ".join((str(error).splitlines() or [type(error).__name__])[0].split()).rstrip(".")
        raise LogError(f"cannot read {where}: {reason[:300]}; check that the file is complete.") from error


def _read_numbers(column: pa.Array, *, where: str) -> np.ndarray:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise LogError(f"{where}: found values of type {kind}, expected numbers.")
    if column.null_count:
        raise LogError(
            f"{where}: found {column.null_count:,} missing values among {len(column):,}, expected a number in every "
            "row; fill them as in training."
        )
    with np.errstate(over="ignore"):  # past float32 is infinite, which the callers refuse
        # A copy, since arrow's own memory would be read-only.
        return np.array(column.to_numpy(zero_copy_only=False), dtype=np.float32)


def _choose_id_type(schema: LogSchema) -> type[np.int32] | type[np.int64]:
    # Half the memory of a shuffle window; batches are widened.
    return np.int32 if all(rows < 2**31 for _, rows in schema.tables) else np.int64
