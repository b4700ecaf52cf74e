"""Codes of rows and the sums that codebooks are fitted by, from the C++ encoder; from torch where no kernel is built.

The encoder sums in one order on every instruction set and any number of threads, so what it decides has the same bits
everywhere. The reference in torch answers alike; its bits rest on torch's own products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from memrec_convert.kernels import encoder_reference as reference
from memrec_convert.kernels.loading import load_kernel

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def search_codes(
    rows: Tensor,
    books: Sequence[Tensor],
    *,
    centre: Tensor | None = None,
    metric: Tensor | None = None,
    depths: Tensor | None = None,
    beam: int = 1,
) -> tuple[Tensor, Tensor]:
    """Codes uint8 [n, books] whose summed entries come near the rows, and the squared distances float32 [n].

    rows (float32, bfloat16 or float16 [n, dim]) less `centre` (float32 [dim]) times `metric` (float32 [dim, dim]) are
    coded by books (float32 [size, dim] each) that are in the metric. `depths` (int8 [n]) is the number of books for
    each row, all by default; where it is below zero, codes and distance are zero, as codes are beyond a row's depth.
    Each of `beam` partial codes is extended by its two nearest entries; 1 takes the nearest.
    """
    native, metric = load_kernel(), _unless_identity(metric)
    if native is None:
        return reference.search_codes(rows, books, centre=centre, metric=metric, depths=depths, beam=beam)
    codes, squared = torch.empty(len(rows), len(books), dtype=torch.uint8), torch.empty(len(rows))
    own = None if depths is None else depths.to(torch.int8).contiguous()
    _encode(native, rows, books, centre, metric, (_address(own), beam), (codes, squared), each_depth=False)
    return codes, squared


def code_each_depth(
    rows: Tensor, books: Sequence[Tensor], *, centre: Tensor | None = None, metric: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Greedy codes uint8 [n, books] and the squared distances after 0, 1, ... books, float32 [books + 1, n].

    The other arguments are those of `search_codes`.
    """
    native, metric = load_kernel(), _unless_identity(metric)
    if native is None:
        return reference.code_each_depth(rows, books, centre=centre, metric=metric)
    codes = torch.empty(len(rows), len(books), dtype=torch.uint8)
    squared = torch.empty(len(books) + 1, len(rows))
    _encode(native, rows, books, centre, metric, (0, 1), (codes, squared), each_depth=True)
    return codes, squared


