"""The training loop: few parameters, soft targets; the best state on the hold-out is kept, be it the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.encoding import CompressedTable
from memrec_convert.finetune.trainable import trainable_tables

CODEBOOK_RATE = 3e-2
DENSE_RATE = 1e-4
CHECKS_PER_EPOCH = 4


@dataclass(frozen=True)
class HoldOutScore:
    """How good a state is on the hold-out: `score` decides (higher is better), `name` says what it is."""

    name: str
    score: float


@dataclass(frozen=True)
class FineTuning:
    """What the training did: hold-out score by step, the step that was kept, and the steps in all."""

    metric: str
    history: tuple[tuple[int, float], ...]
    best_step: int
    steps: int

    @property
    def gain(self) -> float:
        """Score of the kept step less that of step 0."""
        return max(score for _, score in self.history) - self.history[0][1]


@dataclass(frozen=True)
class TrainingPlan:
    """epochs over the batches; `targets` "soft" (the original's logits) or "labels"; rates per step."""

    epochs: int
    steps_per_epoch: int
    targets: str = "soft"
    train_dense: bool = False
    codebook_rate: float = CODEBOOK_RATE
    dense_rate: float = DENSE_RATE


@dataclass(frozen=True)
class Lesson:
    """One batch: the student's logits as a function of the model, and the targets as probabilities (float32 [n])."""

    forward: Callable[[nn.Module], Tensor]
    targets: Tensor


def fine_tune(
    model: nn.Module,
    lessons: Callable[[int], Iterable[Lesson]],
    plan: TrainingPlan,
    *,
    hold_out: Callable[[nn.Module], HoldOutScore],
    progress: Callable[[str, int, int], None],
) -> FineTuning:
    """Trains the model in place and leaves it in its best state on the hold-out, which may be the one it came with.

    lessons(epoch) streams the epoch's batches; the learning rate falls to zero along half a cosine.
    """
    total = max(1, plan.epochs * plan.steps_per_epoch)
    check_every = max(1, math.ceil(plan.steps_per_epoch / CHECKS_PER_EPOCH))
    start = hold_out(model)
    history = [(0, start.score)]
    best_step, best_state = 0, _copy_state(model)
    with trainable_tables(model) as parts:
        optimizer = _make_optimizer(model, parts, plan)
        if optimizer is None:
            return FineTuning(start.name, tuple(history), 0, 0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (1 + math.cos(math.pi * min(1.0, step / total))) / 2
        )
        step = 0
        for step, lesson in _number_lessons(lessons, plan.epochs, total):
            optimizer.zero_grad(set_to_none=True)
            loss = functional.binary_cross_entropy_with_logits(lesson.forward(model), lesson.targets)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            progress("fine-tune", step, total)
            if step % check_every == 0 or step == total:
                for part in parts:
                    part.write_back()
                score = _score_with_reference(model, hold_out)
                history.append((step, score))
                if score > history[0][1] and score >= max(value for _, value in history):
                    best_step, best_state = step, _copy_state(model)
    model.zero_grad(set_to_none=True)
    model.load_state_dict(best_state)
    return FineTuning(start.name, tuple(history), best_step, step)


def _number_lessons(
    lessons: Callable[[int], Iterable[Lesson]], epochs: int, total: int
) -> Iterator[tuple[int, Lesson]]:
    step = 0
    for epoch in range(epochs):
        for lesson in lessons(epoch):
            step += 1
            yield step, lesson
            if step >= total:
                return


def _make_optimizer(model: nn.Module, parts: list[Any], plan: TrainingPlan) -> torch.optim.Optimizer | None:
    tables = [parameter for part in parts for parameter in part.parameters() if parameter.numel()]
    dense = [parameter for parameter in model.parameters() if parameter.requires_grad] if plan.train_dense else []
    groups = [{"params": tables, "lr": plan.codebook_rate}, {"params": dense, "lr": plan.dense_rate}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.Adam(groups, foreach=False) if groups else None


def _score_with_reference(model: nn.Module, hold_out: Callable[[nn.Module], HoldOutScore]) -> float:
    """The hold-out is scored as the artifact will be: through the stored integers, not the float parameters."""
    decoders = [(module, module.decoder) for module in model.modules() if isinstance(module, CompressedTable)]
    for module, _ in decoders:
        module.decoder = None
    try:
        return hold_out(model).score
    finally:
        for module, decoder in decoders:
            module.decoder = decoder


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
