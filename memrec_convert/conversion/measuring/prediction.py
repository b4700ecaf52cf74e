"""What a plan will cost, in the user's unit: predicted AUC drops, the rate curve, and what the next bytes would buy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from memrec_convert.conversion.inputs.subject import BatchSource, Subject, read_truth
from memrec_convert.conversion.steps.candidates import CONFIRM_SAMPLES
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.planning.forms import choose_form
from memrec_convert.planning.search import ROUGH_STEPS, CountFile, TablePlan, plan_tables

CURVE_RATIOS = (10, 20, 33, 50, 100, 200, 300, 500, 1000)
NOISE_DRAWS = 4
STEPS_PER_OCTAVE = 2
"""Drops are computed at so many variances per factor of two, and read off between them."""

SMALLEST_TELLING_DROP = 2e-4
"""AUC differences below this are within the noise of a hold-out of some hundred thousand rows."""


@dataclass(frozen=True)
class AucModel:
    """Predicts the AUC drop of a squared change of the logits, from the original's own logits (float64 [n]).

    Every sample counts as a click with the original's own probability, so no labels are needed. A drop that was
    measured calibrates the rest: `calibration` is what it was of the predicted one, `anchor` the predicted one.
    """

    logits: np.ndarray
    samples: int
    calibration: float = 1.0
    anchor: float = math.inf
    known: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    def drop(self, distortion: float) -> float:
        """The AUC lost when the logits change by independent noise; distortion is summed over the profile's samples.

        Independent noise is the worst case: part of what coding removes is detail that the original had overfitted.
        Up to the anchor that part is taken to grow with the drop, beyond it to be used up: what is gone costs no more.
        """
        predicted = self._predict(distortion)
        if self.calibration < 1 and predicted > self.anchor:
            return predicted - (1 - self.calibration) * self.anchor
        return predicted * self.calibration

    def _predict(self, distortion: float) -> float:
        variance = distortion / max(1, self.samples)
        if variance <= 0:
            return 0.0
        place = STEPS_PER_OCTAVE * math.log2(variance)
        step = math.floor(place)
        below, above, share = self._drop_at(step), self._drop_at(step + 1), place - step
        if below > 0 and above > 0:
            return math.exp((1 - share) * math.log(below) + share * math.log(above))
        return (1 - share) * below + share * above

    def _drop_at(self, step: int) -> float:
        """The AUC lost at a variance of 2 ** (step / STEPS_PER_OCTAVE), by the same noise at every step."""
        if step not in self.known:
            chances, before, noise = self._undisturbed
            deviation = 2.0 ** (step / STEPS_PER_OCTAVE / 2)
            after = [soft_auc(chances, self.logits + deviation * one) for one in noise]
            self.known[step] = max(0.0, before - float(np.mean(after)))
        return self.known[step]

    @cached_property
    def _undisturbed(self) -> tuple[np.ndarray, float, np.ndarray]:
        """Chances of a click [n], the AUC without noise, and noise of unit variance [NOISE_DRAWS, n]."""
        chances = 1 / (1 + np.exp(-self.logits))
        noise = np.random.default_rng(0).standard_normal((NOISE_DRAWS, len(self.logits)))
        return chances, soft_auc(chances, self.logits), noise

    def calibrate(self, distortion: float, measured_drop: float) -> AucModel:
        """The same model, made to meet a measured drop, where both are large enough to mean anything."""
        predicted = self._predict(distortion)
        if predicted < SMALLEST_TELLING_DROP or measured_drop < SMALLEST_TELLING_DROP:
            return self
        return replace(self, calibration=min(4.0, max(0.25, measured_drop / predicted)), anchor=predicted)


def soft_auc(chances: np.ndarray, scores: np.ndarray) -> float:
    """The expected AUC of scores whose labels are clicks with these chances; no pair of a sample with itself counts."""
    order = np.argsort(scores, kind="stable")
    positive = chances[order]
    negative = 1 - positive
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum() - (positive * negative).sum()
    return float((positive * below).sum() / pairs)


def model_auc(subject: Subject, *, workers: int) -> AucModel | None:
    """The AUC model of a subject, on its hold-out or a sample of its training data.

    None without data, or where the goal is another than the AUC of clicks.
    """
    source = subject.hold_out or subject.train
    if source is None or not subject.samples or not subject.goal.is_plain:
        return None
    logits = subject.score_original(source, workers, limit=CONFIRM_SAMPLES)
    return AucModel(logits.astype(np.float64), subject.samples)


def measure_drop(subject: Subject, model: nn.Module, source: BatchSource, *, workers: int) -> float | None:
    """What the metric loses against the original on labelled data; of a relative metric, as a share of its value.

    None where the metric is not defined there.
    """
    metric, truth = subject.goal.metric, read_truth(source)
    assert truth is not None
    before = metric.measure(truth, subject.score_original(source, workers))
    after = metric.measure(truth, subject.score(model, source.stream(), workers))
    return None if before is None or after is None else metric.sign * (before - after) / metric.scale(before)


def draw_curve(
    subject: Subject, fitted: Fitted, count: CountFile, auc_model: AucModel | None, *, fixed_bytes: int
) -> list[dict[str, Any]]:
    """The rate curve: per ratio the bytes of the best plan and what it is predicted to cost. No training, no codes."""
    curve = []
    for ratio in CURVE_RATIOS:
        budget = int(subject.table_bytes / ratio) + fixed_bytes
        found = _try_plan(fitted, budget, count)
        if found is not None:
            curve.append({"ratio": ratio, "budget_bytes": budget} | _describe(found, auc_model))
    return curve


def explain_tables(fitted: Fitted, subject: Subject, price: float, auc_model: AucModel | None) -> list[dict[str, Any]]:
    """Per table: mean sensitivity, its share of the predicted distortion, and what its next 1 kB would save in AUC.

    The value of the next 1 kB is read off the table's own rate curve, between the form at the plan's price and that at
    half of it.
    """
    forms = [choose_form(fit.curves, price) for fit in fitted.fits]
    richer = [choose_form(fit.curves, price / 2) for fit in fitted.fits]
    total = sum(form.distortion for form in forms)
    explained = []
    for site, weight, form, next_form in zip(subject.sites, fitted.weights, forms, richer, strict=True):
        bytes_more = next_form.nbytes - form.nbytes
        saved = (form.distortion - next_form.distortion) * 1000 / bytes_more if bytes_more > 0 else 0.0
        worth = auc_model.drop(total) - auc_model.drop(total - saved) if auc_model is not None else None
        explained.append(
            {
                "name": site.name,
                "sensitivity": float(weight.metric.square().sum()) / site.dim,
                "distortion_share": form.distortion / total if total > 0 else 0.0,
                "next_kilobyte_saves": saved,
                "next_kilobyte_auc": worth,
            }
        )
    return explained


def compare_neighbours(
    fitted: Fitted, budget_bytes: int, count: CountFile, auc_model: AucModel | None
) -> list[dict[str, Any]]:
    """What three quarters, the whole and four thirds of the budget lead to."""
    neighbours = []
    for factor in (0.75, 1.0, 4 / 3):
        found = _try_plan(fitted, int(budget_bytes * factor), count)
        if found is not None:
            neighbours.append({"budget_bytes": int(budget_bytes * factor)} | _describe(found, auc_model))
    return neighbours


def _try_plan(fitted: Fitted, budget_bytes: int, count: CountFile) -> TablePlan | None:
    try:
        curves = [fit.curves for fit in fitted.fits]
        return plan_tables(curves, budget_bytes, count, memo=fitted.forms, steps=ROUGH_STEPS)
    except BudgetTooSmallError:
        return None


def _describe(plan: TablePlan, auc_model: AucModel | None) -> dict[str, Any]:
    drop: Callable[[float], float] | None = auc_model.drop if auc_model is not None else None
    return {
        "predicted_bytes": plan.nbytes,
        "distortion": plan.distortion,
        "predicted_auc_drop": None if drop is None else drop(plan.distortion),
    }
