"""A conversion's report on one screen: headline, sizes, quality, what to worry about, and the next command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from shlex import quote
from typing import Any

from memrec_convert.report.figures import (
    count_digits,
    describe_conversion,
    find_headline,
    format_change,
    format_percent,
    format_share,
    format_size,
    format_value,
    title_of,
)
from memrec_convert.report.report import Report
from memrec_convert.report.tables import size_table
from memrec_convert.report.terminal import draw_table, join_blocks, quality_lines
from memrec_convert.report.text import NARROWEST, shorten, wrap

SCREEN_LINES = 38
"""Lines of the whole; with the shell's own they fit a terminal of 40."""
LONGEST_WORRY = 240
"""Characters of a sentence; a longer one loses its middle."""
COSTLY = -0.005
"""A change of the AUC from which a slice of the rows is worth a word,"""
LARGE_SLICE = 0.01
"""if it has this share of them."""
CALIBRATION_MOVED = 0.02
GUESSED = ("uniform", "displacement")
"""Weights of ids that stand in for a log."""


@dataclass(frozen=True)
class Step:
    """What to do next: a sentence, and the words of its command."""

    said: str
    command: tuple[str, ...]


def render_summary(report: Report, step: Step | None = None, width: int = 80) -> str:
    """At most SCREEN_LINES lines, none wider than `width` but for a file's name in the command of `step`.

    Worries that have no room are counted; `render_terminal` has them all.
    """
    values, width = report.to_json(), max(width, NARROWEST)
    path, budget = shorten(values["artifact"]["path"], 2 * width), values["budget_bytes"]
    used = f"{path}: {format_percent(values['artifact']['bytes'], budget)} of {format_size(budget)} used"
    gate, like = values["plan"].get("gate"), values["plan"].get("like")
    above = [
        wrap(describe_conversion(values), width),
        [
            *wrap(f"{used}; memory once loaded: {format_size(values['serving_bytes'])}", width, indent="  "),
            *(wrap(like["says"], width, indent="  ") if like else []),
            *(wrap(f"Quality gate: {gate['says']}", width, indent="  ") if gate else []),
        ],
        draw_table(size_table(values["sizes"]), width),
        quality_lines(values, width),
    ]
    below = [*_step_lines(step, width), *wrap("Tables, slices, plan and provenance: --full", width)]
    room = SCREEN_LINES - sum(len(block) + 1 for block in (*above, below))
    return join_blocks([*above, _worry_lines(list_worries(values), width, room), below])


def list_worries(values: dict[str, Any]) -> list[str]:
    """What the reader of a report's JSON should know before using the artifact, the gravest first."""
    calibration = values["calibration"]
    worries = [*values["warnings"]]
    judged = find_headline(values)
    if judged is None:
        worries.insert(0, "The AUC was not measured, so nobody knows what the conversion costs: give --eval LOG.")
    elif judged["verdict"] in ("worse", "undecided"):
        few = judged["verdict"] == "undecided"
        changed = format_change(judged["delta"], count_digits(judged))
        said = "is undecided: the log has too few rows" if few else f"is {changed}: it is worse"
        worries.insert(0, f"The change of the {title_of(judged)} {said}.")
    costly = [one for one in values["slices"] or () if (one["delta"] or 0) <= COSTLY and one["share"] >= LARGE_SLICE]
    if costly:
        worst = min(costly, key=lambda one: float(one["delta"]))
        worries.append(
            f"The AUC changes by {format_change(worst['delta'])} over the {format_share(worst['share'])} of the rows "
            f"whose lookup in {shorten(worst['table'], 40)} has the form {shorten(worst['form'], 20)}."
        )
    if calibration is not None and abs(calibration["after"] - calibration["before"]) > CALIBRATION_MOVED:
        moved = f"{format_value(calibration['before'])} to {format_value(calibration['after'])}"
        worries.append(f"Calibration moved from {moved}.")
    if values["weights"] in GUESSED:
        worries.append(f"Rows were weighted by {values['weights']}, for want of a log: give --data LOG.")
    return [*worries, *(f"Assumed: {one}" for one in values["assumed"])]


def suggest_step(report: Report, *, file: str | None = None, source: str | None = None, paged: bool = False) -> Step:
    """The command that tells most about a report: its page; where there is one, or no AUC, what the source can tell.

    `file` is the report's own (default: beside the artifact), `source` the checkpoint, `paged` whether a page is made.
    """
    artifact = PurePath(report.artifact.path)
    found = artifact.with_suffix(".report.json") if file is None else PurePath(file)
    beside = str(found.with_name(artifact.name))
    against = () if source is None else ("--against", source)
    if report.auc is None and report.metric is None and source is not None:
        return Step("Next, compare every row with the original's:", ("verify", beside, *against))
    if not paged:
        page = str(found.with_name(artifact.stem + ".html"))
        return Step("Next, look at it with charts, table by table:", ("report", str(found), "--html", page))
    return Step("Next, measure how fast it is:", ("bench", beside, *against))


def _step_lines(step: Step | None, width: int) -> list[str]:
    """The step's command in lines that a shell reads as one; none where a name in it cannot be shown as it is."""
    if step is None or not all(word.isprintable() for word in step.command):
        return []
    lines = ["  memrec-convert"]
    for word in map(quote, step.command):
        if len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return [*wrap(step.said, width), *lines]


def _worry_lines(worries: Sequence[str], width: int, room: int) -> list[str]:
    """As many as `room` has lines for under their title, and how many are left."""
    if not worries:
        return ["What to worry about: nothing that was measured."]
    lines = ["What to worry about:"]
    for number, worry in enumerate(worries):
        more = wrap(f"- {shorten(worry, LONGEST_WORRY)}", width, indent="  ")
        if len(lines) + len(more) + (number < len(worries) - 1) > room:
            return [*lines, f"- and {len(worries) - number} more: --full"[:width]]
        lines += more
    return lines
