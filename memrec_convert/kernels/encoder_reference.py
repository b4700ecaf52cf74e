"""The encoder in torch, for installations without a kernel: what each function of `encoder` means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def search_codes(
    rows: Tensor,
    books: Sequence[Tensor],
    *,
    centre: Tensor | None,
    metric: Tensor | None,
    depths: Tensor | None,
    beam: int,
) -> tuple[Tensor, Tensor]:
    """Codes uint8 [n, books] and squared distances float32 [n]; see `encoder.search_codes`."""
    points = _points(rows, centre, metric)
    codes, squared = torch.zeros(len(rows), len(books), dtype=torch.uint8), torch.zeros(len(rows))
    own = torch.full((len(rows),), len(books), dtype=torch.int8) if depths is None else depths
    for depth in range(len(books) + 1):
        members = (own == depth).nonzero().squeeze(1)
        if len(members):
            codes[members, :depth], squared[members] = _search(points[members], books[:depth], beam)
    return codes, squared


def code_each_depth(
    rows: Tensor, books: Sequence[Tensor], *, centre: Tensor | None, metric: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Greedy codes uint8 [n, books] and squared distances float32 [books + 1, n]."""
    rest = _points(rows, centre, metric)
    codes, squared = torch.empty(len(rows), len(books), dtype=torch.uint8), [rest.square().sum(dim=1)]
    for stage, book in enumerate(books):
        nearest, distance = find_nearest(rest, book)
        codes[:, stage] = nearest.to(torch.uint8)
        rest = rest - book[nearest]
        squared.append(distance)
    return codes, torch.stack(squared)


def find_nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point, int64 [n], and its squared distance, float32 [n]."""
    half_norms = centres.square().sum(dim=1) / 2
    nearest = torch.addmm(half_norms, points, centres.T, alpha=-1).argmin(dim=1)
    return nearest, (points - centres[nearest]).square().sum(dim=1)


def find_means(points: Tensor, weights: Tensor, centres: Tensor, *, moves: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Centres float32 [k, dim], and the nearest of them to each point; see `encoder.find_means`."""
    assigned = find_nearest(points, centres)
    for _ in range(moves):
        centres, before = _move_to_means(points, weights, assigned, centres), assigned[0]
        assigned = find_nearest(points, centres)
        if torch.equal(assigned[0], before):
            break
    return centres, assigned


def _move_to_means(points: Tensor, weights: Tensor, assigned: tuple[Tensor, Tensor], centres: Tensor) -> Tensor:
    nearest, distance = assigned
    mass, sums = sum_by_nearest(points, weights, nearest, len(centres))
    means = (sums / mass.clamp(min=1e-30).unsqueeze(1)).to(torch.float32)
    moved = torch.where(mass.unsqueeze(1) > 0, means, centres)
    empty = (mass == 0).nonzero().squeeze(1)
    if len(empty):
        worst = (weights * distance).sort(descending=True, stable=True).indices[: len(empty)]
        moved[empty[: len(worst)]] = points[worst]
    return moved


