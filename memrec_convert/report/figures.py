"""Figures in words, for terminal, card and page: sizes, ratios, AUCs, and which of them nobody measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.units import format_bytes

NOT_MEASURED = "not measured"
MOST_ITEMS = 12
"""A longer list within a mapping that is passed on as it is stays in the JSON."""


def format_value(value: float | None, digits: int = 4) -> str:
    """0.8027, or 'not measured'; never -0.0000."""
    return NOT_MEASURED if value is None else f"{_unsigned_zero(value, digits):.{digits}f}"


def format_change(value: float | None, digits: int = 4) -> str:
    """+0.0006, -0.0006 or 0.0000."""
    if value is None:
        return NOT_MEASURED
    rounded = _unsigned_zero(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def format_size(size: float | None) -> str:
    """48.0 MB, or 'not measured'."""
    return NOT_MEASURED if size is None else format_bytes(size)


def format_ratio(ratio: float | None) -> str:
    """47x, 4.7x, 2,094x; 'not measured' where a side is missing."""
    if ratio is None:
        return NOT_MEASURED
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:,.0f}x"


def format_share(share: float) -> str:
    """61 %, 0.4 %, <0.1 %: enough to tell something from nothing."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def format_percent(part: float, whole: float) -> str:
    """95.8 % of a whole; 'not measured' of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else NOT_MEASURED


def describe_shares(shares: Mapping[str, float] | None) -> str:
    """'row 61 %, code(3) 30 %, mean 9.0 %', the largest first."""
    if shares is None:
        return NOT_MEASURED
    ordered = sorted(shares.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{form} {format_share(share)}" for form, share in ordered) or "none"


def find_headline(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The figure that a conversion is judged by: its metric where it has one of its own, else the AUC."""
    found: Mapping[str, Any] | None = report.get("metric") or report["auc"]
    return found


def title_of(figure: Mapping[str, Any] | None) -> str:
    """The name of the figure that a conversion is judged by."""
    return str((figure or {}).get("title", "AUC"))


def count_digits(figure: Mapping[str, Any]) -> int:
    """Digits after the point that it is shown with: 4, and more where a metric of its own is small."""
    size = abs(figure["before"]) if "title" in figure else 1.0
    return 4 if size >= 0.1 or not size else min(12, 3 - math.floor(math.log10(size)))


def describe_auc(auc: Mapping[str, Any] | None) -> str:
    """'AUC 0.8027 -> 0.8021 (-0.0006, 95 % interval -0.0009 to -0.0003: worse)'; another metric by its title."""
    if auc is None:
        return f"AUC {NOT_MEASURED}"
    digits = count_digits(auc)
    said = f", 95 % interval {describe_interval(auc['ci95'], digits)}" if auc.get("ci95") else ""
    verdict = f": {auc['verdict']}" if auc.get("verdict") else ""
    return (
        f"{title_of(auc)} {format_value(auc['before'], digits)} -> {format_value(auc['after'], digits)} "
        f"({format_change(auc['delta'], digits)}{said}{verdict})"
    )


def describe_conversion(report: Mapping[str, Any]) -> str:
    """The headline: both sizes, their ratio and the AUCs. The source counts without optimizer state."""
    source, artifact = report["sizes"]["source"], report["artifact"]
    before = source["tables"] + source["dense"]
    ratio = before / artifact["bytes"] if artifact["bytes"] else None
    sizes = f"{format_size(before)} -> {format_size(artifact['bytes'])} ({format_ratio(ratio)})"
    return f"{sizes}, {describe_auc(find_headline(report))}"


def describe_budget(report: Mapping[str, Any]) -> str:
    """Budget, bytes of the file and serving memory, in two sentences."""
    return (
        f"The budget was {format_size(report['budget_bytes'])} ({report['budget_bytes']:,} bytes) and counts the whole "
        f"file; the file has {report['artifact']['bytes']:,} bytes. Serving memory: "
        f"{format_size(report['serving_bytes'])}."
    )


def describe_groups(groups: Mapping[str, Any]) -> list[str]:
    """Sentences on GAUC and the bootstrap over groups; a model alone has the first two only."""
    gauc = groups["gauc"]
    said = f"GAUC {format_value(gauc)}" if not isinstance(gauc, Mapping) else f"G{describe_auc(gauc)}"
    lines = [
        f"Groups by column {groups['column']}: {groups['groups']:,}, of which {groups['both_classes']:,} hold both "
        f"classes and have an AUC, with {format_share(groups['covered'])} of the rows",
        f"{said} (their mean, weighted with rows)",
    ]
    interval = groups.get("auc_ci95")
    if interval is not None:
        lines.append(
            f"Change of the AUC over all rows, 95 % interval from {groups['resamples']:,} resamples of whole groups: "
            f"{describe_interval(interval)}: {groups['verdict']}"
        )
    return lines


def describe_dense(dense: Mapping[str, Any]) -> str:
    """What the precision of the dense part alone costs and gains."""
    said = f"Dense part: {dense['stored']}, computed in {dense['compute']}; {format_size(dense['bytes'])} instead of "
    said += f"{format_size(dense['bytes_fp32'])}"
    return said if dense["auc_drop"] is None else f"{said}; by this alone the AUC changes by {-dense['auc_drop']:+.5f}"


def describe_control(control: Mapping[str, Any]) -> str:
    """How the control was trained, and what its hold-out said."""
    kept = f"step {control['best_step']:,}" if control["best_step"] else "step 0, the original itself"
    metric = "AUC" if control["metric"] == "auc" else control["metric"]
    return (
        f"Control: the uncompressed original after {control['steps']:,} training steps on the same batches; the "
        f"hold-out kept {kept} ({metric} {format_change(control['gain'], 5)})"
    )


def describe_interval(interval: Sequence[float] | None, digits: int = 4) -> str:
    """-0.0009 to -0.0003."""
    if interval is None:
        return NOT_MEASURED
    return f"{format_change(interval[0], digits)} to {format_change(interval[1], digits)}"


def describe_mapping(values: Mapping[str, Any]) -> list[str]:
    """'key: value' for each entry of a mapping that is passed on as it is; nested ones in brackets."""
    return [f"{key}: {_describe(value)}" for key, value in values.items()]


def describe_provenance(report: Mapping[str, Any]) -> list[str]:
    """What the artifact came from and how long that took; what was not recorded is left out."""
    known = {key: value for key, value in report["provenance"].items() if value not in (None, {})}
    reading = report.get("seconds_reading") or {}
    seconds = {
        stage: f"{spent:.1f} s" + (f" (reading: {reading[stage]:.1f})" if reading.get(stage) else "")
        for stage, spent in report["seconds"].items()
        if spent is not None
    }
    return describe_mapping({**known, **({"time": seconds} if seconds else {})})


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(describe_mapping(value)) + ")"
    if isinstance(value, (list, tuple)):
        if len(value) > MOST_ITEMS or any(isinstance(item, Mapping) for item in value):
            return f"{len(value)} entries (in the JSON)"
        items = [f"({_describe(item)})" if isinstance(item, (list, tuple)) else _describe(item) for item in value]
        return ", ".join(items) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return NOT_MEASURED if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _unsigned_zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0
