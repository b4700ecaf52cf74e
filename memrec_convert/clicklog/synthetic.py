"""A synthetic click log whose labels follow a known model, so that large tables really matter.

Ids are Zipf-distributed and scattered by a random permutation (their order carries no information). Every id has a
latent vector u and an effect b, both normal. A sample's logit is

    bias + sum over tables of b + sum over pairs of tables of w_fg * (u_f . u_g) + sum of c_j * x_j + noise

with x_j the standardised logarithm of the dense value, each of the sums scaled to the standard deviation of its field
in `SyntheticSpec`. Labels are drawn from the sigmoid of the logit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memrec_convert.errors import OutputError
from memrec_convert.safe_files import write_file

_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True)
class SyntheticSpec:
    """What to generate; equal specs give equal files.

    `tables`: rows per table; `dense`: dense inputs; `train_rows`, `val_rows`, `test_rows`; `zipf`: exponent of the
    ids' frequencies; `latent`: width of the latent vectors; `id_effect`, `interaction`, `dense_effect`, `noise`:
    standard deviations, in logits, of the terms of the label model; `bias`: its constant.
    """

    tables: tuple[int, ...] = (200_000, 80_000, 40_000, 1_000, 300, 50, 12)
    dense: int = 4
    train_rows: int = 1_200_000
    val_rows: int = 100_000
    test_rows: int = 100_000
    zipf: float = 1.05
    latent: int = 4
    id_effect: float = 1.0
    interaction: float = 1.0
    dense_effect: float = 0.4
    noise: float = 0.3
    bias: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class SyntheticLog:
    """The files of a synthetic log: three parquet files (label, I1.., C1..) and meta.json."""

    train: Path
    val: Path
    test: Path
    meta: Path


@dataclass(frozen=True)
class _LabelModel:
    """The drawn parameters, per table: cumulative frequency by rank, rank -> id, latent vectors and effects by rank."""

    cumulative: tuple[np.ndarray, ...]
    ids: tuple[np.ndarray, ...]
    latents: tuple[np.ndarray, ...]
    effects: tuple[np.ndarray, ...]
    pair_weights: np.ndarray
    dense_weights: np.ndarray


def write_synthetic_log(spec: SyntheticSpec, folder: str | Path) -> SyntheticLog:
    """Generate the log into train.parquet, val.parquet, test.parquet and meta.json; OutputError on errors."""
    folder = Path(folder)
    log = SyntheticLog(*(folder / name for name in ("train.parquet", "val.parquet", "test.parquet", "meta.json")))
    model = _draw_model(spec)
    rates = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the synthetic log to {folder}: {error}; check path and space.") from error
    for split, (path, rows) in enumerate(
        ((log.train, spec.train_rows), (log.val, spec.val_rows), (log.test, spec.test_rows))
    ):
        rates[path.stem] = _write_split(path, _make_chunks(model, spec, split=split, rows=rows))
    write_file(log.meta, [(json.dumps(_describe_log(spec, rates), indent=1) + "\n").encode()])
    return log


def _draw_model(spec: SyntheticSpec) -> _LabelModel:
    cumulative, ids, latents, effects = [], [], [], []
    for table, rows in enumerate(spec.tables):
        generator = np.random.default_rng([spec.seed, 0, table])
        weights = np.arange(1, rows + 1, dtype=np.float64) ** -spec.zipf
        cumulative.append(np.cumsum(weights / weights.sum()))
        ids.append(generator.permutation(rows).astype(np.int32))
        latents.append(generator.standard_normal((rows, spec.latent), dtype=np.float32))
        effects.append(generator.standard_normal(rows, dtype=np.float32))
    generator = np.random.default_rng([spec.seed, 1])
    pairs = list(combinations(range(len(spec.tables)), 2))
    pair_weights = _scale(generator.standard_normal(len(pairs)), spec.interaction / np.sqrt(spec.latent))
    dense_weights = _scale(generator.standard_normal(spec.dense), spec.dense_effect)
    return _LabelModel(tuple(cumulative), tuple(ids), tuple(latents), tuple(effects), pair_weights, dense_weights)


def _scale(weights: np.ndarray, norm: float) -> np.ndarray:
    """Weights of independent unit-variance terms, so that their sum has the standard deviation `norm`."""
    length = float(np.linalg.norm(weights))
    return (weights * (norm / length if length else 0.0)).astype(np.float32)


def _make_chunks(model: _LabelModel, spec: SyntheticSpec, *, split: int, rows: int) -> Iterator[pa.RecordBatch]:
    for chunk, start in enumerate(range(0, rows, _CHUNK_ROWS)):
        generator = np.random.default_rng([spec.seed, 2 + split, chunk])
        yield _make_chunk(model, spec, generator, min(_CHUNK_ROWS, rows - start))


def _make_chunk(model: _LabelModel, spec: SyntheticSpec, generator: np.random.Generator, rows: int) -> pa.RecordBatch:
    ranks = [
        np.minimum(np.searchsorted(cumulative, generator.random(rows)), len(cumulative) - 1)
        for cumulative in model.cumulative
    ]
    normal = generator.standard_normal((spec.dense, rows), dtype=np.float32)
    logits = np.full(rows, spec.bias, dtype=np.float32) + model.dense_weights @ normal
    logits += np.float32(spec.noise) * generator.standard_normal(rows, dtype=np.float32)
    effect_scale = np.float32(spec.id_effect / np.sqrt(max(1, len(ranks))))
    for effects, rank in zip(model.effects, ranks, strict=True):
        logits += effect_scale * effects[rank]
    vectors = [latents[rank] for latents, rank in zip(model.latents, ranks, strict=True)]
    for weight, (first, second) in zip(model.pair_weights, combinations(vectors, 2), strict=True):
        logits += weight * np.einsum("ij,ij->i", first, second)
    labels = generator.random(rows, dtype=np.float32) < 1 / (1 + np.exp(-logits))
    columns = {"label": labels.astype(np.int8)}
    # Whole numbers above zero whose log(1 + x) is close to normal, as counts in a log are.
    columns |= {f"I{j + 1}": np.floor(np.exp(2 + values)).astype(np.float32) for j, values in enumerate(normal)}
    columns |= {f"C{i + 1}": ids[rank] for i, (ids, rank) in enumerate(zip(model.ids, ranks, strict=True))}
    return pa.RecordBatch.from_pydict(columns)


class _Passing(io.RawIOBase):
    """What a writer has written since it was last asked for; the place in the file goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []
        self.position = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self.position

    def write(self, data: Any) -> int:  # noqa: ANN401 - anything with a buffer
        """Keeps a copy."""
        self.parts.append(bytes(data))
        self.position += len(self.parts[-1])
        return len(self.parts[-1])

    def take(self) -> Iterator[bytes]:
        """What has come since, each part once."""
        parts, self.parts = self.parts, []
        yield from parts


def _write_split(path: Path, chunks: Iterator[pa.RecordBatch]) -> float:
    """Write one file, complete or not at all, a chunk in memory at a time; the share of positive labels."""
    counted = [0, 0]

    def encode() -> Iterator[bytes]:
        first, passing = next(chunks), _Passing()
        with pq.ParquetWriter(passing, first.schema, compression="zstd") as writer:
            for chunk in chain([first], chunks):
                writer.write_batch(chunk, row_group_size=_CHUNK_ROWS)
                counted[0] += int(np.count_nonzero(chunk["label"].to_numpy()))
                counted[1] += chunk.num_rows
                yield from passing.take()
        yield from passing.take()

    write_file(path, encode())
    return counted[0] / counted[1]


def _describe_log(spec: SyntheticSpec, rates: dict[str, float]) -> dict[str, object]:
    return {
        "dataset": "synthetic",
        "seed": spec.seed,
        "cardinalities": list(spec.tables),
        "rows": {"train": spec.train_rows, "val": spec.val_rows, "test": spec.test_rows},
        "positive_rate": rates,
        "spec": asdict(spec),
    }
