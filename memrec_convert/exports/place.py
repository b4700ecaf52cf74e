"""What every place has in common: what is handed to it, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from memrec_convert.choices import Inputs
from memrec_convert.exports.golden import Golden
from memrec_convert.results import Result


@dataclass(frozen=True)
class Subject:
    """What is exported: the model of an artifact, in eval mode, and what proves an export of it.

    digest        the `self` of the artifact's metadata, which covers every tensor
    architecture  of its network (docs/artifact.md, section 10)
    inputs        one id per input, or bags
    """

    path: Path
    nbytes: int
    digest: str
    architecture: Mapping[str, Any]
    model: nn.Module
    inputs: Inputs
    golden: Golden


@dataclass(frozen=True)
class Target:
    """Where an export goes; `force` replaces what is there, `web_runtime` is a folder of onnxruntime-web's files."""

    path: Path
    force: bool = False
    web_runtime: Path | None = None


@dataclass(frozen=True)
class Proved(Result):
    """An export that gave its golden samples: the artifact's digest, the runtime, and how far off it was at most.

    `largest_difference` is in units of max(1, |logit|), 0 for tables without a network.
    """

    path: str
    place: str
    bytes: int
    artifact: str
    samples: int
    largest_difference: float
    runtime: str


@dataclass(frozen=True)
class Place:
    """A place to serve from.

    check      OutputError where the target cannot be written
    write      writes the export, whole or not at all; returns its files, the one that a runtime opens first.
               ExportError names a table and its form where the place cannot hold it
    recognise  whether a path is such an export
    prove      runs the golden samples of one; ExportError where it differs, or its runtime is not installed
    """

    check: Callable[[Target], None]
    write: Callable[[Subject, Target], Sequence[Path]]
    recognise: Callable[[Path], bool]
    prove: Callable[[Path], Proved]
