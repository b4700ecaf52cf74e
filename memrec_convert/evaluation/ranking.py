"""How high a model ranks what is relevant: the places of relevant candidates, and figures of each request from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memrec_convert.evaluation.metrics import Float64, Int64


@dataclass(frozen=True)
class Places:
    """The relevant candidates of all requests.

    request     of each, int64 [m], from 0 to `requests` - 1
    rank        of each among its request's candidates, int64 [m]: 1 is the top. Equal scores count against the model:
                of candidates that tie, the less relevant stand first
    relevance   of each, float64 [m], above 0
    """

    requests: int
    request: Int64
    rank: Int64
    relevance: Float64

    @property
    def relevant(self) -> Int64:
        """How many relevant candidates each request has, int64 [requests]."""
        return np.bincount(self.request, minlength=self.requests)


def place_targets(scores: np.ndarray, targets: np.ndarray) -> Places:
    """Each request's one relevant candidate: scores float [n, k], its column int64 [n]."""
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    rank = (scores >= own).sum(axis=1).astype(np.int64)
    return Places(len(scores), np.arange(len(scores)), rank, np.ones(len(scores)))


def place_relevant(scores: np.ndarray, relevance: np.ndarray, requests: np.ndarray) -> Places:
    """Candidates in any order: scores, relevance (0 is irrelevant) and request, each [n]."""
    members = np.unique(requests, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((relevance, -scores.astype(np.float64), members))
    sizes = np.bincount(members)
    rank = np.empty(len(scores), dtype=np.int64)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank[order] = np.arange(len(scores)) - starts + 1
    found = np.flatnonzero(relevance > 0)
    return Places(len(sizes), members[found], rank[found], relevance[found].astype(np.float64))


def hits(places: Places, most: int) -> Float64:
    """Per request 1 where a relevant candidate is among the first `most`, else 0."""
    return (_sum(places, (places.rank <= most).astype(np.float64)) > 0).astype(np.float64)


def recalls(places: Places, most: int) -> Float64:
    """Per request the share of its relevant candidates that are among the first `most`; 0 where it has none."""
    return _sum(places, (places.rank <= most).astype(np.float64)) / np.maximum(places.relevant, 1)


def reciprocal_ranks(places: Places, most: int) -> Float64:
    """Per request 1 / the rank of the highest relevant candidate; 0 where that is not among the first `most`."""
    best = np.zeros(places.requests)
    np.maximum.at(best, places.request, np.where(places.rank <= most, 1.0 / places.rank, 0.0))
    return best


def normalized_gains(places: Places, most: int) -> Float64:
    """Per request the discounted cumulative gain of its first `most` candidates over the largest possible one.

    A candidate at rank r adds relevance / log2(1 + r) (Järvelin and Kekäläinen 2002); 0 without a relevant one.
    """
    order = np.lexsort((-places.relevance, places.request))
    counts = places.relevant
    ideal_rank = np.empty_like(places.rank)
    ideal_rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    found, ideal = (
        _sum(places, np.where(rank <= most, places.relevance / np.log2(1.0 + rank), 0.0))
        for rank in (places.rank, ideal_rank)
    )
    return np.divide(found, ideal, out=np.zeros(places.requests), where=ideal > 0)


def _sum(places: Places, values: Float64) -> Float64:
    return np.bincount(places.request, weights=values, minlength=places.requests).astype(np.float64)