def find_paths(values: Tensor, levels: Tensor, *, bits: int) -> tuple[Tensor, Tensor]:
    """The bits of trellis rows and their squared distances, float32 [n]: of all paths the nearest to each row.

    values float32 [n, dim] in units of their rows' scales; levels float32 [2**(bits + 1)], rising. A row's bits are
    `bits` planes of ceil(dim / 8) bytes, uint8 [n, bits * ceil(dim / 8)]; what a path is, section 4.1 of
    docs/artifact.md says.
    """
    native = load_kernel()
    if native is None:
        return reference.find_paths(values, levels, bits=bits)
    (n, dim), own = values.shape, values.contiguous()
    planes = torch.empty(n, bits * ((dim + 7) // 8), dtype=torch.uint8)
    distances = torch.empty(n)
    native.find_paths(own.data_ptr(), n, dim, bits, levels.data_ptr(), planes.data_ptr(), distances.data_ptr())
    return planes, distances


def find_nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of any number of centres (float32 [k, dim]) to each point ([n, dim]): int64 [n] and its squared
    distance, float32 [n].
    """
    native = load_kernel()
    if native is None:
        return reference.find_nearest(points, centres)
    nearest, squared = torch.empty(len(points), dtype=torch.int64), torch.empty(len(points))
    own, held = _readable(points), centres.to(torch.float32).contiguous()
    native.assign_rows(*_rows(own), 0, 0, held.data_ptr(), len(held), nearest.data_ptr(), squared.data_ptr())
    return nearest, squared


def find_means(points: Tensor, weights: Tensor, centres: Tensor, *, moves: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Centres (float32 [k, dim]) after up to `moves` steps to the means of the points nearest to them, and the nearest
    of these to each point (int64 [n]) with its squared distance (float32 [n]).

    points are float32 [n, dim], their weights [n]. A centre that loses all its points moves to the point that
    contributes most. Ends early where no point changes its centre.
    """
    native = load_kernel()
    if native is None:
        return reference.find_means(points, weights, centres, moves=moves)
    own, mass = points.to(torch.float32).contiguous(), weights.to(torch.float32).contiguous()
    held = centres.to(torch.float32).clone(memory_format=torch.contiguous_format)
    nearest, squared = torch.empty(len(points), dtype=torch.int64), torch.empty(len(points))
    native.find_means(
        own.data_ptr(),
        *own.shape,
        mass.data_ptr(),
        held.data_ptr(),
        len(held),
        moves,
        *map(_address, (nearest, squared)),
    )
    return held, (nearest, squared)


def measure_rows(
    rows: Tensor, *, centre: Tensor | None = None, others: Tensor | None = None, metric: Tensor | None = None
) -> tuple[Tensor, float]:
    """The squared length float32 [n] of each row less the centre in the metric; and the largest |entry| before it.

    others: float32 [n, dim], what is subtracted from each row in place of one centre.
    """
    native, metric = load_kernel(), _unless_identity(metric)
    if native is None:
        return reference.measure_rows(rows, centre=centre if others is None else others, metric=metric)
    squared, widest, own, frame = torch.empty(len(rows)), torch.zeros(1), _readable(rows), _held(centre, metric, others)
    native.measure_rows(*_rows(own), *map(_address, frame), squared.data_ptr(), widest.data_ptr())
    return squared, float(widest)


def in_metric(rows: Tensor, metric: Tensor) -> Tensor:
    """rows @ metric (float32 [n, dim]); the rows themselves where the metric is the identity."""
    own = _unless_identity(metric)
    if own is None:
        return rows
    native = load_kernel()
    if native is None or rows.shape[1] != len(own) or own.shape[0] != own.shape[1]:
        return rows @ own
    held, (_, frame) = _readable(rows), _held(None, own)
    points = torch.empty(len(rows), rows.shape[1])
    native.transform_rows(*_rows(held), 0, _address(frame), points.data_ptr())
    return points


def sum_by_nearest(points: Tensor, weights: Tensor, nearest: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Weight float64 [k] and weighted sum float64 [k, dim] of the points (float32 [n, dim]) of each of k centres."""
    native = load_kernel()
    if native is None:
        return reference.sum_by_nearest(points, weights, nearest, k)
    masses, sums = torch.zeros(k, dtype=torch.float64), torch.zeros(k, points.shape[1], dtype=torch.float64)
    own, mass, place = points.contiguous(), weights.contiguous(), nearest.contiguous()
    native.add_by_nearest(
        own.data_ptr(), *own.shape, mass.data_ptr(), place.data_ptr(), masses.data_ptr(), sums.data_ptr()
    )
    return masses, sums


def square_norms(rows: Tensor) -> Tensor:
    """|row|**2 of each row (float32 [n, dim]), float64 [n]; not finite where a row is not. float64 goes by torch."""
    native = load_kernel()
    if native is None or rows.dtype != torch.float32:
        return rows.to(torch.float64).square().sum(dim=1)
    own = rows if rows.stride(1) == 1 else rows.contiguous()
    norms = torch.empty(len(rows), dtype=torch.float64, device="cpu")
    native.square_norms(own.data_ptr(), *own.shape, own.stride(0), norms.data_ptr())
    return norms


def add_to_normal(
    normal: Tensor, right: Tensor, *, rows: Tensor, weights: Tensor, depths: Tensor, codes: Tensor, firsts: Tensor
) -> None:
    """Adds coded rows to normal (float64 [entries, entries], lower triangle) and right (float64 [entries, dim]).

    rows float32 [n, dim], weights float32 [n]; codes uint8 [n, stages] name entries firsts[stage] + code of the stages
    below depths (int8 [n]); firsts int64 [stages + 1].
    """
    native = load_kernel()
    if native is None:
        reference.add_to_normal(normal, right, rows, weights, depths, codes, firsts)
        return
    held = [one.contiguous() for one in (rows, weights, depths, codes)]
    sizes = (*held[0].shape, len(firsts) - 1)
    native.add_to_normal(
        *(one.data_ptr() for one in held), *sizes, firsts.data_ptr(), normal.data_ptr(), right.data_ptr()
    )


def solve_positive(matrix: Tensor, right: Tensor) -> None:
    """Makes `right` (float64 [n, width]) the solution of a positive definite system; both are contiguous.

    Of matrix (float64 [n, n]) the lower triangle is read, and nothing of use is left. ArithmeticError where it is not
    positive definite.
    """
    native = load_kernel()
    if native is None:
        right.copy_(torch.cholesky_solve(right, torch.linalg.cholesky(matrix)))
    elif not native.solve_positive(matrix.data_ptr(), len(matrix), right.data_ptr(), right.shape[1]):
        raise ArithmeticError("the normal equations of the codebooks are not positive definite")


def _encode(
    native: Any,  # noqa: ANN401 - the extension module
    rows: Tensor,
    books: Sequence[Tensor],
    centre: Tensor | None,
    metric: Tensor | None,
    search: tuple[int, int],
    results: tuple[Tensor, Tensor],
    *,
    each_depth: bool,
) -> None:
    own, frame = _readable(rows), _held(centre, metric)
    entries = torch.cat([book.to(torch.float32) for book in books]) if books else torch.zeros(0)
    sizes = torch.tensor([len(book) for book in books], dtype=torch.int32)
    native.encode_rows(
        *_rows(own),
        *map(_address, frame),
        entries.data_ptr(),
        sizes.data_ptr(),
        len(books),
        *search,
        *(one.data_ptr() for one in results),
        int(each_depth),
    )


def is_identity(metric: Tensor) -> bool:
    """Whether a metric (float32 [dim, dim]) changes nothing."""
    return torch.equal(metric, _identity_of(len(metric)))


@lru_cache(maxsize=4)
def _identity_of(dim: int) -> Tensor:
    return torch.eye(dim, device="cpu", dtype=torch.float32)


def _unless_identity(metric: Tensor | None) -> Tensor | None:
    return None if metric is None or is_identity(metric) else metric


def _readable(rows: Tensor) -> Tensor:
    rows = rows.detach() if rows.dtype in _KINDS else rows.detach().to(torch.float32)
    return rows if rows.stride(1) == 1 or not rows.numel() else rows.contiguous()


def _held(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if one is None else one.to(torch.float32).contiguous() for one in tensors]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _rows(rows: Tensor) -> tuple[int, ...]:
    return rows.data_ptr(), _KINDS[rows.dtype], rows.stride(0), *rows.shape
