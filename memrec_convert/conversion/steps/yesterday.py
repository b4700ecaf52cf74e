"""The artifact that a conversion starts from in place of nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.reader import build_modules, check_table, read_artifact
from memrec_convert.conversion.inputs.subject import Subject, TableSite
from memrec_convert.distill.columns import slices
from memrec_convert.distill.survey import Distances, Survey, measure_distances
from memrec_convert.kernels.encoder import is_identity
from memrec_convert.lookup import CompressedModule


@dataclass(frozen=True)
class Yesterday:
    """An artifact of the same network from an earlier day: its tables by name, filled, and what it says of itself.

    row_map: a file that tells which rows have another number today
    """

    path: Path
    metadata: Metadata
    tables: Mapping[str, CompressedModule]
    row_map: str | Path | None = None

    @property
    def choices(self) -> dict[str, Any]:
        """What a conversion like it takes for granted, where nothing else is asked for."""
        architecture = self.metadata.architecture or {}
        found: dict[str, Any] = {"dense": self.metadata.dense, "seed": self.metadata.seed}
        return found | ({"tables_only": True} if architecture.get("name") == "tables" else {})

    @property
    def centres(self) -> dict[str, Tensor]:
        """The centres of its tables that have codes, float32 [dim]."""
        frames = {name: dict(table.named_buffers()).get("frame") for name, table in self.tables.items()}
        return {name: frame[1:].clone() for name, frame in frames.items() if frame is not None}

    @property
    def budget(self) -> str:
        """The budget as it was asked for."""
        return str(self.metadata.plan.get("budget", "")).strip()


def find_distances(subject: Subject, site: TableSite, survey: Survey, *, workers: int) -> Distances:
    """How far today's rows are from yesterday's centre, the survey's; its values become what they lose there."""
    found = site.distances
    if found is None or not is_identity(survey.metric) or not torch.equal(found.centre, survey.centre):
        shared: dict[str, Any] = {"scratch": subject.scratch, "workers": workers}
        found = measure_distances(site.reader, survey.centre, survey.metric, **shared)
    for part in slices(site.rows):
        survey.values[part] = found.squared[part] * survey.weights[part]
    return found


def read_yesterday(path: str | Path, row_map: str | Path | None = None) -> Yesterday:
    """Reads and checks an artifact; ArtifactError where it is unsound."""
    artifact = read_artifact(path)
    tables = {}
    for name, module in build_modules(artifact, filled=True).items():
        check_table(module, f"{path} > {name}")
        tables[module.name] = module
    return Yesterday(artifact.path, artifact.metadata, tables, row_map)
