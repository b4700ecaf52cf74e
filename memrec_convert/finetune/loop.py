"""The training loop: the best state on the hold-out is kept, be it the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.evaluation.support import ScoredRows, find_doubt
from memrec_convert.finetune.adam import Optimizer
from memrec_convert.finetune.trainable import open_codes
from memrec_convert.lookup import find_tables
from memrec_convert.parallel import Hands

CODEBOOK_RATE = 3e-2
DENSE_RATE = 1e-4
CHECKS_PER_EPOCH = 4
PATIENCE = CHECKS_PER_EPOCH
"""Training ends when so many checks in a row have brought nothing better: an epoch without progress."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class HoldOutScore:
    """How good a state is on the hold-out: `score` decides (higher is better), `name` says what it is.

    `rows` tell gain from luck; without them every gain counts.
    """

    name: str
    score: float
    rows: ScoredRows | None = field(default=None, compare=False, repr=False)

    def doubt(self, start: HoldOutScore) -> str:
        """Why this state cannot be called better than the one at the start; "" where it can."""
        if self.score <= start.score:
            return f"{self.name} does not gain"
        return "" if self.rows is None or start.rows is None else find_doubt(start.rows, self.rows)


@dataclass(frozen=True)
class FineTuning:
    """What the training did: hold-out score by step, the step that was kept, and the steps that were made.

    rate, dense_rate   the learning rates at the start
    planned_steps      more than `steps` where training ended early
    start              the state that came in
    came               its score, with the rows that it rests on
    recoded            the score once rows that had moved by themselves were coded anew; None where none had
    refused            why the best state was not taken, though its score is above the start's; "" otherwise
    """

    metric: str
    history: tuple[tuple[int, float], ...]
    best_step: int
    steps: int
    rate: float = field(default=0.0, compare=False)
    dense_rate: float = field(default=0.0, compare=False)
    planned_steps: int = field(default=0, compare=False)
    start: State = field(default_factory=dict, compare=False, repr=False)
    came: HoldOutScore | None = field(default=None, compare=False, repr=False)
    recoded: float | None = None
    refused: str = ""

    @property
    def gain(self) -> float:
        """Score of what was kept less that of step 0."""
        kept = dict(self.history)[self.best_step] if self.recoded is None else self.recoded
        return kept - self.history[0][1]


@dataclass(frozen=True)
class TrainingPlan:
    """epochs over the batches; `targets` as reports name them; rates per step.

    workers   threads that take the parts of a lesson: the result does not depend on their number
    """

    epochs: int
    steps_per_epoch: int
    targets: str = "soft"
    train_dense: bool = False
    codebook_rate: float = CODEBOOK_RATE
    dense_rate: float = DENSE_RATE
    workers: int = 1

    @property
    def steps(self) -> int:
        """Steps in all."""
        return max(1, self.epochs * self.steps_per_epoch)


@dataclass(frozen=True)
class Lesson:
    """One batch: the student's logits as a function of the model, and the targets as probabilities (float32 [n]).

    `own_loss`, a batch's summed loss as a function of the model, takes the place of their cross-entropy. `parts` are
    lessons that may be learnt in its place, side by side: their losses add up to its own.
    """

    forward: Callable[[nn.Module], Tensor]
    targets: Tensor
    own_loss: Callable[[nn.Module], Tensor] | None = None
    parts: tuple[Lesson, ...] = ()

    def loss(self, model: nn.Module) -> Tensor:
        """What a step lowers."""
        if self.own_loss is not None:
            return self.own_loss(model)
        return functional.binary_cross_entropy_with_logits(self.forward(model), self.targets, reduction="sum")


class Trainee(Protocol):
    """What of a model can be trained, open for training."""

    def make_optimizers(
        self, model: nn.Module, *, rate: float, dense_rate: float, train_dense: bool
    ) -> list[Optimizer]:
        """Optimizers of the tables' numbers, and of the dense part where asked; none where nothing can be trained."""

    def write_back(self) -> None:
        """Puts the trained numbers where the model answers from."""


