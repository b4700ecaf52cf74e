"""The report as a page to look at: one HTML file with its charts, that loads nothing."""

from __future__ import annotations

from memrec_convert.report.html.given import Latency, RivalTable, read_comparison, read_latency
from memrec_convert.report.html.page import render_html

__all__ = ["Latency", "RivalTable", "read_comparison", "read_latency", "render_html"]
