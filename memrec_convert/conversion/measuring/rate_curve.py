"""The rate curve of a finished conversion: what other sizes would have cost, for its report."""

from __future__ import annotations

from typing import Any

from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.conversion.measuring.prediction import draw_curve, measure_drop, model_auc
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.outcome import Shrunk
from memrec_convert.conversion.steps.sizing import make_counter
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.units import SHARE_ALLOWANCE_BYTES


def foresee(subject: Subject, shrunk: Shrunk, options: Options) -> list[dict[str, Any]]:
    """Bytes and predicted AUC drop, before any fine-tuning, over many sizes; nothing without data to predict on, and
    nothing where an earlier artifact was taken over, since then no curves were fitted.

    As `plan --curve` has it: with labels in the hold-out, scaled to the drop measured there before fine-tuning.
    """
    if not shrunk.fitted.fits:
        return []
    with single_threaded_torch():
        model = model_auc(subject, workers=options.workers)
        if model is None:
            return []
        hold_out = subject.hold_out
        if hold_out is not None and hold_out.has_labels:
            measured = measure_drop(subject, shrunk.untrained(), hold_out, workers=options.workers)
            if measured is not None:
                model = model.calibrate(shrunk.chosen.planned, measured)
        count = make_counter(subject, shrunk.metadata, oov=options.oov)
        fixed = subject.dense_bytes("fp32") + SHARE_ALLOWANCE_BYTES
        return draw_curve(subject, shrunk.fitted, count, model, fixed_bytes=fixed)
