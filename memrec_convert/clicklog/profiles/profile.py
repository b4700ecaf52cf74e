"""Lookup profiles: how often each id of each table occurs in a log, from which files, and what a model feels of it."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Sequence
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
from memrec_convert.parallel import ALONE, Crew, ordered_map
from memrec_convert.safe_files import write_file

FORMAT = "memrec-profile/1"
FORMAT_WITH_SENSITIVITIES = "memrec-profile/2"


@dataclass
class Sensitivity:
    """What a backward pass over a log tells of one table, summed over `lookups`.

    With g the gradient of the logit by a looked-up row and f = 4 p (1 - p) the Fisher weight of its sample, where p is
    the model's click probability: `moment` sums f g g^T (float64 [dim, dim]), `squares` f |g|**2 of each row (float32
    [rows]), `seen` the lookups of each row (int32 [rows]).
    """

    squares: np.ndarray
    seen: np.ndarray
    moment: np.ndarray
    lookups: int = 0


@dataclass(frozen=True)
class Profile:
    """What is known of a training log.

    counts         per table, the lookups of each row (int64 [rows])
    samples        the log's rows
    digest         of its files
    sensitivities  of each table of the network that `model` tells from others; empty where none were measured
    """

    counts: tuple[np.ndarray, ...]
    samples: int
    digest: LogDigest
    sensitivities: tuple[Sensitivity, ...] = ()
    model: str = ""


def take_profile(log: ClickLog, *, workers: int = 1, crew: Crew = ALONE) -> Profile:
    """Count the lookups of a log in one pass; `workers` threads count different tables, to the same result.

    A crew shares the parts of the log, such as the row groups of parquet files. LogError for a log without rows.
    """

    def count(units: Sequence[int]) -> list[np.ndarray]:
        counts = [np.zeros(rows, dtype=np.int64) for _, rows in log.schema.tables]
        samples = np.zeros(1, dtype=np.int64)
        for block in log.blocks_of(units):
            samples += block.rows
            of_table = partial(_count, counts, block)
            deque(ordered_map(of_table, range(len(counts)), workers=workers), maxlen=0)
        return [samples, *counts]

    samples, *counts = crew.count("lookups", count, log.units)
    if not samples[0]:
        raise log.without_rows()
    return Profile(tuple(counts), int(samples[0]), log.digest(crew))


def save_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as .npz, complete or not at all; OutputError where that fails."""
    path = Path(path)
    arrays: dict[str, Any] = {f"counts_{table:04d}": counts for table, counts in enumerate(profile.counts)}
    for table, one in enumerate(profile.sensitivities):
        parts = {"squares": one.squares, "seen": one.seen, "moment": one.moment, "lookups": np.array(one.lookups)}
        arrays |= {f"{part}_{table:04d}": array for part, array in parts.items()}
    if profile.sensitivities:
        arrays["model"] = np.array(profile.model)
    header: dict[str, Any] = {
        "format": np.array(FORMAT_WITH_SENSITIVITIES if profile.sensitivities else FORMAT),
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


def _count(all_counts: Sequence[np.ndarray], block: Block, table: int) -> None:
    counts, ids = all_counts[table], block.table_ids(table)
    # bincount passes over the whole table: only worth it where that is no longer than the ids.
    if len(counts) <= 4 * len(ids):
        counts += np.bincount(ids, minlength=len(counts))
    else:
        np.add.at(counts, ids, 1)


def _parse_profile(path: Path, arrays: dict[str, np.ndarray]) -> Profile:
    found = str(arrays.get("format"))
    known = found in (FORMAT, FORMAT_WITH_SENSITIVITIES)
    if not known or not {"samples", "combined", "files", "names"} <= arrays.keys() or arrays["samples"].size != 1:
        raise LogError(f"the profile {path} is of format {found!r}, expected {FORMAT}; take it anew.")
    counts = tuple(arrays[name] for name in sorted(arrays) if name.startswith("counts_"))
    if any(count.dtype != np.int64 or count.ndim != 1 or (count < 0).any() for count in counts):
        raise LogError(f"the profile {path} holds counts that are not numbers of lookups; take it anew.")
    files, names = (tuple(str(item) for item in np.atleast_1d(arrays[key])) for key in ("files", "names"))
    digest = LogDigest(str(arrays["combined"]), files, names)
    felt, model = _parse_sensitivities(path, arrays), str(arrays.get("model", ""))
    return Profile(counts, int(arrays["samples"].item()), digest, felt, model)


def _parse_sensitivities(path: Path, arrays: dict[str, np.ndarray]) -> tuple[Sensitivity, ...]:
    found = []
    for name in sorted(one for one in arrays if one.startswith("squares_")):
        number = name.removeprefix("squares_")
        parts = [arrays.get(f"{part}_{number}", np.zeros(0)) for part in ("squares", "seen", "moment", "lookups")]
        squares, seen, moment, lookups = parts
        kinds = [str(part.dtype) for part in parts]
        shaped = squares.ndim == 1 and squares.shape == seen.shape and moment.ndim == 2 and lookups.ndim == 0
        if kinds != ["float32", "int32", "float64", "int64"] or not shaped or len({*moment.shape}) != 1:
            raise LogError(f"the profile {path} holds sensitivities in another form than it should; take it anew.")
        if not all(np.isfinite(part).all() for part in parts) or min(part.min(initial=0) for part in parts[:2]) < 0:
            raise LogError(f"the profile {path} holds sensitivities that are no sums of squares; take it anew.")
        found.append(Sensitivity(squares, seen, moment, int(lookups)))
    return tuple(found)


def _check_rows(path: Path, profile: Profile, schema: LogSchema) -> None:
    found, expected = [len(count) for count in profile.counts], [rows for _, rows in schema.tables]
    if found != expected:
        raise LogError(
            f"the profile {path} does not fit the model: found {len(found)} tables with the rows {found[:40]}, "
            f"expected {schema.describe_tables()}; take it anew from the training log."
        )