Open = Callable[[nn.Module], AbstractContextManager[Trainee]]
Lessons = Callable[[int], Iterable[Lesson]]
HoldOut = Callable[[nn.Module], HoldOutScore]
Progress = Callable[[str, int, int], None]


def fine_tune(
    model: nn.Module,
    lessons: Lessons,
    plan: TrainingPlan,
    *,
    hold_out: HoldOut,
    progress: Progress,
    open_model: Open = open_codes,
) -> FineTuning:
    """Trains the model in place and leaves it in its best state on the hold-out, which may be the one it came with.

    lessons(epoch) streams the epoch's batches; the learning rates fall to zero along half a cosine. `open_model` says
    what is trained: the numbers that codes stand for, unless told otherwise.
    """
    start, state, total = hold_out(model), _copy_state(model), plan.steps
    check_every = max(1, math.ceil(plan.steps_per_epoch / CHECKS_PER_EPOCH))
    history = [(0, start.score)]
    best_step, best_state, step, refused = 0, state, 0, ""
    with open_model(model) as trainee:
        optimizers = trainee.make_optimizers(
            model, rate=plan.codebook_rate, dense_rate=plan.dense_rate, train_dense=plan.train_dense
        )
        if not optimizers:
            return FineTuning(start.name, tuple(history), 0, 0, start=state, came=start)
        rates = [[group["lr"] for group in one.param_groups] for one in optimizers]
        hands = Hands(plan.workers)
        for step, lesson in _number_lessons(lessons, plan.epochs, total):
            _set_rates(optimizers, rates, _fall(step - 1, total))
            _step(model, lesson, optimizers, hands)
            progress("fine-tune", step, total)
            if step % check_every == 0 or step == total:
                trainee.write_back()
                found = _score_with_reference(model, hold_out)
                history.append((step, found.score))
                if found.score > start.score and found.score >= max(value for _, value in history):
                    doubt = found.doubt(start)
                    if not doubt:
                        best_step, best_state = step, _copy_state(model)
                    refused = doubt
                if _has_stalled(history, best_step):
                    break
    model.zero_grad(set_to_none=True)
    model.load_state_dict(best_state)
    return FineTuning(
        start.name,
        tuple(history),
        best_step,
        step,
        rate=plan.codebook_rate,
        dense_rate=plan.dense_rate if plan.train_dense else 0.0,
        planned_steps=total,
        start=state,
        came=start,
        refused=refused,
    )


def _step(model: nn.Module, lesson: Lesson, optimizers: Sequence[Optimizer], hands: Hands) -> None:
    trained = [one for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]]

    def differentiate(part: Lesson) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():  # which threads of their own have, and a caller's may not
            return torch.autograd.grad(part.loss(model), trained, allow_unused=True)

    gradients = hands.map(differentiate, lesson.parts or (lesson,))
    for parameter, found in zip(trained, zip(*gradients, strict=True), strict=True):
        parameter.grad = None
        for gradient in found:  # in the order of the parts
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    for optimizer in optimizers:
        optimizer.step()


def _set_rates(optimizers: Sequence[Optimizer], rates: Sequence[Sequence[float]], share: float) -> None:
    for optimizer, own in zip(optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate * share


def _fall(done: int, total: int) -> float:
    return (1 + math.cos(math.pi * min(1.0, done / total))) / 2


def _has_stalled(history: Sequence[tuple[int, float]], best_step: int) -> bool:
    return sum(step > best_step for step, _ in history) >= PATIENCE


def _number_lessons(lessons: Lessons, epochs: int, total: int) -> Iterator[tuple[int, Lesson]]:
    step = 0
    for epoch in range(epochs):
        for lesson in lessons(epoch):
            step += 1
            yield step, lesson
            if step >= total:
                return


def _score_with_reference(model: nn.Module, hold_out: HoldOut) -> HoldOutScore:
    """The hold-out is scored as the artifact will be: through the stored integers, not the float parameters."""
    decoders = [(table, table.decoder) for table in find_tables(model)]
    for module, _ in decoders:
        module.decoder = None
    try:
        return hold_out(model)
    finally:
        for module, decoder in decoders:
            module.decoder = decoder


def _copy_state(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
