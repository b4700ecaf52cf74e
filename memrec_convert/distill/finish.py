"""All rows of a table coded with the stages that the plan chose, and what each row then loses at each of its levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.curves import codec_distance
from memrec_convert.distill.rows import RowReader, chunk_bounds
from memrec_convert.distill.stages import Stage, encode_rows
from memrec_convert.distill.survey import Survey
from memrec_convert.parallel import ordered_map


@dataclass(frozen=True)
class CodedTable:
    """codes uint8 [rows, depth]; losses float32 [levels, rows]: weight * |(t - z) A|**2 of each row at each level."""

    stages: tuple[Stage, ...]
    codes: np.ndarray
    losses: np.ndarray


def code_table(
    reader: RowReader, survey: Survey, stages: Sequence[Stage], levels: Sequence[int | str], *, workers: int
) -> CodedTable:
    """Codes every row, in chunks; a level is a depth, or the name of a row codec for stored rows."""
    rows, dim = reader.shape
    codes = np.empty((rows, len(stages)), dtype=np.uint8)
    losses = np.empty((len(levels), rows), dtype=np.float32)

    def code(bounds: tuple[int, int]) -> tuple[tuple[int, int], Tensor, Tensor]:
        chunk = torch.from_numpy(reader.read_rows(*bounds))
        found, distances = encode_rows(chunk, survey.metric, stages, scale=survey.scale, centre=survey.centre)
        wanted = [
            distances[level] if isinstance(level, int) else codec_distance(chunk, survey.metric, level)
            for level in levels
        ]
        return bounds, found, torch.stack(wanted)

    for (start, stop), found, distances in ordered_map(code, chunk_bounds(rows, dim), workers=workers):
        codes[start:stop] = found.numpy()
        losses[:, start:stop] = distances.numpy() * survey.weights[start:stop]
    return CodedTable(tuple(stages), codes, losses)
