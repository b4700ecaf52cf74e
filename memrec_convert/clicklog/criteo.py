"""Raw Criteo logs (Kaggle and terabyte): tab-separated lines of label, 13 integers and 26 hex tokens.

Lines have no header; the Kaggle test set lacks the label; terabyte days are gzip files. As the frameworks do it:

- A blank integer is 0. A negative one (-1, -2, -3 occur) is taken as max(x, 0), as in facebookresearch/dlrm; only under
  the transform log(x+3), which torchrec and NVIDIA use without that clamp, as max(x, -2).
- A token is NOT a row of a table: the checkpoint's preprocessing has numbered the tokens, or taken them modulo a size.
  So a raw log needs that preprocessing's id map (`LogSchema.id_map`, see `id_map`), or its modulus
  (`LogSchema.modulus`: row = int(token, 16) mod modulus, which must then lie inside the table). With both, the map's
  tokens are the remainders (dlrm's `max_ind_range`). Without either the log is refused.
- A blank token is token 0, as in dlrm's preprocessor.
- A token that the map does not know counts as an id outside its table, and does what `LogSchema.oov` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from memrec_convert.clicklog.block import Block
from memrec_convert.clicklog.columns import arrow_errors, assemble_block
from memrec_convert.clicklog.csv import read_first_line, stream_table
from memrec_convert.clicklog.id_map import IdMap, read_id_map
from memrec_convert.clicklog.schema import ColumnChoice, LogSchema, choose_columns
from memrec_convert.errors import LogError

DENSE_NAMES = tuple(f"I{j + 1}" for j in range(13))
TOKEN_NAMES = tuple(f"C{i + 1}" for i in range(26))
_HEX_DIGITS = 8


@dataclass(frozen=True)
class CriteoFile:
    """One raw Criteo file, its columns seen as label, I1 to I13, C1 to C26."""

    path: Path
    choice: ColumnChoice
    names: tuple[str, ...]
    id_map: IdMap | None = field(repr=False, default=None)
    multi_hot: bool = False
    rows: int | None = None
    units: int = 1

    def blocks(self, unit: int, schema: LogSchema, *, multi_hot: bool) -> Iterator[Block]:
        """The rows in blocks of about 4 MB of text; LogError for anything unreadable."""
        types = {n: pa.string() if n in TOKEN_NAMES else pa.float32() for n in self.names}
        convert = pacsv.ConvertOptions(
            include_columns=self.choice.all, column_types=types, null_values=[""], strings_can_be_null=True
        )
        floor = -2.0 if schema.dense_transform == "log(x+3)" else 0.0
        where = str(self.path)
        if self.id_map is not None:
            where += " (ids through the id map, -1 - token where it knows none)"
        for batch in stream_table(self.path, delimiter="\t", convert=convert, names=self.names):
            columns = {name: batch.column(name) for name in self.choice.all}
            for name in self.choice.dense:
                columns[name] = pc.max_element_wise(pc.fill_null(columns[name], 0.0), pa.scalar(floor, pa.float32()))
            for name in self.choice.tables:
                columns[name] = pa.array(self._find_rows(name, columns[name], schema))
            yield assemble_block(columns, self.choice, schema, multi_hot=multi_hot, where=where)

    def _find_rows(self, name: str, tokens: pa.Array, schema: LogSchema) -> np.ndarray:
        numbers = parse_tokens(tokens, where=f"{self.path} > {name}")
        if schema.modulus is not None:
            numbers = numbers % schema.modulus
        return numbers if self.id_map is None else self.id_map.find_rows(name, numbers)


def is_criteo_line(line: str) -> bool:
    """Whether a line has Criteo's form: [0 or 1,] 13 integers or blanks, 26 tokens of 8 hex digits or blanks."""
    fields = line.split("\t")
    if len(fields) == len(DENSE_NAMES) + len(TOKEN_NAMES) + 1:
        if fields.pop(0) not in ("0", "1"):
            return False
    elif len(fields) != len(DENSE_NAMES) + len(TOKEN_NAMES):
        return False
    integers, tokens = fields[: len(DENSE_NAMES)], fields[len(DENSE_NAMES) :]
    digits = set("0123456789abcdefABCDEF")
    return all(not text or text.removeprefix("-").isdigit() for text in integers) and all(
        not token or (len(token) == _HEX_DIGITS and set(token) <= digits) for token in tokens
    )


def open_criteo(path: Path, schema: LogSchema) -> CriteoFile:
    """A raw Criteo file; LogError where its tokens cannot be turned into rows or the inputs do not fit."""
    if schema.id_map is None and schema.modulus is None:
        raise LogError(
            f"{path} is a raw Criteo log, whose tokens are not rows: the checkpoint's preprocessing has numbered them; "
            "give its id map, or its modulus where it took the tokens modulo a size, or a log that it has processed."
        )
    line = read_first_line(path)
    if not is_criteo_line(line):
        raise LogError(
            f"{path}: found {line.count(chr(9)) + 1} tab-separated fields in the first line that are not Criteo's, "
            "expected a label, 13 integers and 26 tokens of 8 hex digits."
        )
    has_label = line.count("\t") == len(DENSE_NAMES) + len(TOKEN_NAMES)
    names = (*(["label"] if has_label else []), *DENSE_NAMES, *TOKEN_NAMES)
    choice = choose_columns(names, schema, where=str(path))
    id_map = None if schema.id_map is None else read_id_map(Path(schema.id_map), choice.tables)
    return CriteoFile(path, choice, names, id_map)


def parse_tokens(tokens: pa.Array, *, where: str) -> np.ndarray:
    """Tokens of up to 8 hex digits (null: 0) as int64 [rows]; LogError for anything else."""
    with arrow_errors(where):
        padded = pc.utf8_lpad(pc.fill_null(tokens, "0"), _HEX_DIGITS, "0")
    if len(padded) == 0:
        return np.zeros(0, dtype=np.int64)
    _, starts, text = padded.buffers()
    ends = np.frombuffer(starts, dtype=np.int32)[padded.offset : padded.offset + len(padded) + 1]
    digits = _DIGIT_VALUES[np.frombuffer(text, dtype=np.uint8)[ends[0] : ends[-1]]]
    if (np.diff(ends) != _HEX_DIGITS).any() or (digits > 15).any():
        raise LogError(f"{where}: found tokens that are not 8 hex digits, expected Criteo's form such as 68fd1e64.")
    places = np.int64(16) ** np.arange(_HEX_DIGITS - 1, -1, -1, dtype=np.int64)
    return np.asarray(digits.reshape(-1, _HEX_DIGITS).astype(np.int64) @ places)


def _make_digit_values() -> np.ndarray:
    values = np.full(256, 255, dtype=np.uint8)
    for value, digit in enumerate("0123456789abcdef"):
        values[ord(digit)] = values[ord(digit.upper())] = value
    return values


_DIGIT_VALUES = _make_digit_values()
