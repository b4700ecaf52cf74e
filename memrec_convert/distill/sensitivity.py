"""The metric of each table: how much the logit moves when a row moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.errors import ModelError

EIGENVALUE_FLOOR = 1e-4
"""Directions that the sample's gradients never touch still count this share of the mean: the sample is not all data."""


def measure_sensitivities(
    model: nn.Module, tables: Sequence[nn.Module], batches: Iterable[Any], forward: Callable[[nn.Module, Any], Tensor]
) -> list[Tensor]:
    """G_f of each table: float64 [dim, dim], the second moment of d logit / d (output of the table) over the batches.

    `tables` are the modules in the model whose outputs are looked at; a module called several times counts each call.
    """
    outputs: list[list[Tensor]] = [[] for _ in tables]

    def keep(number: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:  # noqa: ANN401 - torch's signature
            watched = output.detach().requires_grad_(True)
            outputs[number].append(watched)
            return watched

        return hook

    handles = [table.register_forward_hook(keep(number)) for number, table in enumerate(tables)]
    moments: list[Tensor | None] = [None] * len(tables)
    counts = [0] * len(tables)
    try:
        for batch in batches:
            for kept in outputs:
                kept.clear()
            with torch.enable_grad():
                logits = forward(model, batch)
                if not logits.requires_grad:
                    raise ModelError(
                        "forward gave logits without a gradient, so how much each table matters cannot be measured; "
                        "leave out no_grad() and detach(), or set weights to 'displacement'."
                    )
                flat = [output for kept in outputs for output in kept]
                gradients = iter(torch.autograd.grad(logits.sum(), flat, allow_unused=True) if flat else ())
            for number, kept in enumerate(outputs):
                for output in kept:
                    gradient = next(gradients)
                    rows = (torch.zeros_like(output) if gradient is None else gradient).reshape(-1, output.shape[-1])
                    wide = rows.to(torch.float64)
                    moment = wide.T @ wide
                    known = moments[number]
                    moments[number] = moment if known is None else known + moment
                    counts[number] += len(rows)
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.eye(1, dtype=torch.float64) if moment is None else moment / max(count, 1)
        for moment, count in zip(moments, counts, strict=True)
    ]


def root_of(sensitivity: Tensor) -> Tensor:
    """The metric A = G^(1/2), float32 [dim, dim], of a sensitivity (float64 [dim, dim]); identity for zero."""
    values, vectors = torch.linalg.eigh((sensitivity + sensitivity.T) / 2)
    mean = float(values.clamp(min=0).mean())
    if mean <= 0:
        return torch.eye(len(sensitivity))
    floored = values.clamp(min=EIGENVALUE_FLOOR * mean)
    root: Tensor = ((vectors * floored.sqrt()) @ vectors.T).to(torch.float32)
    return root
