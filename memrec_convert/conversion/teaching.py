"""Fine-tuning of a converted model by its original: lessons from the training data, marks from the hold-out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.conversion.options import Options
from memrec_convert.conversion.subject import Progress, Subject
from memrec_convert.errors import LogError
from memrec_convert.evaluation.metrics import auc
from memrec_convert.evaluation.scoring import mean_divergence, score_batches
from memrec_convert.finetune.loop import FineTuning, HoldOutScore, Lesson, TrainingPlan, fine_tune


def teach(subject: Subject, model: nn.Module, options: Options, *, progress: Progress) -> FineTuning:
    """Trains `model` on the subject's training data and keeps its best state on the hold-out."""
    train, hold_out = subject.train, subject.hold_out
    assert train is not None
    assert hold_out is not None
    if options.targets == "labels" and not train.has_labels:
        raise LogError("fine-tuning on labels was asked for, and the training data has none; use --targets soft.")

    def lessons(epoch: int) -> Iterator[Lesson]:
        for batch in train.stream(shuffle_seed=options.seed * 1000 + epoch):
            if options.targets == "labels":
                targets = train.labels_of(batch).to(torch.float32)
            else:
                with torch.no_grad():
                    targets = torch.sigmoid(subject.forward(subject.model, batch).reshape(-1))
            yield Lesson(partial(_answer, subject, batch), targets)

    original = score_batches(
        subject.model, hold_out.stream(), subject.forward, workers=subject.scoring_workers(options.workers)
    )
    labels = (
        np.concatenate([hold_out.labels_of(batch).numpy() for batch in hold_out.stream()])
        if hold_out.has_labels
        else None
    )
    if labels is not None and len(np.unique(labels)) < 2:
        labels = None

    def mark(student: nn.Module) -> HoldOutScore:
        logits = score_batches(
            student, hold_out.stream(), subject.forward, workers=subject.scoring_workers(options.workers)
        )
        if labels is None:
            return HoldOutScore("-divergence", -mean_divergence(original, logits))
        return HoldOutScore("auc", auc(labels, logits) or 0.0)

    plan = TrainingPlan(
        epochs=options.epochs, steps_per_epoch=train.count_batches(), targets=options.targets,
        train_dense=options.train_dense,
    )  # fmt: skip
    if options.train_dense:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    try:
        return fine_tune(model, lessons, plan, hold_out=mark, progress=progress)
    finally:
        model.requires_grad_(False)


def _answer(subject: Subject, batch: Any, student: nn.Module) -> Tensor:  # noqa: ANN401 - what the loader yields
    return subject.forward(student, batch).reshape(-1)
