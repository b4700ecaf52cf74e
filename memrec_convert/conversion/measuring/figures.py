"""What was measured, in the report's own types: groups, deciles, single tables, the control."""

from __future__ import annotations

from collections.abc import Sequence

from memrec_convert.conversion.measuring.ablation import Ablation
from memrec_convert.conversion.measuring.control import ControlFigures
from memrec_convert.evaluation.delong import AucDifference, judge
from memrec_convert.evaluation.groups import FEW_GROUPS, GroupComparison
from memrec_convert.evaluation.metrics import Decile, Metrics
from memrec_convert.report import (
    AblationReport,
    AucComparison,
    ControlReport,
    DecileComparison,
    DecileReport,
    GroupReport,
)


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


def report_deciles(before: Metrics, after: Metrics) -> DecileComparison:
    """Calibration by tenths of the samples, each model's in the order of its own predictions."""
    return DecileComparison(*(tuple(map(_report_decile, metrics.deciles)) for metrics in (before, after)))


def _report_decile(decile: Decile) -> DecileReport:
    return DecileReport(decile.samples, decile.mean_prediction, decile.mean_label)


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
