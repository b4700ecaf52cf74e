"""Does a file hold what it says? Bytes, digests, ranges, and on request the rows against their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memrec_convert.artifact.layout import build_header
from memrec_convert.artifact.reader import Artifact, build_modules, check_architecture, check_table, read_artifact
from memrec_convert.artifact.reader import check_digests as check_digests
from memrec_convert.checkpoint import SourceModel, read_facts, read_source
from memrec_convert.distill.rows import read_chunks
from memrec_convert.encoding import CompressedModule, count_bytes
from memrec_convert.errors import ArtifactError

ROWS_PER_CHECK = 1 << 18


def verify(path: str | Path, *, against: str | Path | None = None) -> dict[str, Any]:
    """Checks an artifact from its first byte to its last: {"path", "bytes", "tensors", "tables", "against"}.

    Every byte of the header, the size, a digest of every tensor, the shapes that the descriptions of the tables and of
    a known network demand, and every index. `against` also decodes every row and compares it with the source's: per
    table the relative error, and for kept fp32 tables equality. ArtifactError at the first thing that is wrong.
    """
    artifact = read_artifact(path)
    check_header(artifact)
    modules = build_modules(artifact, filled=True)
    for name, module in modules.items():
        check_table(module, f"{path} > {name}")
        check_disjoint(module, f"{path} > {name}")
    if artifact.metadata.architecture is not None:
        check_architecture(artifact, artifact.metadata.architecture, modules)
    result: dict[str, Any] = {
        "path": str(path), "bytes": artifact.nbytes, "tensors": len(artifact.tensors), "tables": len(modules),
        "against": None,
    }  # fmt: skip
    if against is not None:
        source = _read_stated(artifact, against)
        result["against"] = {"path": str(against), "tables": _compare_rows(artifact, modules, source)}
    return result


def _read_stated(artifact: Artifact, against: str | Path) -> SourceModel:
    """The source, read with the facts that were stated when the artifact was made from it."""
    architecture = artifact.metadata.architecture or {}
    return read_source(against, facts=read_facts(architecture), tables_only=architecture.get("name") == "tables")


def check_header(artifact: Artifact) -> None:
    """The header is what its tensors and metadata make, byte for byte, and the file ends where they do."""
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in artifact.tensors.items()}
    header = build_header(shapes, artifact.metadata.to_text())
    try:
        with artifact.path.open("rb") as stream:
            found = stream.read(len(header))
    except OSError as error:
        raise ArtifactError(f"cannot read {artifact.path}: {error.strerror or error}; check the file.") from error
    if found != header:
        raise ArtifactError(
            f"{artifact.path}: its header is not the one that its contents make: it was changed after it was written; "
            "convert the source again."
        )
    expected = len(header) + count_bytes(shapes.values())
    if expected != artifact.nbytes:
        raise ArtifactError(
            f"{artifact.path} has {artifact.nbytes} bytes where its contents make {expected}: it was changed after it "
            "was written; convert the source again."
        )


def check_disjoint(module: CompressedModule, where: str) -> None:
    """No id is in two levels of a table: which of them it takes would depend on the reader."""
    if len(module.spec.levels) < 2:
        return
    for start in range(0, module.spec.rows, ROWS_PER_CHECK):
        first, second = module.locate(torch.arange(start, min(start + ROWS_PER_CHECK, module.spec.rows)))
        both = ((first >= 0) & (second >= 0)).nonzero().flatten()
        if len(both):
            raise ArtifactError(f"{where}: id {start + int(both[0])} is in both levels; convert the source again.")


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
