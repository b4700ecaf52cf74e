"""The control: what training gives the original itself, told apart from what compression costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from memrec_convert.conversion.inputs.from_checkpoint import LogBatches, run_on_batch
from memrec_convert.evaluation.delong import AucDifference, compare_auc
from memrec_convert.evaluation.scoring import Forward, score_batches
from memrec_convert.finetune.loop import FineTuning


@dataclass(frozen=True)
class Control:
    """The original after the converted model's training, the converted model before it, and how the control went."""

    model: nn.Module
    untrained: nn.Module
    training: FineTuning


@dataclass(frozen=True)
class ControlFigures:
    """Three AUC differences on the same rows.

    trained_original   original -> control: what training gives the original
    untrained          original -> converted model before fine-tuning: what conversion alone costs
    compression        control -> converted model: what compression costs when both are trained
    """

    training: FineTuning
    trained_original: AucDifference
    untrained: AucDifference
    compression: AucDifference


def compare_control(
    control: Control,
    batches: LogBatches,
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    *,
    workers: int,
    forward: Forward = run_on_batch,
) -> ControlFigures | None:
    """Scores the control's models; `before` and `after` are logits of the original and the converted model.

    None where the labels hold one class only.
    """
    trained, untrained = (
        score_batches(model, batches.stream(), forward, workers=workers) for model in (control.model, control.untrained)
    )
    found = [compare_auc(labels, one, two) for one, two in ((before, trained), (before, untrained), (trained, after))]
    differences = [one for one in found if one is not None]
    return ControlFigures(control.training, *differences) if len(differences) == len(found) else None
