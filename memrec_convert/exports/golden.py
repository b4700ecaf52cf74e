"""Samples with their known answers, which travel with every export and show that it computes what the model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.artifact.metadata import digest_tensor
from memrec_convert.choices import Inputs
from memrec_convert.encoding.index import list_ids
from memrec_convert.errors import ExportError
from memrec_convert.lookup import CompressedTable
from memrec_convert.models.network import read_single_valued, read_table_inputs

SAMPLES = 64
TOLERANCE = 1e-5
"""Of max(1, |logit|): other runtimes add the terms of a matrix product in another order."""
ROUNDING = 2.0**-23
"""Of the largest logit, on top: what a sum of terms of that size is rounded by, where it cancels out."""
_SEED = 64
_LARGEST_BAG = 3
_FAR = 1 << 40


UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What samples raise that are none."""


@dataclass(frozen=True)
class Golden:
    """64 samples: what goes in, by the names of an export's inputs, and what `load(compute="fp32")` answers.

    feeds    arrays: `dense` float32 [64, n]; `ids` int64 [64, inputs], or for bags per input N `ids_N` int64 [n],
             `offsets_N` int64 [64] and `weights_N` float32 [n]
    logits   float32 [64]; None for tables without a network
    digests  of tables without a network: per output `rows_N` the digest of its float32 [64, dim]
    """

    feeds: Mapping[str, np.ndarray]
    logits: np.ndarray | None
    digests: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values; float32 as the shortest decimal that reads back as the same number."""
        feeds = {name: _to_plain(value) for name, value in self.feeds.items()}
        logits = None if self.logits is None else _to_plain(self.logits)
        return {"feeds": feeds, "logits": logits, "digests": dict(self.digests)}

    def compare(self, outputs: Mapping[str, np.ndarray], where: str) -> float:
        """The largest difference of `logit` in units of max(1, |logit|); ExportError beyond TOLERANCE and ROUNDING.

        Tables without a network must agree to the bit; the difference is then 0.
        """
        lacking = [name for name in (self.digests or {"logit": ""}) if name not in outputs]
        if lacking:
            raise ExportError(f"{where} has no output {lacking[0]}; export the artifact again.")
        for name, digest in self.digests.items():
            if digest_rows(torch.from_numpy(outputs[name])) != digest:
                raise ExportError(f"{where}: its {name} differ from those of the artifact; export it again.")
        if self.logits is None:
            return 0.0
        expected, found = self.logits.astype(np.float64), outputs["logit"].astype(np.float64)
        if found.shape != expected.shape:
            raise ExportError(f"{where} answers {len(expected)} samples with {found.size} logits; export it again.")
        scale = np.maximum(1, np.abs(expected))
        apart = np.abs(found - expected) / scale
        allowed = TOLERANCE + ROUNDING * np.abs(expected).max() / scale
        worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart / allowed)))
        if not apart[worst] <= allowed[worst]:
            raise ExportError(
                f"{where}: sample {worst} gives the logit {found[worst]:.7g}, expected {expected[worst]:.7g}; this "
                "runtime computes another model; export it again, or use another version of the runtime."
            )
        return float(apart.max())


def golden_from_json(plain: Mapping[str, Any]) -> Golden:
    """The samples that `Golden.to_json` gave; one of UNREADABLE where these are none."""
    feeds = {
        str(name): np.array(value, dtype=np.int64 if str(name).startswith(("ids", "offsets")) else np.float32)
        for name, value in plain["feeds"].items()
    }
    logits = None if plain["logits"] is None else np.array(plain["logits"], dtype=np.float32)
    digests = {str(name): str(digest) for name, digest in plain["digests"].items()}
    if (logits is None) != bool(digests) or (logits is not None and logits.shape != (SAMPLES,)):
        raise ValueError(f"{SAMPLES} logits were expected, or digests of rows")
    return Golden(feeds, logits, digests)


def make_golden(model: nn.Module, architecture: Mapping[str, Any], inputs: Inputs, *, samples: int = SAMPLES) -> Golden:
    """Seeded samples for a loaded model: ids of every level and form, and outside the tables where `oov` allows that.

    `inputs` decides between one id per input and bags of up to three. Dense values are as the model takes them, already
    transformed. ExportError where a logit is not finite.
    """
    draw = np.random.default_rng(_SEED)
    tables: Any = model.tables
    if architecture["name"] == "tables":
        feeds = {f"ids_{n}": _draw_ids(draw, [table], samples) for n, table in enumerate(tables)}
        with torch.inference_mode():
            rows = {f"rows_{n}": table(torch.from_numpy(feeds[f"ids_{n}"])) for n, table in enumerate(tables)}
        return Golden(feeds, None, {name: digest_rows(found) for name, found in rows.items()})
    feeds = {"dense": draw.uniform(0, 3, (samples, architecture["bottom"][0])).astype(np.float32)}
    fed = _group_tables(architecture, tables)
    single = find_single_inputs(architecture)
    if inputs == "ids":
        feeds["ids"] = np.stack([_draw_ids(draw, own, samples) for own in fed], axis=1)
    else:
        for number, own in enumerate(fed):
            sizes = np.ones(samples, np.int64) if number in single else draw.integers(0, _LARGEST_BAG + 1, samples)
            feeds[f"ids_{number}"] = _draw_ids(draw, own, int(sizes.sum()))
            if number not in single:
                feeds[f"offsets_{number}"] = np.cumsum([0, *sizes[:-1]])
                if inputs == "weighted-bags":
                    feeds[f"weights_{number}"] = draw.uniform(0.5, 2, int(sizes.sum())).astype(np.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(feeds["dense"]), read_inputs(feeds, len(fed)))
    if not bool(logits.isfinite().all()):
        raise ExportError(
            "the model gives logits that are no finite numbers, which prove nothing; check its dense part."
        )
    return Golden(feeds, logits.numpy(), {})


def read_inputs(feeds: Mapping[str, np.ndarray], count: int) -> Tensor | list[tuple[Tensor, Tensor, Tensor | None]]:
    """The second argument of a network's forward, from arrays by the names of an export's inputs."""
    if "ids" in feeds:
        return torch.from_numpy(feeds["ids"])
    bags = []
    for number in range(count):
        ids = torch.from_numpy(feeds[f"ids_{number}"])
        offsets, weights = feeds.get(f"offsets_{number}"), feeds.get(f"weights_{number}")
        starts = torch.arange(len(ids)) if offsets is None else torch.from_numpy(offsets)
        bags.append((ids, starts, None if weights is None else torch.from_numpy(weights)))
    return bags


def find_single_inputs(architecture: Mapping[str, Any]) -> frozenset[int]:
    """The inputs that feed a table which takes exactly one id per sample: they come without offsets."""
    if architecture["name"] == "sample-pooled":
        return frozenset()
    count = len(architecture["tables"])
    feeds = read_table_inputs(architecture, count)
    return frozenset(feeds[number] for number in read_single_valued(architecture, count))


def digest_rows(rows: Tensor) -> str:
    """The digest of float32 rows, as an artifact takes that of a tensor."""
    return digest_tensor(rows.contiguous())


def _group_tables(architecture: Mapping[str, Any], tables: Sequence[CompressedTable]) -> list[list[CompressedTable]]:
    """Per input the tables that it feeds; a sample-pooled model has inputs and no tables."""
    feeds = read_table_inputs(architecture, len(architecture["tables"]))
    fed: list[list[CompressedTable]] = [[] for _ in range(max(feeds) + 1)]
    for table, feed in zip(tables, feeds, strict=False):
        fed[feed].append(table)
    return fed


def _draw_ids(draw: np.random.Generator, tables: Sequence[CompressedTable], count: int) -> np.ndarray:
    """Ids int64 [count] that these tables take: from the whole table, from its levels, and from outside."""
    strict = [table.spec.rows for table in tables if table.oov == "error"]
    rows = min(strict) if strict else max((table.spec.rows for table in tables), default=1000)
    ids = draw.integers(0, rows, count)
    kind = draw.random(count)
    hot = [
        list_ids(level.index, table.get_buffer(f"level{number}_index")).numpy()
        for table in tables
        for number, level in enumerate(table.spec.levels)
    ]
    if hot and len(inside := (joined := np.concatenate(hot))[joined < rows]):
        ids = np.where(kind < 0.4, inside[draw.integers(0, len(inside), count)], ids)
    if not strict:
        outside = np.stack([-1 - ids, rows + ids, -_FAR - ids, _FAR + ids])[draw.integers(0, 4, count), range(count)]
        ids = np.where(kind > 0.8, outside, ids)
    return ids


def _to_plain(value: np.ndarray) -> Any:  # noqa: ANN401 - nested lists of numbers
    if value.ndim > 1:
        return [_to_plain(row) for row in value]
    return value.tolist() if value.dtype == np.int64 else [float(str(number)) for number in value]
