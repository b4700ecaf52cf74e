"""Training of the sample-pooled model, from scratch or from a warm start; the best state on the hold-out is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from memrec_convert.errors import ModelError
from memrec_convert.finetune.loop import CHECKS_PER_EPOCH, FineTuning, HoldOutScore, Lesson
from memrec_convert.models.sample_pooled import SamplePooled

ROWS_PER_STEP = 1024
OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class PooledTraining:
    """How it is trained: epochs over lessons of which an epoch has `steps_per_epoch`, and the rates of each part.

    "adam" with rates that fall along half a cosine; "sgd" is the authors' way: one constant rate for everything.
    """

    epochs: int
    steps_per_epoch: int
    optimizer: str = "adam"
    token_rate: float = 1e-2
    weight_rate: float = 3e-3
    layer_rate: float = 2e-3
    sgd_rate: float = 0.5


def train_pooled(
    model: SamplePooled,
    lessons: Callable[[int], Iterable[Lesson]],
    plan: PooledTraining,
    *,
    hold_out: Callable[[nn.Module], HoldOutScore],
    progress: Callable[[str, int, int], None],
) -> FineTuning:
    """Trains all of the model in place; it is left in its best state on the hold-out, be it the first."""
    optimizer = _make_optimizer(model, plan)
    total = max(1, plan.epochs * plan.steps_per_epoch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1.0 if plan.optimizer == "sgd" else (1 + math.cos(math.pi * min(1.0, step / total))) / 2
    )
    check_every = max(1, math.ceil(plan.steps_per_epoch / CHECKS_PER_EPOCH))
    start = hold_out(model)
    history, step = [(0, start.score)], 0
    best_step, best_state = 0, _copy_state(model)
    model.requires_grad_(True)
    for epoch in range(plan.epochs):
        for lesson in lessons(epoch):
            optimizer.zero_grad(set_to_none=True)
            loss = functional.binary_cross_entropy_with_logits(lesson.forward(model), lesson.targets)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            step += 1
            progress("train the pooled model", min(step, total), total)
            if step % check_every == 0 or step == total:
                score = hold_out(model).score
                history.append((step, score))
                if score > max(known for _, known in history[:-1]):
                    best_step, best_state = step, _copy_state(model)
    model.zero_grad(set_to_none=True)
    model.load_state_dict(best_state)
    model.requires_grad_(False)
    return FineTuning(start.name, tuple(history), best_step, step)


def epochs_to_gain(training: FineTuning, steps_per_epoch: int, *, share: float = 0.99, nothing: float = 0.5) -> float:
    """Epochs until `share` of the final gain in score over `nothing` (0.5: the AUC of no knowledge) was reached."""
    final = max(score for _, score in training.history)
    reached = nothing + share * (final - nothing)
    return next(step for step, score in training.history if score >= reached) / steps_per_epoch


def _make_optimizer(model: SamplePooled, plan: PooledTraining) -> torch.optim.Optimizer:
    if plan.optimizer not in OPTIMIZERS:
        raise ModelError(f"the optimizer {plan.optimizer!r} is not known; known: {', '.join(OPTIMIZERS)}.")
    if plan.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=plan.sgd_rate, foreach=False)
    layers = [*model.bottom.parameters(), *model.top.parameters()]
    groups = [
        {"params": [model.tokens], "lr": plan.token_rate},
        {"params": [model.weights], "lr": plan.weight_rate},
        {"params": layers, "lr": plan.layer_rate},
    ]
    return torch.optim.Adam(groups, foreach=False)


def _copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
