"""Fine-tuning of a converted model by its original, and of the original itself for control; marks from the hold-out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.clicklog import Batch
from memrec_convert.conversion.inputs.batches import count_rows
from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject, join_groups, read_truth
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.weighting import SENSITIVITY_SAMPLES, keeps_answers, watch_tables
from memrec_convert.distill.sensitivity import answer_batches
from memrec_convert.errors import LogError
from memrec_convert.evaluation.answers import Answers, PassOver
from memrec_convert.evaluation.measures import Truth
from memrec_convert.evaluation.objectives import BINARY, OwnLoss, Regression, tidy
from memrec_convert.evaluation.support import ScoredRows
from memrec_convert.finetune.loop import FineTuning, HoldOut, HoldOutScore, Lesson, Lessons, TrainingPlan, fine_tune
from memrec_convert.finetune.rows import open_rows
from memrec_convert.finetune.trainable import NO_GAITS, Gait, open_codes
from memrec_convert.models import ordered_products
from memrec_convert.parallel import ordered_map

LABEL_SHARE = 0.35
"""Of mixed targets, how much of each is the label; the rest is the original's own prediction."""

PARTS = 2
"""Of a batch of clicks, each learnt from by a thread of its own; fixed, because a sum's bits depend on it."""


def teach(
    subject: Subject,
    model: nn.Module,
    options: Options,
    *,
    progress: Progress,
    gaits: Mapping[nn.Module, Gait] = NO_GAITS,
    mark: HoldOut | None = None,
) -> FineTuning:
    """Trains `model` on the subject's training data and keeps its best state on the hold-out.

    gaits: how rows move of tables that are coded to several depths. `mark` scores states, where the caller has one
    already.
    """
    train = _require_train(subject)
    own = isinstance(subject.goal.objective, OwnLoss)  # which finds its labels in the batch itself
    if options.targets == "labels" and not train.has_labels and not own:
        raise LogError("fine-tuning on labels was asked for, and the training data has none; use --targets soft.")
    plan = _make_plan(subject, options)
    if options.train_dense:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    try:
        with ordered_products(subject.model, model, learn=options.train_dense):
            hold_out = mark or make_mark(subject, options)
            return fine_tune(
                model,
                _make_lessons(subject, options, options.targets),
                plan,
                hold_out=hold_out,
                progress=progress,
                open_model=partial(open_codes, gaits=gaits, workers=plan.workers),
            )
    finally:
        model.requires_grad_(False)


def teach_control(
    subject: Subject, options: Options, *, progress: Progress, mapped: Collection[str] = ()
) -> tuple[nn.Module, FineTuning]:
    """The original, uncompressed, after the training that a converted model gets: same batches, steps and hold-out, and
    a map for the tables at the paths `mapped`.

    The targets are the same too, unless they are soft: its own predictions could teach it nothing, so it then learns
    from the labels. The given model is left as it was.
    """
    train = _require_train(subject)
    if not train.has_labels:
        raise LogError(
            "the control run needs labels, and the training data has none: its own logits cannot teach the original; "
            "leave out --control."
        )
    targets = "labels" if options.targets == "soft" else options.targets
    model = copy.deepcopy(subject.model).requires_grad_(False)
    plan = _make_plan(subject, options)
    if options.train_dense:
        model.requires_grad_(True)
    with ordered_products(subject.model, model, learn=options.train_dense):
        told = fine_tune(
            model,
            _make_lessons(subject, options, targets),
            plan,
            hold_out=make_mark(subject, options),
            progress=lambda stage, done, total: progress(f"control: {stage}", done, total),
            open_model=partial(open_rows, mapped=mapped),
        )
    return model.requires_grad_(False), told


def _require_train(subject: Subject) -> BatchSource:
    assert subject.train is not None
    assert subject.hold_out is not None
    return subject.train


def _make_plan(subject: Subject, options: Options) -> TrainingPlan:
    return TrainingPlan(
        epochs=options.epochs,
        steps_per_epoch=_require_train(subject).count_batches(),
        targets=options.targets,
        train_dense=options.train_dense,
        workers=subject.scoring_workers(options.workers),
    )


def _make_lessons(subject: Subject, options: Options, targets: str) -> Lessons:
    """The training data's batches, in the order that seed and epoch give, with what is to be learnt from each.

    Where the original may run in several threads, it answers the next batches while the student learns from this one.
    """
    train, objective = _require_train(subject), subject.goal.objective
    answers = _find_answers(subject, options) if targets != "labels" and keeps_answers(subject) else None
    unit = _find_spread(subject, options) if isinstance(objective, Regression) else 1.0

    def prepare(batch: Any) -> Lesson:  # noqa: ANN401 - what the loader yields
        if objective is BINARY:
            wanted = make_targets(subject, train, batch, targets, answers)
            return Lesson(partial(_answer, subject, batch), wanted, parts=_split_lesson(subject, batch, wanted))
        return _make_lesson(subject, train, batch, targets, unit)

    def lessons(epoch: int) -> Iterator[Lesson]:
        batches = train.stream(shuffle_seed=options.seed * 1000 + epoch)
        return ordered_map(prepare, batches, workers=subject.scoring_workers(options.workers))

    return lessons


