"""What a conversion did: JSON, terminal, page and model card. Renders figures; opens no file but its templates."""

from __future__ import annotations

from memrec_convert.report.card import render_card
from memrec_convert.report.report import (
    AblationReport,
    Alternative,
    ArtifactFile,
    ArtifactSizes,
    AucComparison,
    Comparison,
    ControlReport,
    DecileComparison,
    GroupReport,
    MetricComparison,
    Provenance,
    Report,
    Sizes,
    SourceSizes,
    TableReport,
)
from memrec_convert.report.summary import render_summary, suggest_step
from memrec_convert.report.terminal import render_evaluation, render_inspection, render_plan, render_terminal

__all__ = [
    "AblationReport",
    "Alternative",
    "ArtifactFile",
    "ArtifactSizes",
    "AucComparison",
    "Comparison",
    "ControlReport",
    "DecileComparison",
    "GroupReport",
    "MetricComparison",
    "Provenance",
    "Report",
    "Sizes",
    "SourceSizes",
    "TableReport",
    "render_card",
    "render_evaluation",
    "render_inspection",
    "render_plan",
    "render_summary",
    "render_terminal",
    "suggest_step",
]
