"""The published form fitted to trained rows: token table M and weight table W by alternating least squares.

Minimises sum_i p_i |alpha_i sum_j M[t_ij] - (T_i - c)|**2 over all hashed ids, with alpha_i = sum_l W[w_il]: M given
alpha and alpha given M are sparse linear problems, solved by conjugate gradients on their normal equations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.rows import RowReader, read_chunks
from memrec_convert.encoding.spec import HashSpec
from memrec_convert.kernels.encoder import measure_rows
from memrec_convert.kernels.hashing import WEIGHT_LANES, hash_ids, token_numbers, weight_positions

ROUNDS = 3
TOKEN_STEPS = 12
WEIGHT_STEPS = 20
_RIDGE = 1e-6


@dataclass(frozen=True)
class HashedTable:
    """One table of a hashed group: its rows, seed, centre (float32 [dim]) and row weights p (float32 [rows]).

    ids: int64 [rows], of which ids the rows are where they are some of a table's. metric: float32 [dim, dim], in
    which distances are measured after the fit; the plain one where it is None.
    """

    reader: RowReader
    seed: int
    centre: Tensor
    weights: np.ndarray
    ids: np.ndarray | None = None
    metric: Tensor | None = None


@dataclass(frozen=True)
class HashedFit:
    """The tensors of a group (as HashSpec.tensors names them), and per table the squared distance of each row."""

    tensors: dict[str, Tensor]
    distances: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Chunk:
    tokens: Tensor
    weights_at: Tensor
    target: Tensor
    mass: Tensor


def fit_hashed(spec: HashSpec, tables: Sequence[HashedTable]) -> HashedFit:
    """Fits M and W of one group, then rounds M to its fixed point and refits W to the rounded M."""
    chunks = [chunk for table in tables for chunk in _prepare(spec, table)]
    tokens = torch.zeros(spec.rows, spec.dim)
    weights = torch.full((max(1, spec.blocks) * WEIGHT_LANES,), 1.0 / max(1, spec.k_weights))
    for _ in range(ROUNDS if spec.k_weights else 1):
        tokens = _solve_tokens(chunks, tokens, weights, spec)
        weights = _solve_weights(chunks, tokens, weights, spec)
    tensors = {"tokens": tokens, "scale": torch.ones(1)}
    if spec.token_codec == "int8":
        scale = float(np.float32(max(float(_near_largest(tokens)) / 127, 1e-30)))
        tensors["tokens"] = (tokens / scale).round_().clamp_(-127, 127).to(torch.int8)
        tensors["scale"] = torch.tensor([scale])
        tokens = tensors["tokens"].to(torch.float32) * scale
        weights = _solve_weights(chunks, tokens, weights, spec)
    if spec.k_weights:
        tensors["weights"] = weights.to(torch.float16)
        weights = tensors["weights"].to(torch.float32)
    return HashedFit(tensors, tuple(_measure(spec, table, tokens, weights) for table in tables))


def _prepare(spec: HashSpec, table: HashedTable) -> Iterator[_Chunk]:
    for start, rows in read_chunks(table.reader):
        stop = start + len(rows)
        ids = torch.arange(start, stop) if table.ids is None else torch.from_numpy(table.ids[start:stop])
        h1, h2 = hash_ids(ids, table.seed)
        lanes = weight_positions(h1, h2, k=spec.k_weights, blocks=max(1, spec.blocks))
        mass = torch.from_numpy(table.weights[start : start + len(rows)])
        yield _Chunk(token_numbers(h1, h2, k=spec.k, rows=spec.rows), lanes, rows - table.centre, mass)


def _alpha(chunk: _Chunk, weights: Tensor, spec: HashSpec) -> Tensor:
    return weights[chunk.weights_at].sum(dim=1) if spec.k_weights else torch.ones(len(chunk.mass))


def _solve_tokens(chunks: Sequence[_Chunk], start: Tensor, weights: Tensor, spec: HashSpec) -> Tensor:
    alphas = [_alpha(chunk, weights, spec) for chunk in chunks]

    def gather_back(make: Callable[[_Chunk, Tensor], Tensor]) -> Tensor:
        total = torch.zeros_like(start)
        for chunk, alpha in zip(chunks, alphas, strict=True):
            rows = make(chunk, alpha) * (chunk.mass * alpha).unsqueeze(1)
            for stage in range(spec.k):
                total.index_add_(0, chunk.tokens[:, stage], rows)
        return total

    def normal(tokens: Tensor) -> Tensor:
        return gather_back(lambda chunk, alpha: tokens[chunk.tokens].sum(dim=1) * alpha.unsqueeze(1))

    diagonal = torch.zeros(len(start), 1)
    for chunk, alpha in zip(chunks, alphas, strict=True):
        for stage in range(spec.k):
            diagonal.index_add_(0, chunk.tokens[:, stage], (chunk.mass * alpha.square()).unsqueeze(1))
    right = gather_back(lambda chunk, _: chunk.target)
    return _conjugate_gradients(normal, right, start, diagonal=diagonal, steps=TOKEN_STEPS)


def _solve_weights(chunks: Sequence[_Chunk], tokens: Tensor, start: Tensor, spec: HashSpec) -> Tensor:
    if not spec.k_weights:
        return start
    sums = [tokens[chunk.tokens].sum(dim=1) for chunk in chunks]
    squares = [chunk.mass * total.square().sum(dim=1) for chunk, total in zip(chunks, sums, strict=True)]
    products = [chunk.mass * (total * chunk.target).sum(dim=1) for chunk, total in zip(chunks, sums, strict=True)]

    def scatter(values: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(start)
        for chunk, value in zip(chunks, values, strict=True):
            for lane in range(spec.k_weights):
                total.index_add_(0, chunk.weights_at[:, lane], value)
        return total

    def normal(weights: Tensor) -> Tensor:
        return scatter([square * _alpha(chunk, weights, spec) for chunk, square in zip(chunks, squares, strict=True)])

    return _conjugate_gradients(normal, scatter(products), start, diagonal=scatter(squares), steps=WEIGHT_STEPS)


def _conjugate_gradients(
    normal: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, *, diagonal: Tensor, steps: int
) -> Tensor:
    """Solves normal(x) = right column by column from `start`; a small ridge keeps entries that no row names.

    Residuals are divided by the diagonal, so that rare entries converge as fast as frequent ones (and k = 1 at once).
    """
    ridge = _RIDGE * float(diagonal.mean()) + 1e-20
    inverse = 1 / (diagonal + ridge)
    solution = start.clone()
    rest = right - normal(solution)
    scaled = rest * inverse
    direction, energy = scaled, (rest * scaled).sum(dim=0)
    for _ in range(steps):
        image = normal(direction) + ridge * direction
        step = energy / (direction * image).sum(dim=0).clamp(min=1e-30)
        solution = solution + step * direction
        rest = rest - step * image
        scaled = rest * inverse
        energy_now = (rest * scaled).sum(dim=0)
        direction = scaled + (energy_now / energy.clamp(min=1e-30)) * direction
        energy = energy_now
    return solution


def _near_largest(tokens: Tensor) -> Tensor:
    """The 99.99th percentile of |entry|: a single outlier must not coarsen all the others."""
    magnitudes = tokens.abs().reshape(-1)
    return magnitudes.kthvalue(max(1, int(0.9999 * magnitudes.numel()))).values


def _measure(spec: HashSpec, table: HashedTable, tokens: Tensor, weights: Tensor) -> np.ndarray:
    parts = []
    for chunk in _prepare(spec, table):
        found = tokens[chunk.tokens].sum(dim=1) * _alpha(chunk, weights, spec).unsqueeze(1)
        rest = found - chunk.target
        parts.append(measure_rows(rest, metric=table.metric)[0].numpy())
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)  # all ids may have codes of their own
