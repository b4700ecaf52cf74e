"""What was measured, in the report's own types: groups, deciles, single tables, the control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memrec_convert.conversion.measuring.ablation import Ablation
from memrec_convert.conversion.measuring.control import ControlFigures
from memrec_convert.evaluation.delong import AucDifference, judge
from memrec_convert.evaluation.groups import FEW_GROUPS, GroupComparison
from memrec_convert.evaluation.metrics import Metrics
from memrec_convert.report import (
    AblationReport,
    AucComparison,
    Comparison,
    ControlReport,
    DecileComparison,
    GroupReport,
)


def compare_figures(before: Metrics, after: Metrics, difference: AucDifference | None) -> dict[str, Any]:
    """Two models' figures on the same rows, by the names that reports have for them; None where one is undefined."""
    figures: dict[str, Any] = {"auc": None if difference is None else report_auc(difference)}
    for name in ("log_loss", "normalized_entropy", "calibration"):
        old, new = getattr(before, name), getattr(after, name)
        figures[name] = None if old is None or new is None else Comparison(old, new)
    return figures | {"deciles": DecileComparison(before.deciles, after.deciles)}


def report_auc(difference: AucDifference) -> AucComparison:
    """A paired AUC difference."""
    return AucComparison(difference.before, difference.after, difference.ci95, difference.verdict)


def report_groups(compared: GroupComparison, column: str) -> GroupReport:
    """GAUC and the bootstrap over the groups of a column."""
    gauc = None
    if compared.gauc_before is not None and compared.gauc_after is not None:
        interval = compared.gauc_ci95
        verdict = judge(interval) if interval is not None else "undecided"
        gauc = AucComparison(compared.gauc_before, compared.gauc_after, interval, verdict)
    return GroupReport(
        column=column,
        groups=compared.groups,
        both_classes=compared.both_classes,
        covered=compared.covered,
        gauc=gauc,
        auc_ci95=compared.auc_ci95,
        verdict=compared.verdict,
        resamples=compared.resamples,
    )


def warn_of_groups(compared: GroupComparison | None) -> tuple[str, ...]:
    """A warning where there are too few groups to resample."""
    if compared is None or compared.groups >= FEW_GROUPS:
        return ()
    return (f"the evaluation data has {compared.groups} groups: a bootstrap over fewer than {FEW_GROUPS} says little",)


def report_ablation(found: Sequence[Ablation]) -> tuple[AblationReport, ...]:
    """Each table alone."""
    return tuple(
        AblationReport(one.table, one.difference.after, one.difference.delta, one.difference.ci95) for one in found
    )


def report_control(figures: ControlFigures) -> ControlReport:
    """The control's training and its three differences."""
    training = figures.training
    return ControlReport(
        metric=training.metric,
        steps=training.steps,
        best_step=training.best_step,
        gain=training.gain,
        rate=training.rate,
        training=report_auc(figures.trained_original),
        conversion=report_auc(figures.untrained),
        compression=report_auc(figures.compression),
    )