def _find_answers(subject: Subject, options: Options) -> Answers | None:
    """The original's answers to the training log, from a pass in its order where measuring sensitivities made none."""
    if subject.answers:
        return subject.answers
    found, batches = PassOver(), _require_train(subject).stream(limit=SENSITIVITY_SAMPLES)
    workers = subject.scoring_workers(options.workers)
    with ordered_products(subject.model):
        for batch, logits in answer_batches(
            subject.model, watch_tables(subject), batches, subject.forward, workers=workers
        ):
            found.add(batch, logits)
    subject.answers.keep(found, limit=SENSITIVITY_SAMPLES)
    return subject.answers or None


def _split_lesson(subject: Subject, batch: Any, wanted: Tensor) -> tuple[Lesson, ...]:  # noqa: ANN401
    """The parts of a lesson, for known networks on a log: there, what a sample teaches depends on no other."""
    if subject.architecture is None or not isinstance(batch, Batch) or batch.rows < PARTS:
        return ()
    bounds = [batch.rows * number // PARTS for number in range(PARTS + 1)]
    return tuple(
        Lesson(partial(_answer, subject, batch.cut(start, stop)), wanted[start:stop])
        for start, stop in itertools.pairwise(bounds)
    )


def _find_spread(subject: Subject, options: Options) -> float:
    """The standard deviation of the original's outputs on the hold-out; 1 where they are all the same."""
    assert subject.hold_out is not None
    return float(subject.score_original(subject.hold_out, options.workers).std(dtype=np.float64)) or 1.0


def _make_lesson(subject: Subject, train: BatchSource, batch: Any, targets: str, unit: float) -> Lesson:  # noqa: ANN401
    """What an objective other than clicks has to learn from a batch; of a loss of the caller's own, its labels are it.

    A mixed lesson takes LABEL_SHARE of the labels, or of the caller's own loss.
    """
    objective, groups = subject.goal.objective, train.groups_of(batch)
    with torch.no_grad():
        outputs = tidy(subject.forward(subject.model, batch))
    own = isinstance(objective, OwnLoss)
    share = {"soft": 0.0, "labels": 1.0}.get(targets, LABEL_SHARE)
    labels = train.labels_of(batch) if train.has_labels and share and not own else None
    if labels is not None:
        objective.check_fit(labels, outputs, train.name)
    wanted = objective.targets(outputs, labels, share, groups)

    def loss(student: nn.Module) -> Tensor:
        found = torch.zeros(())
        if not own or share < 1:
            answered = tidy(subject.forward(student, batch))
            found = objective.loss(answered, wanted, groups, unit) * (1 - share if own else 1.0)
        if isinstance(objective, OwnLoss) and share:
            losses = objective.run(student, batch)
            found = found + share * (losses.sum() if losses.dim() else losses * count_rows(batch))
        return found

    return Lesson(partial(_answer, subject, batch), wanted, loss)


def make_targets(
    subject: Subject,
    train: BatchSource,
    batch: Any,  # noqa: ANN401 - what the loader yields
    targets: str,
    answers: Answers | None = None,
) -> Tensor:
    """What to learn from a batch, as probabilities float32 [n]: the original's own ("soft"), the labels, or both.

    "mixed" is soft where the training data has no labels. `answers` are the original's, where they are kept.
    """
    if targets == "labels":
        return train.labels_of(batch).to(torch.float32)
    if answers is not None:
        soft = torch.sigmoid(answers.of(batch))
    else:
        with torch.no_grad():
            soft = torch.sigmoid(subject.forward(subject.model, batch).reshape(-1))
    if targets == "soft" or not train.has_labels:
        return soft
    return (1 - LABEL_SHARE) * soft + LABEL_SHARE * train.labels_of(batch).to(torch.float32)


def make_mark(subject: Subject, options: Options) -> HoldOut:
    """Scores a state on the hold-out: by the metric where its labels define it, else by closeness to the original."""
    hold_out, objective, metric = subject.hold_out, subject.goal.objective, subject.goal.metric
    assert hold_out is not None
    original = subject.score(subject.model, hold_out.stream(), options.workers)
    truth = read_truth(hold_out)
    labelled = truth is not None and metric.measure(truth, original) is not None
    labels = truth.labels if truth is not None and labelled else None
    groups = truth.groups if truth is not None else join_groups(hold_out, hold_out.stream())

    def mark(student: nn.Module) -> HoldOutScore:
        outputs = subject.score(student, hold_out.stream(), options.workers)
        rows = ScoredRows(outputs.astype(np.float64), original.astype(np.float64), labels, groups, subject.goal)
        if labels is None:
            return HoldOutScore("-divergence", -objective.divergence(original, outputs, groups), rows)
        found = metric.measure(Truth(labels, groups), outputs) or 0.0
        return HoldOutScore(metric.name if metric.higher_is_better else f"-{metric.name}", metric.sign * found, rows)

    return mark


def _answer(subject: Subject, batch: Any, student: nn.Module) -> Tensor:  # noqa: ANN401 - what the loader yields
    return subject.forward(student, batch).reshape(-1)
