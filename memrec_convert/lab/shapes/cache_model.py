"""A set-associative cache with LRU replacement, simulated for all sets at once, and the embedding stage's accesses.

Sets do not influence each other, so the n-th access of every set is made in one vector step. Of every eight sets one is
simulated (set sampling): rows of 512 bytes are eight lines, one in each, so the sample has all rows exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memrec_convert.lab.shapes.zipf import classify_ranks

LINE_BYTES = 64
SAMPLED = 8
"""One in so many sets is simulated."""
_SPREAD = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Cache:
    """A cache of `nbytes` in lines of 64 bytes, `ways` to a set; sets are rounded to what the sampling can divide."""

    nbytes: int
    ways: int = 16

    @property
    def sets(self) -> int:
        """Sets that are simulated."""
        return max(1, self.nbytes // (LINE_BYTES * self.ways * SAMPLED))


def count_misses(cache: Cache, lines: np.ndarray, *, counted_from: int = 0) -> int:
    """Misses among `lines` (sampled line numbers, in order of access), those before `counted_from` left out.

    Exact LRU per set: a line is hit where fewer than `ways` others of its set were accessed since.
    """
    places = lines % cache.sets
    order = np.argsort(places, kind="stable")
    sorted_places, tags = places[order], lines[order]
    turn = np.arange(len(lines)) - np.searchsorted(sorted_places, sorted_places)  # the how-manieth access of its set
    by_turn = np.argsort(turn, kind="stable")
    stops = np.cumsum(np.bincount(turn)) if len(lines) else np.zeros(0, dtype=np.int64)
    held = np.full((cache.sets, cache.ways), -1, dtype=np.int64)
    used = np.zeros((cache.sets, cache.ways), dtype=np.int32)
    misses, start = 0, 0
    for step, stop in enumerate(stops, start=1):
        now = by_turn[start:stop]
        rows, wanted = sorted_places[now], tags[now]
        hits = held[rows] == wanted[:, None]
        hit = hits.any(axis=1)
        way = np.where(hit, hits.argmax(axis=1), used[rows].argmin(axis=1))
        held[rows, way], used[rows, way] = wanted, step
        misses += int((~hit & (order[now] >= counted_from)).sum())
        start = stop
    return misses


def draw_ids(rows: Sequence[int], samples: int, *, zipf: float, generator: np.random.Generator) -> np.ndarray:
    """Ids int64 [samples, tables] by Zipf's law, ranks scattered over the rows."""
    columns = []
    for count in rows:
        classes = classify_ranks(count, zipf)
        ends = np.cumsum(classes.rows)
        chosen = np.searchsorted(np.cumsum(classes.lookups), generator.random(samples)).clip(max=len(ends) - 1)
        rank = ends[chosen] - 1 - (generator.random(samples) * classes.rows[chosen]).astype(np.int64)
        step = _coprime(count)
        columns.append((rank * step + count // 3) % count)
    return np.stack(columns, axis=1)


def _coprime(count: int) -> int:
    """A step that visits every one of `count` places before it returns."""
    step = int(count * 0.6180339887) | 1
    while math.gcd(step, count) != 1:
        step += 2
    return step


def trace_tables(ids: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Sampled lines of a gather from the full tables, sample by sample: each row's first line, numbered by row."""
    starts = np.concatenate([[0], np.cumsum(rows)[:-1]])
    lines: np.ndarray = (ids + starts).reshape(-1)
    return lines


def trace_pooled(ids: np.ndarray, *, d: int, d_weights: int, k: int, k_weights: int) -> np.ndarray:
    """Sampled lines of MEM-REC's two tables: k token rows a lookup, and its weights in sampled sets.

    Lines of the token table are numbered from 0, those of the weight table behind them.
    """
    keys = (ids.astype(np.uint64) + np.arange(ids.shape[1], dtype=np.uint64) * np.uint64(430_000_000)).reshape(-1)
    tokens = np.stack([_hash(keys, seed) % np.uint64(d) for seed in range(k)], axis=1).astype(np.int64)
    per_line = LINE_BYTES // 4
    weights = [_hash(keys, 1000 + seed) % np.uint64(d_weights) // np.uint64(per_line) for seed in range(k_weights)]
    weight_lines = np.stack(weights, axis=1).astype(np.int64) if weights else np.zeros((len(keys), 0), dtype=np.int64)
    sampled = weight_lines % SAMPLED == 0
    joined = np.concatenate([tokens, np.where(sampled, d + weight_lines // SAMPLED, -1)], axis=1).reshape(-1)
    return joined[joined >= 0]


def _hash(keys: np.ndarray, seed: int) -> np.ndarray:
    """A finaliser of 64 bits (splitmix), its upper half."""
    mixed = keys + np.uint64((seed + 1) * _SPREAD % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    upper: np.ndarray = (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32)
    return upper