def sum_by_nearest(points: Tensor, weights: Tensor, nearest: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Weight float64 [k] and weighted sum float64 [k, dim] of the points of each centre."""
    masses, sums = torch.zeros(k, dtype=torch.float64), torch.zeros(k, points.shape[1], dtype=torch.float64)
    masses.index_add_(0, nearest, weights.to(torch.float64))
    sums.index_add_(0, nearest, (points * weights.unsqueeze(1)).to(torch.float64))
    return masses, sums


def measure_rows(rows: Tensor, *, centre: Tensor | None, metric: Tensor | None) -> tuple[Tensor, float]:
    """Squared lengths float32 [n] in the metric, and the largest |entry| before it."""
    rest = _points(rows, centre, None)
    widest = float(rest.abs().max()) if rest.numel() else 0.0
    return (rest if metric is None else rest @ metric).square().sum(dim=1), widest


def add_to_normal(
    normal: Tensor, right: Tensor, rows: Tensor, weights: Tensor, depths: Tensor, codes: Tensor, firsts: Tensor
) -> None:
    """Adds coded rows to the normal equations' lower triangle and right side; see `encoder.add_to_normal`."""
    rows, weights, named = rows.to(torch.float64), weights.to(torch.float64), codes.to(torch.int64) + firsts[:-1]
    for stage in range(codes.shape[1]):
        deep = (depths > stage).nonzero().squeeze(1)
        right.index_add_(0, named[deep, stage], rows[deep] * weights[deep].unsqueeze(1))
        for other in range(stage + 1):
            flat = named[deep, stage] * len(normal) + named[deep, other]
            normal.view(-1).index_add_(0, flat, weights[deep])


def _points(rows: Tensor, centre: Tensor | None, metric: Tensor | None) -> Tensor:
    rest = rows.to(torch.float32)
    rest = rest if centre is None else rest - centre
    return rest if metric is None else rest @ metric


def _search(points: Tensor, books: Sequence[Tensor], beam: int) -> tuple[Tensor, Tensor]:
    rest = points.unsqueeze(1)
    codes = torch.zeros(len(points), 1, 0, dtype=torch.uint8)
    distance = points.square().sum(dim=1, keepdim=True)
    for book in books:
        half_norms = book.square().sum(dim=1) / 2
        scores = torch.addmm(half_norms, rest.reshape(-1, rest.shape[2]), book.T, alpha=-1)
        entries = _two_smallest(scores).reshape(len(points), rest.shape[1], -1)
        gain = scores.reshape(len(points), rest.shape[1], -1).gather(2, entries)
        total = (distance.unsqueeze(2) + 2 * gain).reshape(len(points), -1)
        kept = total.topk(min(beam, total.shape[1]), dim=1, largest=False, sorted=True)
        parent = kept.indices // entries.shape[2]
        entry = entries.reshape(len(points), -1).gather(1, kept.indices)
        rest = rest.gather(1, parent.unsqueeze(2).expand(-1, -1, rest.shape[2])) - book[entry]
        codes = codes.gather(1, parent.unsqueeze(2).expand(-1, -1, codes.shape[2]))
        codes = torch.cat([codes, entry.unsqueeze(2).to(torch.uint8)], dim=2)
        distance = kept.values
    return codes[:, 0], rest[:, 0].square().sum(dim=1)


def _two_smallest(scores: Tensor) -> Tensor:
    first = scores.argmin(dim=1, keepdim=True)
    if scores.shape[1] == 1:
        return first
    second = scores.scatter(1, first, float("inf")).argmin(dim=1, keepdim=True)
    return torch.cat([first, second], dim=1)


def find_paths(values: Tensor, levels: Tensor, *, bits: int) -> tuple[Tensor, Tensor]:
    """As `encoder.find_paths`."""
    n, dim = values.shape
    columns, states = values.T.contiguous(), 8
    errors, nearest = torch.empty(4, dim, n), torch.empty(4, dim, n, dtype=torch.int64)
    for subset in range(4):
        own = levels[subset::4].contiguous()
        nearest[subset] = torch.bucketize(columns, (own[1:] + own[:-1]) / 2)
        errors[subset] = (columns - own[nearest[subset]]).square_()
    # A window is four bits of the path, the newest lowest; it leads from the state window >> 1 to window % 8.
    window = torch.arange(2 * states)
    subset_of = 2 * ((window ^ window >> 1 ^ window >> 3) & 1) + (window >> 2 & 1)
    costs = torch.full((states, n), torch.inf)
    costs[0] = 0
    older = torch.empty(dim, states, n, dtype=torch.bool)
    for column in range(dim):
        reached = costs[window >> 1] + errors[subset_of, column]
        older[column] = reached[states:] < reached[:states]
        costs = torch.minimum(reached[:states], reached[states:])
    distance, state = costs[0].clone(), torch.zeros(n, dtype=torch.int64)
    for number in range(1, states):
        state[costs[number] < distance] = number
        distance = torch.minimum(distance, costs[number])
    planes = torch.zeros(n, bits, 8 * ((dim + 7) // 8), dtype=torch.int64)
    for column in reversed(range(dim)):
        full = state + states * older[column].gather(0, state.unsqueeze(0))[0]
        code = (full & 1) | nearest[:, column].gather(0, subset_of[full].unsqueeze(0))[0] << 1
        planes[:, :, column] = code.unsqueeze(1) >> torch.arange(bits) & 1
        state = full >> 1
    packed = (planes.view(n, -1, 8) << torch.arange(8)).sum(dim=2).to(torch.uint8)
    return packed, distance
