"""`export`: an artifact for another place, written with what proves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.artifact.reader import load, read_artifact
from memrec_convert.choices import Inputs, PlaceName, values_of
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.errors import ArtifactError, ExportError, OptionError, OutputError
from memrec_convert.exports.golden import make_golden
from memrec_convert.exports.onnx_file import ONNX
from memrec_convert.exports.place import Place, Proved, Subject, Target
from memrec_convert.exports.pt2 import PT2
from memrec_convert.exports.web import WEB
from memrec_convert.results import Result
from memrec_convert.safe_files import as_path

PLACES: Mapping[str, Place] = {"pt2": PT2, "onnx": ONNX, "web": WEB}
"""A place's name -> how it is written, recognised and proved."""


@dataclass(frozen=True)
class Exported(Result):
    """What was written: the place, the path, its bytes in all, and the bytes of each file by its path.

    `artifact` is the digest of the artifact that it was made from, the `self` of its metadata; `artifact_bytes` is that
    file's size.
    """

    place: str
    path: str
    bytes: int
    artifact: str
    artifact_bytes: int
    files: Mapping[str, int]


@plain_torch()
def export(
    path: str | Path,
    *,
    to: PlaceName,
    out: str | Path,
    inputs: Inputs = "ids",
    web_runtime: str | Path | None = None,
    force: bool = False,
) -> Exported:
    """Writes the model of artifact `path` for another place: `onnx` and `pt2` one file, `web` a folder.

    `inputs` says what the export takes: `ids`, one id per input; `bags`, ids and offsets per input; `weighted-bags`,
    a weight per id too. `web_runtime` is a folder with the files of onnxruntime-web, for `web` alone. The export
    carries the artifact's digest and 64 samples with the logits that `load(path, compute="fp32")` gives them.
    ArtifactError for an unsound file, ExportError where the place cannot hold the model, OutputError where nothing can
    be written.
    """
    place, target = _read_options(to, out, inputs, web_runtime, force)
    source = as_path(path, ArtifactError)
    if target.path.exists() and source.exists() and target.path.samefile(source):
        raise OutputError(f"{target.path} is the artifact itself; give the export another name with --out.")
    place.check(target)
    subject = read_subject(source, inputs)
    files = place.write(subject, target)
    sizes = {str(file): file.stat().st_size for file in files}
    return Exported(to, str(target.path), sum(sizes.values()), subject.digest, subject.nbytes, sizes)


def find_place(path: str | Path) -> Place | None:
    """The place that an export was made for; None for anything that is no export."""
    plain = as_path(path, ExportError)
    return next((place for place in PLACES.values() if place.recognise(plain)), None)


def prove(path: str | Path) -> Proved:
    """Runs the golden samples of an export in the runtime of its place and compares the logits.

    ExportError where they differ, where the export is damaged, or where the runtime is not installed.
    """
    place = find_place(path)
    if place is None:
        raise ExportError(f"{path} is no export of this program; expected what `memrec-convert export` wrote.")
    return place.prove(Path(path))


def _read_options(
    to: str, out: str | Path, inputs: str, web_runtime: str | Path | None, force: bool
) -> tuple[Place, Target]:
    """The place and the target; OptionError where an option has no such value or does not go with another."""
    for name, value, known in (("to", to, tuple(PLACES)), ("inputs", inputs, values_of(Inputs))):
        if value not in known:
            raise OptionError(f"{name}: {value!r} is not known; expected one of {', '.join(known)}.")
    if web_runtime is not None and to != "web":
        raise OptionError(f"web_runtime goes with to='web' alone, and the place is {to!r}; leave it out.")
    runtime = None if web_runtime is None else as_path(web_runtime, OptionError)
    return PLACES[to], Target(as_path(out, OutputError), force, runtime)


def read_subject(path: Path, inputs: Inputs) -> Subject:
    """The model of an artifact with its golden samples; ExportError where it has no network or takes no such inputs."""
    found = read_artifact(path)
    architecture, nbytes = found.metadata.architecture, found.nbytes
    del found
    if architecture is None:
        raise ExportError(
            f"{path} holds a model of its own class, whose network no file brings along; export an artifact of a known "
            "network, or of the tables alone (convert with --tables-only)."
        )
    _check_inputs(path, architecture, inputs)
    model = load(path, compute="fp32")  # as every place computes it, from the weights as they are stored
    metadata: Metadata = getattr(model, METADATA_ATTRIBUTE)
    digest = str(json.loads(metadata.to_text())["self"])
    return Subject(path, nbytes, digest, architecture, model, inputs, make_golden(model, architecture, inputs))


def _check_inputs(path: Path, architecture: Mapping[str, Any], inputs: Inputs) -> None:
    """ExportError where the network's tables do not take such bags."""
    if inputs != "ids" and architecture["name"] == "tables":
        raise ExportError(f"{path} holds tables without a network, which take ids and no bags; export with inputs ids.")
    if inputs == "weighted-bags" and architecture.get("pooling", "sum") == "mean":
        raise ExportError(f"{path}: its tables take the mean of a bag, without weights; export with inputs bags.")
