"""Rate curves and files that nobody fitted or wrote, for the planner: it sees numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memrec_convert.encoding import TableSpec, count_bytes
from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.planning.curves import ListCurve, TableCurves

LISTS = ((4, 4, 16, 16, 64, 64), (2, 4, 16, 64, 256))
ROWS = (20_000, 3_000, 700)


def count_file(specs: Sequence[TableSpec]) -> int:
    """Bytes of a file of these tables, shared groups counted once: tensors, an entry for each, a fixed part."""
    groups = {spec.hashing.group: spec.hashing for spec in specs if spec.hashing is not None}
    tensors = [shape for holder in (*specs, *groups.values()) for shape in holder.tensors().values()]
    return 1000 + 120 * len(tensors) + count_bytes(tensors)


def make_curves(
    seed: int, rows: int, *, dim: int = 8, lists: Sequence[tuple[int, ...]] = LISTS, fine: bool = False
) -> TableCurves:
    """A table of a dozen classes, few rows of much value and many of little; on request with the fine codecs."""
    draw = np.random.default_rng(seed)
    class_rows = np.sort(draw.multinomial(rows - 12, draw.dirichlet(np.ones(12))) + 1)
    energy = class_rows * np.sort(10 * draw.exponential(size=12) * 2.0 ** -np.arange(12))[::-1]
    curves = []
    for sizes in lists:
        bits = np.cumsum([0, *(size.bit_length() - 1 for size in sizes)])
        share = np.minimum.accumulate(2.0 ** (-2 * bits / dim * draw.uniform(0.7, 1, len(bits))))
        curves.append(ListCurve(sizes, share[:, None] * energy[None]))
    total = float(energy.sum())
    kept = {"fp32": 0.0, "fp16": total * 1e-8, "bf16": total * 1e-6, "int8": total * 1e-4}
    stored = {"int8": energy * 1e-4}
    if fine:
        stored |= {codec: energy * 0.3 / 4.0**bits for bits, codec in enumerate(FINE_CODECS)}
        kept |= {codec: float(stored[codec].sum()) for codec in FINE_CODECS}
    return TableCurves(f"t{seed}", rows, dim, class_rows, tuple(curves), stored if lists else {}, kept)


def make_tables(seed: int, **choices: Any) -> list[TableCurves]:
    """Three tables of very different sizes; choices as in `make_curves`."""
    return [make_curves(10 * seed + number, rows, **choices) for number, rows in enumerate(ROWS)]
