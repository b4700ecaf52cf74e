"""Logits of a model over batches, in order and with the same bits for any number of worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.errors import ModelError
from memrec_convert.parallel import ordered_map

Forward = Callable[[nn.Module, Any], Tensor]
"""The logits float32 [rows] of a model on one batch."""


def score_batches(
    model: nn.Module, batches: Iterable[Any], forward: Forward, *, workers: int = 1, wide: bool = False
) -> np.ndarray:
    """Logits float32 [samples] over all batches; ModelError where forward does not give one logit per sample.

    wide   forward may give several numbers per sample: then float32 [samples] or [samples, k]
    """

    def score(batch: Any) -> np.ndarray:  # noqa: ANN401 - a batch is what the user's loader yields
        found = _call(model, batch, forward, wide=wide).detach().to("cpu", torch.float32)
        flat = not wide or found.shape[1:].numel() == 1
        return (found.reshape(-1) if flat else found).numpy()

    parts = list(ordered_map(score, batches, workers=workers))
    if len({part.shape[1:] for part in parts}) > 1:
        widths = sorted({part.shape[-1] if part.ndim > 1 else 1 for part in parts})
        raise ModelError(
            f"forward gave {widths[0]} numbers per sample for one batch and {widths[-1]} for another; expected as many "
            "for all samples."
        )
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def check_logits(model: nn.Module, batches: Iterable[Any], forward: Forward) -> None:
    """ModelError where forward does not give one logit per sample of the first batch."""
    for batch in batches:
        _call(model, batch, forward, wide=False)
        break


def _call(model: nn.Module, batch: Any, forward: Forward, *, wide: bool) -> Tensor:  # noqa: ANN401 - as above
    with torch.no_grad():
        logits = forward(model, batch)
    if not isinstance(logits, Tensor):
        raise ModelError(f"forward gave a {type(logits).__name__}; expected a tensor with one logit per sample.")
    if not wide and sum(size > 1 for size in logits.shape) > 1:
        classes = " (of two classes' logits, give the difference)" if logits.shape[-1] == 2 else ""
        raise ModelError(
            f"forward gave a tensor of shape {list(logits.shape)}; expected one logit per sample{classes}."
        )
    return logits


def mean_divergence(original: np.ndarray, candidate: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the candidate's click probabilities from the original's.

    Both are logits [n]. It is what the candidate adds to the log loss if the original's probabilities are true.
    ModelError where their lengths differ.
    """
    if original.shape != candidate.shape:
        raise ModelError(
            f"the original gave {original.size} logits and the candidate {candidate.size} on the same batches; "
            "expected one per sample from both."
        )
    old, new = original.astype(np.float64), candidate.astype(np.float64)
    chance = np.exp(-np.logaddexp(0, -old))  # a sigmoid that cannot overflow
    cross_entropy = np.logaddexp(0, new) - chance * new
    entropy = np.logaddexp(0, old) - chance * old
    return float(np.mean(np.maximum(cross_entropy - entropy, 0)))  # equal logits may differ by the last bit
