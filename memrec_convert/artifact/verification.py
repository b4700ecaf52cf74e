"""Does a file hold what it says? Bytes, digests, ranges, and on request the rows against their source."""

from __future__ import annotations

import torch

from memrec_convert.artifact.layout import build_header
from memrec_convert.artifact.reader import Artifact
from memrec_convert.artifact.reader import check_digests as check_digests
from memrec_convert.encoding import count_bytes
from memrec_convert.errors import ArtifactError
from memrec_convert.lookup import CompressedModule

ROWS_PER_CHECK = 1 << 18


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
