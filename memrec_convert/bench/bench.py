"""`bench`: an artifact's speed and memory in serving, beside the original it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import Unpack

from memrec_convert.artifact.reader import build_modules, load, read_artifact
from memrec_convert.bench.concurrency import time_load
from memrec_convert.bench.contenders import Contender, converted_contenders, int8_contenders, original_contenders
from memrec_convert.bench.doctor import describe_kernel
from memrec_convert.bench.draws import LogSource, Source, ZipfSource, list_hottest
from memrec_convert.bench.measuring import Row, add_ratios, time_batch
from memrec_convert.bench.serving import measure_serving
from memrec_convert.bench.settings import BATCHES, SECONDS, ZIPF, Settings
from memrec_convert.checkpoint import SourceModel, read_facts
from memrec_convert.choices import Oov
from memrec_convert.conversion.inputs.from_checkpoint import (
    LogChoices,
    make_schema,
    open_batches,
    read_checked,
    read_choices,
)
from memrec_convert.conversion.inputs.preparing import stay_silent
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.measuring.judging import torch_threads
from memrec_convert.conversion.options import LogPaths, ReadingChoices
from memrec_convert.errors import LogError, ModelError, OptionError
from memrec_convert.models import build_original, read_table_inputs
from memrec_convert.report import ArtifactFile
from memrec_convert.results import Result

LOG_BATCH = 4096
MEMORY = Path("/proc/meminfo")
SPARE_BYTES = 512 << 20


@dataclass(frozen=True)
class Served:
    """An artifact as it is served: `tables` in their order (none of a sample-pooled model), the input of each."""

    path: Path
    model: nn.Module
    architecture: Mapping[str, Any]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    tables: tuple[nn.Module, ...]
    inputs: tuple[int, ...]
    oov: str = "error"

    @property
    def dense_inputs(self) -> int | None:
        """Dense values of a sample; None where the network is not known."""
        return int(self.architecture.get("bottom", [0])[0]) if self.architecture else None

    @property
    def input_rows(self) -> list[int]:
        """Rows of the largest table on each input."""
        rows = [0] * (max(self.inputs) + 1)
        for number, (count, _) in zip(self.inputs, self.shapes, strict=True):
            rows[number] = max(rows[number], count)
        return rows


@dataclass(frozen=True)
class Timings(Result):
    """What serving takes: a row per stage ("embedding", and "model" where the network is known), batch and contender.

    `load` has a row per batch, contender and number of threads that call at once. `kernel`, `ids` and `memory` say what
    ran, where ids came from, and the bytes of a serving process.
    """

    artifact: ArtifactFile
    against: str | None
    kernel: Mapping[str, Any]
    threads: int
    ids: Mapping[str, Any]
    tables: int
    memory: Mapping[str, Any]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    load: tuple[Row, ...] = ()


def bench(
    path: str | Path,
    *,
    against: str | Path | None = None,
    data: LogPaths | None = None,
    zipf: float | None = None,
    batch: Sequence[int] = BATCHES,
    threads: int = 1,
    seconds: float = SECONDS,
    oov: Oov | None = None,
    seed: int = 0,
    expand: str | int | None = None,
    concurrency: Sequence[int] = (),
    progress: Progress = stay_silent,
    **reading: Unpack[ReadingChoices],
) -> Timings:
    """Times an artifact, and with `against` the checkpoint it was made from, on the same kind of ids.

    Ids come from the log `data`, read as `ReadingChoices` says, else by Zipf's law. `expand` is that of `load`;
    `concurrency` are numbers of threads that call the whole model at once.
    OptionError for choices that make no sense, ArtifactError for a foreign file, ModelError where the two are not
    of one model or memory is short.
    """
    settings = Settings(tuple(batch), threads, seconds, ZIPF if zipf is None else zipf, seed, tuple(concurrency))
    if data is not None and zipf is not None:
        raise OptionError("--data and --zipf exclude each other: ids come from a log or by Zipf's law; give one.")
    served = open_served(Path(path), expand=expand)
    choices = read_choices(reading, oov=oov or served.oov, facts=read_facts(served.architecture))
    source = None
    if against is not None:
        source = read_checked(against, facts=choices.facts, tables_only=served.architecture.get("name") == "tables")
        refuse_other_model(served, source, Path(against))
    ids = open_ids(served, data, choices, settings)
    with torch_threads(settings.threads):
        contenders = line_up(served, source)
        rows = _time(contenders, ids, served.inputs, settings, progress)
        load = [
            row
            for size in settings.batches
            for callers in settings.concurrency
            for row in time_load(contenders, ids, size, callers, seconds=settings.seconds)
        ]
    progress("serving memory", 0, 1)
    return Timings(
        artifact=ArtifactFile(str(path), served.path.stat().st_size),
        against=None if against is None else str(against),
        kernel=describe_kernel(),
        threads=settings.threads,
        ids=ids.describe(),
        tables=len(served.inputs),
        memory=measure_serving(served.path, max(settings.batches), served.dense_inputs, expand=expand),
        rows=tuple(rows),
        warnings=tuple(warn_of_noise(rows)),
        load=tuple(load),
    )


def _time(
    contenders: Sequence[Contender], ids: Source, inputs: Sequence[int], settings: Settings, progress: Progress
) -> list[Row]:
    rows: list[Row] = []
    for number, batch in enumerate(settings.batches):
        progress("timing", number, len(settings.batches))
        rows += time_batch(contenders, ids, batch, inputs, seconds=settings.seconds)
    add_ratios(rows)
    return rows


def open_served(path: Path, *, expand: str | int | None = None) -> Served:
    """The artifact as it is served; ArtifactError for anything else."""
    artifact = read_artifact(path)
    architecture = artifact.metadata.architecture
    if architecture is None:
        modules = build_modules(artifact, filled=True)
        tables = tuple(dict.fromkeys(modules.values()))
        shapes = tuple((table.spec.rows, table.spec.dim) for table in tables)
        names = tuple(table.name for table in tables)
        kept = nn.ModuleList(tables).eval()
        return Served(path, kept, {}, names, shapes, tables, tuple(range(len(tables))))
    model = load(path, expand=expand)
    shapes = tuple((int(rows), int(dim)) for rows, dim in architecture["tables"])
    own = tuple(model.tables) if isinstance(model.tables, nn.ModuleList) else ()
    plain = [artifact.metadata.modules[f"tables.{number}"] for number in range(len(own))]
    names = tuple(str(one["name"]) for one in plain) or tuple(map(str, range(len(shapes))))
    inputs = read_table_inputs(architecture, len(shapes))
    return Served(path, model, architecture, names, shapes, own, inputs, str(plain[0]["oov"]) if plain else "error")


def refuse_other_model(served: Served, source: SourceModel, against: Path) -> None:
    """ModelError where the artifact was not made from a checkpoint of this form."""
    if not served.architecture:
        raise ModelError(
            f"{served.path} holds a model of its own class, which no checkpoint can be set beside; leave --against out."
        )
    parts = ("tables", "bottom") if served.architecture.get("name") == "sample-pooled" else ("tables", "bottom", "top")
    for part in parts:
        own, other = [json.loads(json.dumps(one.get(part))) for one in (served.architecture, source.architecture)]
        if part == "bottom" and len(parts) == 2 and own and other:
            own, other = own[:1], other[:1]
        if own != other:
            raise ModelError(
                f"{served.path} was not made from {against}: their {part} differ ({_brief(own)}, {_brief(other)}); "
                "give the checkpoint that it was made from."
            )
    needed, free = 5 * sum(rows * dim for rows, dim in served.shapes), read_available()
    if free is not None and needed + SPARE_BYTES > free:
        raise ModelError(
            f"the tables of {against} and their int8 form take {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB "
            "are available; use a larger machine, or leave --against out."
        )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_available(meminfo: Path = MEMORY) -> int | None:
    """Bytes of memory that are free for use; None where the system does not tell."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def open_ids(served: Served, data: LogPaths | None, choices: LogChoices, settings: Settings) -> Source:
    """Where ids come from: the log, or Zipf's law over the tables' rows."""
    if data is not None:
        if not served.architecture:
            raise LogError(
                f"{served.path} holds a model of its own class, whose inputs no log is known to serve; leave --data "
                "out."
            )
        schema = make_schema(served.architecture, served.names, choices)
        return LogSource(open_batches(data, schema, LOG_BATCH), settings.seed)
    hottest = list_hottest(served.tables, served.inputs) if served.tables else {}
    return ZipfSource(
        served.input_rows, exponent=settings.zipf, dense=served.dense_inputs or 0, hottest=hottest, seed=settings.seed
    )


def line_up(served: Served, source: SourceModel | None) -> list[Contender]:
    """Who is timed."""
    contenders = converted_contenders(served.model, served.tables, served.inputs)
    if source is None:
        return contenders
    original = build_original(source, held_bytes=1 << 62)
    tables = [original.get_submodule(f"tables.{number}") for number in range(len(served.inputs))]
    weights = [table.get_parameter("weight").detach() for table in tables]
    contenders += original_contenders(original, tables, served.inputs)
    return contenders + int8_contenders(weights, served.inputs)


def warn_of_noise(rows: Sequence[Row]) -> list[str]:
    """A sentence where repetitions differ too much for figures to be trusted."""
    noisy = sorted({row["batch"] for row in rows if row["noisy"]})
    if not noisy:
        return []
    return [
        f"the machine is too noisy: at batch {', '.join(map(str, noisy))} the slowest tenth of the calls took over one "
        "and a half times the median; end what else is running, and measure again."
    ]
