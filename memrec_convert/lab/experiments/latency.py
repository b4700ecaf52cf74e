"""Latency per item by batch size, beside the slides' table: the whole model, ids to logits, one thread.

Timed interleaved, medians: the original on its full tables, our plan at a hundredth of them, the published form per
feature at the same bytes, and the sample-pooled model (its numbers do not matter to its speed, so it is not trained).
Hashing is inside the timed part; the slides have it outside, and their machine is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from memrec_convert.bench.timing import time_interleaved
from memrec_convert.lab.experiments.equal_bytes import shrink_with
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab
from memrec_convert.models.sample_pooled import PooledSizes, SamplePooled, pooled_architecture

SLIDES = {
    1: (0.186, 0.327),
    64: (0.004, 0.010),
    128: (0.004, 0.007),
    256: (0.002, 0.005),
    512: (0.002, 0.003),
    1024: (0.001, 0.002),
    16384: (0.001, 0.002),
}
"""Batch -> ms per item on the slides' ICX server: MEM-REC, DLRM."""

RATIO = 100


def _grid(_lab: Lab, quick: bool) -> Grid:
    return {"batch": (1, 64, 1024) if quick else tuple(SLIDES)}


def _run(lab: Lab, cell: Cell, seed: int) -> Row:
    batch = int(cell["batch"])
    dense, ids = _draw_batch(lab, batch)
    models = _make_models(lab, seed)
    contenders = {name: partial(_forward, model, dense, ids) for name, model in models.items()}
    repetitions = 5 if lab.quick else max(7, min(200, 20_000 // batch))
    times = time_interleaved(contenders, repetitions)
    row: Row = {f"{name}_ms": timing.median / batch * 1e3 for name, timing in times.items()}
    row |= {"noisy": any(timing.noisy for timing in times.values())}
    slides = SLIDES.get(batch, (None, None))
    return row | {"slides_memrec_ms": slides[0], "slides_dlrm_ms": slides[1]}


def _forward(model: nn.Module, dense: Tensor, ids: Tensor, _repetition: int) -> None:
    with torch.no_grad():
        model(dense, ids)


def _draw_batch(lab: Lab, rows: int) -> tuple[Tensor, Tensor]:
    """So many samples of the evaluation log, from its start; repeated where it is shorter."""
    assert lab.job.judged is not None
    parts = [(b.dense, b.ids) for b in lab.job.judged.stream(limit=rows) if isinstance(b.ids, Tensor)]
    dense, ids = torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])
    numbers = torch.arange(rows) % len(ids)
    return dense[numbers], ids[numbers]


def _make_models(lab: Lab, seed: int) -> dict[str, nn.Module]:
    def make() -> dict[str, nn.Module]:
        assert lab.subject.architecture is not None
        made = {
            name: shrink_with(lab, method, RATIO, seed).model
            for name, method in (("ours", "auto"), ("hashed", "memrec"))
        }
        width = int(lab.subject.architecture["bottom"][-1])
        sizes = PooledSizes(max(1, lab.subject.table_bytes // RATIO // (4 * width + 4)), width)
        names = [str(number) for number in range(len(lab.subject.sites))]
        pooled = SamplePooled(pooled_architecture(lab.subject.architecture, sizes, input_names=names))
        return {"dlrm": lab.subject.model, **made, "pooled": pooled.eval().requires_grad_(False)}

    models: dict[str, nn.Module] = lab.remember(("models", seed), make)
    return models


def _find(rows: Sequence[Row]) -> str:
    parts = [
        f"{row['batch']}: ours {row['dlrm_ms'] / row['ours_ms']:.2g}x, pooled "
        f"{row['dlrm_ms'] / row['pooled_ms']:.2g}x"
        + (f", slides {row['slides_dlrm_ms'] / row['slides_memrec_ms']:.2g}x" if row["slides_dlrm_ms"] else "")
        for row in rows
    ]
    return f"speed-up over the original by batch: {'; '.join(parts)}"


EXPERIMENT = Experiment(
    "latency", _grid, _run, _find, ChartSpec("batch", "ours_ms", (), log_y=True), limits={"batch": (1, 1 << 20)}
)
