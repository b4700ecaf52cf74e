"""Fine-tuning of rivals with the settings of our own: same steps, targets, batches; the best state is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.conversion.inputs.subject import BatchSource, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.teaching import make_targets
from memrec_convert.evaluation.metrics import auc
from memrec_convert.evaluation.scoring import mean_divergence, score_batches
from memrec_convert.finetune.loop import CHECKS_PER_EPOCH, CODEBOOK_RATE, DENSE_RATE
from memrec_convert.finetune.row_map import make_map
from memrec_convert.finetune.stored_rows import spread_of
from memrec_convert.finetune.trainable import MAP_FACTOR, ROWS_EPSILON, ROWS_FACTOR
from memrec_convert.lab.held import RivalBag


def train_tables(subject: Subject, model: nn.Module, tables: Sequence[RivalBag], options: Options) -> int:
    """Trains the tables' numbers, and the dense part where asked, in place; returns the step kept, 0 for none."""
    train, hold_out = subject.train, subject.hold_out
    assert train is not None
    assert hold_out is not None
    mark = _Marks(subject, hold_out, options)
    best, best_step = mark.score(model), 0
    kept = _copy_state(model)
    steps_per_epoch = train.count_batches()
    total, check_every = options.epochs * steps_per_epoch, max(1, math.ceil(steps_per_epoch / CHECKS_PER_EPOCH))
    parts = [_Part(table) for table in tables]
    optimizer = _make_optimizer(model, parts, options)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(1.0, step / total))) / 2
    )
    for step, (batch, targets) in enumerate(_lessons(subject, train, options), start=1):
        optimizer.zero_grad(set_to_none=True)
        with _standing_in(parts):
            logits = subject.forward(model, batch).reshape(-1)
            loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % check_every == 0 or step == total:
            for part in parts:
                part.write_back()
            score = mark.score(model)
            if score > best:
                best, best_step = score, step
                kept = _copy_state(model)
    model.requires_grad_(False)
    model.load_state_dict(kept)
    for table in tables:
        table.refresh()
    return best_step


def _make_optimizer(model: nn.Module, parts: Sequence[_Part], options: Options) -> torch.optim.Optimizer:
    rows, shared = list[nn.Parameter](), list[nn.Parameter]()
    for part in parts:
        for name, matrix in part.matrices.items():
            (rows if name in part.table[0].of_ids else shared).append(matrix)
    groups: list[dict[str, Any]] = [
        {"params": rows, "lr": CODEBOOK_RATE * ROWS_FACTOR, "eps": ROWS_EPSILON},
        {"params": [m for part in parts for m in part.maps.parameters()], "lr": CODEBOOK_RATE * MAP_FACTOR},
        {"params": shared, "lr": CODEBOOK_RATE},  # with our own epsilon quantised rivals end lower
    ]
    if options.train_dense:  # a rival's tables hold buffers alone: the model's parameters are its dense part
        groups.append({"params": list(model.requires_grad_(True).parameters()), "lr": DENSE_RATE})
    return torch.optim.Adam([group for group in groups if group["params"]], foreach=False)


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class _Part(nn.Module):
    """The numbers of one table as parameters, each matrix in units of its own spread."""

    def __init__(self, table: RivalBag) -> None:
        super().__init__()
        self.table = [table]  # in a list: the table is no part of this module
        self.spreads = {name: spread_of(values) for name, values in table.values.items()}
        self.matrices = nn.ParameterDict({n: nn.Parameter(v / self.spreads[n]) for n, v in table.values.items()})
        maps = {name: make_map(table.values[name]) for name in table.whole}
        self.maps = nn.ModuleDict({name: found for name, found in maps.items() if found is not None})

    def rounded(self) -> dict[str, Tensor]:
        """As the file will hold them; gradients pass straight through (Bengio et al., arXiv 1308.3432)."""
        found = {}
        for name, values in self._placed().items():
            storage = self.table[0].storages[name]
            with torch.no_grad():
                change = storage.decode(storage.encode(values)) - values
            found[name] = values + change
        return found

    @torch.no_grad()
    def write_back(self) -> None:
        """Into the table's buffers."""
        self.table[0].store(self._placed())

    def _placed(self) -> dict[str, Tensor]:
        placed = {name: matrix * self.spreads[name] for name, matrix in self.matrices.items()}
        return placed | {name: row_map(placed[name]) for name, row_map in self.maps.items()}


@contextmanager
def _standing_in(parts: Sequence[_Part]) -> Iterator[None]:
    for part in parts:
        part.table[0].trained = part.rounded()
    try:
        yield
    finally:
        for part in parts:
            part.table[0].trained = None


def _lessons(subject: Subject, train: BatchSource, options: Options) -> Iterator[tuple[object, Tensor]]:
    """Batches in the order of our own fine-tuning, with its targets."""
    for epoch in range(options.epochs):
        for batch in train.stream(shuffle_seed=options.seed * 1000 + epoch):
            yield batch, make_targets(subject, train, batch, options.targets)


class _Marks:
    """The hold-out: AUC where it has labels of both classes, else closeness to the original."""

    def __init__(self, subject: Subject, hold_out: BatchSource, options: Options) -> None:
        self.subject, self.hold_out, self.workers = subject, hold_out, options.workers
        self.original = self._logits(subject.model)
        self.labels: np.ndarray | None = None
        if hold_out.has_labels:
            labels = np.concatenate([hold_out.labels_of(batch).numpy() for batch in hold_out.stream()])
            self.labels = labels if len(np.unique(labels)) == 2 else None

    def score(self, model: nn.Module) -> float:
        """Higher is better."""
        logits = self._logits(model)
        if self.labels is None:
            return -mean_divergence(self.original, logits)
        return auc(self.labels, logits) or 0.0

    def _logits(self, model: nn.Module) -> np.ndarray:
        return score_batches(model, self.hold_out.stream(), self.subject.forward, workers=self.workers)
