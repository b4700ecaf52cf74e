"""Opening a log: which files are meant, and of what kind they are."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from memrec_convert.clicklog.columns import arrow_errors
from memrec_convert.clicklog.criteo import is_criteo_line, open_criteo
from memrec_convert.clicklog.csv import open_csv, read_first_line
from memrec_convert.clicklog.log import ClickLog, LogFile, name_of
from memrec_convert.clicklog.parquet import open_parquet
from memrec_convert.clicklog.schema import LogSchema
from memrec_convert.errors import LogError
from memrec_convert.remote import RemotePath, as_source

_KNOWN = "parquet, CSV with a header, or raw Criteo (.parquet, .csv, .csv.gz, .tsv, .txt, .gz, day_N)"
_LOG_NAME = re.compile(r"(.*\.(parquet|pq|csv|tsv|txt)(\.gz)?|.*\.gz|day_\d+)", re.IGNORECASE)


def open_log(source: str | Path | Sequence[str | Path], schema: LogSchema) -> ClickLog:
    """A log from a file, several files, a directory (its log files, not deeper) or a glob pattern, each local or a URL.

    The files are read in the order of their paths, numbers in names compared as numbers (day_2 before day_10). The
    kind is told by the suffix, and by the content where that leaves it open. Only footers and first lines are read
    here. An object of a store that is replaced later is refused when it is read. LogError for files that are missing,
    of several kinds, of no known kind, or that do not fit the schema.
    """
    paths = find_files(source)
    kinds = {path: sniff_kind(path) for path in paths}
    kind = kinds[paths[0]]
    other = next((path for path in paths if kinds[path] != kind), None)
    if other is not None:
        raise LogError(f"{paths[0]} is {kind} and {other} is {kinds[other]}: give logs of one kind.")
    if kind != "criteo" and (schema.id_map is not None or schema.modulus is not None):
        raise LogError(
            f"an id map or modulus was given, but {paths[0]} is {kind}: they turn the tokens of raw Criteo logs into "
            "rows, while the ids of other logs must be rows already; leave them out."
        )
    files: list[LogFile] = []
    for path in paths:
        files.append(_open_file(path, kind, schema))
    return ClickLog(tuple(files), kind=kind, schema=schema)


def find_files(source: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The files that a source means, sorted; LogError where one is missing or named twice, or nothing matches."""
    sources = [source] if isinstance(source, str | Path) else list(source)
    paths = sorted((path for item in sources for path in _expand(item)), key=_sort_key)
    if not paths:
        raise LogError("no log was given: expected a file, several, a directory or a glob pattern.")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise LogError(f"the log names {path} twice: its rows would count double; name each file once.")
        seen[path.resolve()] = path
    return tuple(paths)


def sniff_kind(path: Path) -> str:
    """The kind of a log file, "parquet", "csv" or "criteo": by the suffix, or else by the content."""
    name = name_of(path).lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith((".csv", ".csv.gz")):
        return "csv"
    with_magic = _read_magic(path)
    if with_magic == b"PAR1":
        return "parquet"
    if name.endswith((".npz", ".npy")) or with_magic == b"PK\x03\x04":
        raise LogError(f"{path} is a numpy or zip archive, which is not read as a log: convert it to {_KNOWN}.")
    line = read_first_line(path)
    if is_criteo_line(line):
        return "criteo"
    if ("\t" in line or "," in line) and any(character.isalpha() for character in line):
        return "csv"
    raise LogError(f"{path} is of no known kind of log: expected {_KNOWN}.")


def _open_file(path: Path, kind: str, schema: LogSchema) -> LogFile:
    if kind == "parquet":
        return open_parquet(path, schema)
    return open_csv(path, schema) if kind == "csv" else open_criteo(path, schema)


def _expand(item: str | Path) -> Iterable[Path]:
    with arrow_errors(str(item)):
        path = as_source(item)
        if path.is_dir():
            found = [entry for entry in path.iterdir() if _is_log_name(entry.name) and entry.is_file()]
            if not found:
                raise LogError(f"the directory {path} holds no log files: expected {_KNOWN}.")
            return found
        if path.is_file():
            return [path]
        if _is_pattern(path.name.partition("?")[0] if isinstance(path, RemotePath) else str(item)):
            found = [match for match in _match(path) if match.is_file()]
            if not found:
                raise LogError(f"no file matches {item}: check the pattern.")
            return found
        if isinstance(path, RemotePath):
            path.require()
    raise LogError(f"the log {path} does not exist: check the path.")


def _match(pattern: Path) -> Iterable[Path]:
    """What a pattern means; that of a URL has its wildcards in the last part."""
    if isinstance(pattern, RemotePath):
        return pattern.parent.glob(pattern.name)
    return map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - pathlib takes no absolute pattern


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _is_log_name(name: str) -> bool:
    return _LOG_NAME.fullmatch(name) is not None and not name.startswith((".", "_"))


def _sort_key(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts if part]


def _read_magic(path: Path) -> bytes:
    with arrow_errors(str(path)), path.open("rb") as file:
        return file.read(4)
