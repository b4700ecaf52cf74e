"""Lookup profiles: how often each id of each table occurs in a log, and from which files that was counted."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memrec_convert.clicklog.batch import LogDigest
from memrec_convert.clicklog.block import Block
from memrec_convert.clicklog.log import ClickLog
from memrec_convert.clicklog.npz import read_npz
from memrec_convert.clicklog.schema import LogSchema
from memrec_convert.errors import LogError, ProfileLeakError
from memrec_convert.parallel import ordered_map
from memrec_convert.safe_files import write_file

FORMAT = "memrec-profile/1"


@dataclass(frozen=True)
class Profile:
    """`counts`: per table, the lookups of each row (int64 [rows]); `samples`: the log's rows; `digest` of its files."""

    counts: tuple[np.ndarray, ...]
    samples: int
    digest: LogDigest


def take_profile(log: ClickLog, *, workers: int = 1) -> Profile:
    """Count the lookups of a log in one pass; `workers` threads count different tables, to the same result."""
    counts = tuple(np.zeros(rows, dtype=np.int64) for _, rows in log.schema.tables)
    samples = 0
    for block in log.blocks():
        samples += block.rows
        count = partial(_count, counts, block)
        deque(ordered_map(count, range(len(counts)), workers=workers), maxlen=0)
    return Profile(counts, samples, log.digest())


def save_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as .npz, complete or not at all; OutputError where that fails."""
    path = Path(path)
    arrays: dict[str, Any] = {f"counts_{table:04d}": counts for table, counts in enumerate(profile.counts)}
    header: dict[str, Any] = {
        "format": np.array(FORMAT),
        "samples": np.array(profile.samples, dtype=np.int64),
        "combined": np.array(profile.digest.combined),
        "files": np.array(profile.digest.files),
        "names": np.array(profile.digest.names),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **header, **arrays)
    write_file(path, [file.getbuffer()])


def load_profile(path: str | Path, schema: LogSchema | None = None) -> Profile:
    """Read a profile; LogError where it is damaged, or counts other tables than the schema's."""
    path = Path(path)
    profile = _parse_profile(path, read_npz(path, what="the profile"))
    if schema is not None:
        _check_rows(path, profile, schema)
    return profile


def refuse_leak(profile_digest: LogDigest, evaluation_digest: LogDigest) -> None:
    """ProfileLeakError when any file of the evaluation is one that the profile was taken from (same contents)."""
    shared = [place for place, file in enumerate(evaluation_digest.files) if file in profile_digest.files]
    if shared:
        place = shared[0]
        names = evaluation_digest.names
        name = names[place] if place < len(names) else "one"
        raise ProfileLeakError(
            f"the evaluation data was also used for the profile: {name} of the evaluation's "
            f"{len(evaluation_digest.files)} files (digest {evaluation_digest.files[place]}) was counted, and "
            f"{len(shared)} in all; expected held-out data; evaluate on other files."
        )


def _count(all_counts: tuple[np.ndarray, ...], block: Block, table: int) -> None:
    counts, ids = all_counts[table], block.table_ids(table)
    # bincount passes over the whole table: only worth it where that is no longer than the ids.
    if len(counts) <= 4 * len(ids):
        counts += np.bincount(ids, minlength=len(counts))
    else:
        np.add.at(counts, ids, 1)


def _parse_profile(path: Path, arrays: dict[str, np.ndarray]) -> Profile:
    found = str(arrays.get("format"))
    if found != FORMAT or not {"samples", "combined", "files", "names"} <= arrays.keys() or arrays["samples"].size != 1:
        raise LogError(f"the profile {path} is of format {found!r}, expected {FORMAT}; take it anew.")
    counts = tuple(arrays[name] for name in sorted(arrays) if name.startswith("counts_"))
    if any(count.dtype != np.int64 or count.ndim != 1 or (count < 0).any() for count in counts):
        raise LogError(f"the profile {path} holds counts that are not numbers of lookups; take it anew.")
    files, names = (tuple(str(item) for item in np.atleast_1d(arrays[key])) for key in ("files", "names"))
    return Profile(counts, int(arrays["samples"].item()), LogDigest(str(arrays["combined"]), files, names))


def _check_rows(path: Path, profile: Profile, schema: LogSchema) -> None:
    found, expected = [len(count) for count in profile.counts], [rows for _, rows in schema.tables]
    if found != expected:
        raise LogError(
            f"the profile {path} does not fit the model: found {len(found)} tables with the rows {found[:40]}, "
            f"expected {schema.describe_tables()}; take it anew from the training log."
        )
