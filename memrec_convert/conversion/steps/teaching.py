"""Fine-tuning of a converted model by its original, and of the original itself for control; marks from the hold-out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.conversion.inputs.subject import BatchSource, Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.errors import LogError
from memrec_convert.evaluation.metrics import auc
from memrec_convert.evaluation.scoring import mean_divergence, score_batches
from memrec_convert.evaluation.support import ScoredRows
from memrec_convert.finetune.loop import FineTuning, HoldOut, HoldOutScore, Lesson, Lessons, TrainingPlan, fine_tune
from memrec_convert.finetune.rows import open_rows
from memrec_convert.finetune.trainable import open_codes

LABEL_SHARE = 0.2
"""Of mixed targets, how much of each is the label; the rest is the original's own prediction."""


def teach(
    subject: Subject,
    model: nn.Module,
    options: Options,
    *,
    progress: Progress,
    apart: Collection[nn.Module] = (),
    mark: HoldOut | None = None,
) -> FineTuning:
    """Trains `model` on the subject's training data and keeps its best state on the hold-out.

    Of the kept tables those `apart` have rows that move each by themselves alone. `mark` scores states, where the
    caller has one already.
    """
    train = _require_train(subject)
    if options.targets == "labels" and not train.has_labels:
        raise LogError("fine-tuning on labels was asked for, and the training data has none; use --targets soft.")
    plan = _make_plan(options, train)
    if options.train_dense:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    try:
        return fine_tune(
            model,
            _make_lessons(subject, options, options.targets),
            plan,
            hold_out=mark or make_mark(subject, options),
            progress=progress,
            open_model=partial(open_codes, apart=apart),
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
    plan = _make_plan(options, train)
    if options.train_dense:
        model.requires_grad_(True)
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


def _make_plan(options: Options, train: BatchSource) -> TrainingPlan:
    return TrainingPlan(
        epochs=options.epochs,
        steps_per_epoch=train.count_batches(),
        targets=options.targets,
        train_dense=options.train_dense,
    )


def _make_lessons(subject: Subject, options: Options, targets: str) -> Lessons:
    """The training data's batches, in the order that seed and epoch give, with what is to be learnt from each."""
    train = _require_train(subject)

    def lessons(epoch: int) -> Iterator[Lesson]:
        for batch in train.stream(shuffle_seed=options.seed * 1000 + epoch):
            yield Lesson(partial(_answer, subject, batch), make_targets(subject, train, batch, targets))

    return lessons


def make_targets(subject: Subject, train: BatchSource, batch: Any, targets: str) -> Tensor:  # noqa: ANN401
    """What to learn from a batch, as probabilities float32 [n]: the original's own ("soft"), the labels, or both.

    "mixed" is soft where the training data has no labels.
    """
    if targets == "labels":
        return train.labels_of(batch).to(torch.float32)
    with torch.no_grad():
        soft = torch.sigmoid(subject.forward(subject.model, batch).reshape(-1))
    if targets == "soft" or not train.has_labels:
        return soft
    return (1 - LABEL_SHARE) * soft + LABEL_SHARE * train.labels_of(batch).to(torch.float32)


def make_mark(subject: Subject, options: Options) -> HoldOut:
    """Scores a state on the hold-out: by AUC where it has labels of both classes, else by closeness to the original."""
    hold_out = subject.hold_out
    assert hold_out is not None
    score: Callable[[nn.Module], np.ndarray] = partial(_score, subject, hold_out, options)
    original = score(subject.model)
    labels, groups = _read_rows(hold_out)

    def mark(student: nn.Module) -> HoldOutScore:
        logits = score(student)
        rows = ScoredRows(logits.astype(np.float64), original.astype(np.float64), labels, groups)
        if labels is None:
            return HoldOutScore("-divergence", -mean_divergence(original, logits), rows)
        return HoldOutScore("auc", auc(labels, logits) or 0.0, rows)

    return mark


def _read_rows(hold_out: BatchSource) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Labels [n] where there are some of both classes, and groups int64 [n] where there are some."""
    labels, groups = list[np.ndarray](), list[np.ndarray]()
    for batch in hold_out.stream():
        if hold_out.has_labels:
            labels.append(hold_out.labels_of(batch).numpy())
        found = hold_out.groups_of(batch)
        groups += [found.numpy()] if found is not None else []
    joined = np.concatenate(labels) if labels else np.zeros(0)
    return joined if len(np.unique(joined)) > 1 else None, np.concatenate(groups) if groups else None


def _score(subject: Subject, hold_out: BatchSource, options: Options, model: nn.Module) -> np.ndarray:
    workers = subject.scoring_workers(options.workers)
    return score_batches(model, hold_out.stream(), subject.forward, workers=workers)


def _answer(subject: Subject, batch: Any, student: nn.Module) -> Tensor:  # noqa: ANN401 - what the loader yields
    return subject.forward(student, batch).reshape(-1)
