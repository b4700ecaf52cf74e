"""`verify`: whether an artifact holds what it says, and on request how far its rows are from their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memrec_convert.artifact.reader import Artifact, build_modules, check_architecture, check_table, read_artifact
from memrec_convert.artifact.reader import check_digests as check_digests
from memrec_convert.artifact.verification import check_disjoint, check_header
from memrec_convert.checkpoint import SourceModel, read_facts, read_source
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.distill.rows import read_chunks
from memrec_convert.errors import ArtifactError
from memrec_convert.lookup import CompressedModule
from memrec_convert.results import Result


@dataclass(frozen=True)
class Verified(Result):
    """A sound artifact: its bytes, how many tensors and tables it holds, and how its rows compare with a source's.

    `against` is {"path", "tables": [{"name", "relative_error"}]}, None where no source was given.
    """

    path: str
    bytes: int
    tensors: int
    tables: int
    against: Mapping[str, Any] | None = None


@plain_torch()
def verify(path: str | Path, *, against: str | Path | None = None) -> Verified:
    """Checks an artifact from its first byte to its last; ArtifactError at the first thing that is wrong.

    Every byte of the header, the size, a digest of every tensor, the shapes that the descriptions of the tables and of
    a known network demand, and every index. `against` also decodes every row and compares it with the source's: per
    table the relative error, and for kept fp32 tables equality.
    """
    artifact = read_artifact(path)
    check_header(artifact)
    modules = build_modules(artifact, filled=True)
    for name, module in modules.items():
        check_table(module, f"{path} > {name}")
        check_disjoint(module, f"{path} > {name}")
    if artifact.metadata.architecture is not None:
        check_architecture(artifact, artifact.metadata.architecture, modules)
    compared = None
    if against is not None:
        architecture = artifact.metadata.architecture or {}
        tables_only = architecture.get("name") == "tables"
        source = read_source(against, facts=read_facts(architecture), tables_only=tables_only)
        compared = {"path": str(against), "tables": _compare_rows(artifact, modules, source)}
    return Verified(str(path), artifact.nbytes, len(artifact.tensors), len(modules), compared)


def _compare_rows(
    artifact: Artifact, modules: dict[str, CompressedModule], source: SourceModel
) -> list[dict[str, Any]]:
    found = []
    for number, table in enumerate(source.tables):
        module = modules.get(f"tables.{number}")
        if module is None or (module.spec.rows, module.spec.dim) != (table.rows, table.dim):
            raise ArtifactError(
                f"{artifact.path} was not made from {source.path}: it has no table of {table.rows} x {table.dim} in "
                f"the place of {table.name}."
            )
        error, energy = 0.0, 0.0
        for start, rows in read_chunks(table.weight):
            with torch.no_grad():
                decoded = module.lookup(torch.arange(start, start + len(rows)))
            error += float((decoded - rows).to(torch.float64).square().sum())
            energy += float(rows.to(torch.float64).square().sum())
        if module.spec.form == "kept" and module.spec.codec == "fp32" and error:
            raise ArtifactError(
                f"{artifact.path} > tables.{number}: kept at fp32, and its rows differ from {source.path}."
            )
        found.append({"name": table.name, "relative_error": (error / energy) ** 0.5 if energy else 0.0})
    return found
