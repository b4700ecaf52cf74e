"""Warm start of the sample-pooled model: what of all rows together moves the logit most, laid into its token table.

The original's logit is a function of all its rows side by side, e(x). The directions P in which it is steep (the first
eigenvectors of the second moment of its gradient: the active subspace, Constantine 2015) are what one pooled vector can
keep of it: V = P^T e(x), a sum over features. Each token becomes the mean, weighted by lookups, of what its ids add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.rows import RowReader, read_chunks
from memrec_convert.models import ClickNetwork
from memrec_convert.models.sample_pooled import KEY_STRIDE, SamplePooled

UNSEEN_WEIGHT = 0.25
"""Lookups that every id counts for besides its own, as elsewhere: an id that the log does not show may be trained."""

SMALLEST_SPREAD = 1e-6


def warm_start(
    model: SamplePooled,
    original: ClickNetwork,
    readers: Sequence[RowReader],
    counts: Sequence[np.ndarray | None],
    batches: Iterable[Any],
) -> None:
    """Sets bottom, M and W from the original; the top is left as it is, for its input is another.

    readers and counts are per table (no counts: all ids alike); the batches, of click logs, show where the logit is
    steep and how wide V comes out, which is then brought to unit variance.
    """
    held = list(batches)
    bottom = getattr(original, "bottom", None)
    if bottom is not None:
        model.bottom.load_state_dict(bottom.state_dict())
    directions = find_directions(original, held, width=model.sizes.l)
    found = directions[0].shape[1]  # fewer than l where the original's rows are narrower than that in all
    with torch.no_grad():
        model.reset_tables("balanced")
        means = _average_tokens(model, readers, counts, directions, original.table_inputs)
        model.tokens[:, :found] = means / model.sizes.K
        spread = torch.cat([model.pool(batch.ids) for batch in held]).std(dim=0)
        model.tokens[:, :found] /= spread[:found].clamp(min=SMALLEST_SPREAD)


def find_directions(original: ClickNetwork, batches: Iterable[Any], *, width: int) -> list[Tensor]:
    """Per table float32 [dim, directions]: its part of the steepest directions of the logit, the steepest last."""
    moment = torch.zeros(0)
    dims: list[int] = []
    for batch in batches:
        with torch.no_grad():
            vectors = original.embed(batch.ids)
        dims = [int(vector.shape[1]) for vector in vectors]
        with torch.enable_grad():
            watched = [vector.detach().requires_grad_(True) for vector in vectors]
            gradients = torch.autograd.grad(original.interact(batch.dense, watched).sum(), watched)
        joined = torch.cat(gradients, dim=1).to(torch.float64)
        moment = joined.T @ joined + (moment if moment.numel() else 0.0)
    vectors_of = torch.linalg.eigh(moment)[1][:, -width:].to(torch.float32)
    return list(vectors_of.split(dims))


def _average_tokens(
    model: SamplePooled,
    readers: Sequence[RowReader],
    counts: Sequence[np.ndarray | None],
    directions: Sequence[Tensor],
    inputs: Sequence[int],
) -> Tensor:
    """Per token the mean of its ids' projected rows, float32 [D, directions].

    Every table's rows count from their mean: what is common to all samples is the top's bias to learn.
    """
    total = torch.zeros(model.sizes.D, directions[0].shape[1])
    lookups = torch.zeros(model.sizes.D)
    for number, (reader, seen, projection) in enumerate(zip(readers, counts, directions, strict=True)):
        rows = reader.shape[0]
        weights = torch.from_numpy(np.ones(rows) if seen is None else seen).to(torch.float32) + UNSEEN_WEIGHT
        centre = torch.zeros(reader.shape[1])
        for start, chunk in read_chunks(reader):
            centre += (chunk * weights[start : start + len(chunk), None]).sum(dim=0) / weights.sum()
        shares_key = inputs.index(inputs[number]) != number  # a second table of the same input: counted already
        for start, chunk in read_chunks(reader):
            own = weights[start : start + len(chunk)]
            keys = torch.arange(start, start + len(chunk)) + KEY_STRIDE * inputs[number]
            values = ((chunk - centre) @ projection) * own[:, None]
            for token in model.locate(keys)[0].unbind(dim=-1):
                total.index_add_(0, token, values)
                if not shares_key:
                    lookups.index_add_(0, token, own)
    return total / lookups.clamp(min=UNSEEN_WEIGHT)[:, None]
