"""The section on what a page could show and does not: what nobody measured, and the command that would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.html.beside import read_tried
from memrec_convert.report.html.given import Latency, RivalTable
from memrec_convert.report.html.markup import Html, join, tag
from memrec_convert.report.html.parts import Section, say

AGAIN = "memrec-convert report NAME.report.json --html NAME.html"
"""NAME stands for the artifact's: a name from a file is no part of a command that people paste into a shell."""

Values = Mapping[str, Any]
Hint = tuple[str, tuple[str, ...]]


def show_missing(values: Values, comparison: Sequence[RivalTable], latency: Latency | None) -> Section | None:
    """How to get what is not on the page; None where everything is."""
    hints = _find_missing(values, comparison, latency)
    if not hints:
        return None
    content: list[Html] = []
    for said, commands in hints:
        content.append(say(said))
        content += [tag("pre", tag("code", _keep_words(command))) for command in commands]
    return Section("missing", "What this page lacks", join(*content))


def _keep_words(command: str) -> Html:
    """A command that breaks between its words alone, never within an option."""
    return join(*(join(" " if number else None, tag("span", word)) for number, word in enumerate(command.split())))


def _find_missing(values: Values, comparison: Sequence[RivalTable], latency: Latency | None) -> list[Hint]:
    """(what is missing, commands that measure it), the most telling first."""
    hints: list[Hint] = []
    if values["auc"] is None:
        hints.append(
            (
                "AUC, calibration and AUC by form: give convert a test log that nothing was chosen on.",
                ("memrec-convert CHECKPOINT --budget SIZE --eval TEST_LOG",),
            )
        )
    if latency is None:
        hints.append(
            (
                "Speed, against the original:",
                (
                    "memrec-convert bench NAME.safetensors --against CHECKPOINT --data LOG --json > bench.json",
                    f"{AGAIN} --bench-json bench.json",
                ),
            )
        )
    if not comparison:
        hints.append(
            (
                "AUC against bytes, beside every other method at the same size:",
                (
                    "memrec-convert compare CHECKPOINT --budget SIZE --data LOG --val LOG --eval LOG --json "
                    "> compare.json",
                    f"{AGAIN} --compare-json compare.json",
                ),
            )
        )
    if not any(read_tried(values)):
        hints.append(
            (
                "The rate curve, which needs the checkpoint: convert with the page at once.",
                ("memrec-convert CHECKPOINT --budget SIZE --data LOG --report-html NAME.html",),
            )
        )
    if not any(table["lookup_share"] for table in values["tables"]):
        hints.append(
            (
                "Which form serves which lookups: give convert the training log, or a profile of it.",
                ("memrec-convert CHECKPOINT --budget SIZE --data LOG",),
            )
        )
    return hints
