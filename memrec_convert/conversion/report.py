"""Reports as files: what is written beside an artifact, and the page made from it or from a report of before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrec_convert.errors import OutputError, ReportError
from memrec_convert.remote import RemotePath
from memrec_convert.report import Report, render_card
from memrec_convert.report.html import Latency, RivalTable, read_comparison, read_latency, render_html
from memrec_convert.safe_files import check_target, refuse_same, write_file

MOST_JSON_BYTES = 64 << 20
MOST_LEVELS = 40
LARGEST_NUMBER = 1e18
"""Files, levels and numbers beyond these are no report's."""


@dataclass(frozen=True)
class Page:
    """An HTML page to be: its file, and what it shows beside the report."""

    path: Path
    comparison: tuple[RivalTable, ...] = ()
    latency: Latency | None = None

    def write(self, report: Report) -> None:
        """Writes the page; OutputError where that fails."""
        page = render_html(report, comparison=self.comparison, latency=self.latency)
        write_file(self.path, [page.encode()])


@dataclass(frozen=True)
class Companions:
    """What goes with an artifact: report (JSON), model card (Markdown) and, where wanted, a page (HTML)."""

    report: Path
    card: Path
    page: Page | None = None

    @classmethod
    def beside(cls, target: Path, page: Page | None = None) -> Companions:
        """Those of an artifact, by its name."""
        return cls(target.with_name(target.stem + ".report.json"), target.with_name(target.stem + ".card.md"), page)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (self.report, self.card, *([self.page.path] if self.page is not None else []))

    def write(self, report: Report) -> None:
        """Writes all of them; OutputError where that fails."""
        write_file(self.report, [json.dumps(report.to_json(), indent=1).encode()])
        write_file(self.card, [render_card(report).encode()])
        if self.page is not None:
            self.page.write(report)


def check_targets(targets: Sequence[Path], source: Path, *, force: bool) -> None:
    """OutputError, before any work, for files that cannot be written, are one another, or are the source."""
    for number, one in enumerate(targets):
        check_target(one, force=force)
        if not isinstance(source, RemotePath):
            refuse_same(one, source, "the checkpoint")
        if one.resolve() in [other.resolve() for other in targets[:number]]:
            raise OutputError(f"cannot write {one}: two results would have this name; choose another for one of them.")


def plan_page(
    path: str | Path | None, *, compare_json: str | Path | None = None, bench_json: str | Path | None = None
) -> Page | None:
    """The page that was asked for, its figures read; None without `path`. ReportError for figures of another kind."""
    if path is None:
        for given, name in ((compare_json, "--compare-json"), (bench_json, "--bench-json")):
            if given is not None:
                raise OutputError(f"{name} goes into the HTML page, and none was asked for; name one.")
        return None
    return Page(
        Path(path),
        () if compare_json is None else read_comparison(_read_json(Path(compare_json))),
        None if bench_json is None else read_latency(_read_json(Path(bench_json))),
    )


def show_report(
    path: str | Path,
    *,
    html: str | Path | None = None,
    compare_json: str | Path | None = None,
    bench_json: str | Path | None = None,
    force: bool = False,
) -> Report:
    """The report that `convert` wrote as JSON; with `html` the page too, beside it what `compare` and `bench` found.

    ReportError for files that hold something else, OutputError where the page cannot be written.
    """
    page = plan_page(html, compare_json=compare_json, bench_json=bench_json)
    if page is not None:
        check_target(page.path, force=force)
        for read in (path, compare_json, bench_json):
            if read is not None and page.path.exists() and Path(read).exists() and page.path.samefile(read):
                raise OutputError(f"cannot write {page.path}: it is read too; choose another name for the page.")
    values = _read_json(Path(path))
    if not isinstance(values, dict):
        raise ReportError(f"{path} is no report: it holds no JSON object; give the .report.json of a conversion.")
    report = Report.from_json(values)
    if page is not None:
        page.write(report)
    return report


def _read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON file's value, within bounds of size, depth and numbers; ReportError for anything else."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_JSON_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ReportError(f"cannot read {path}: {reason}; give a JSON file.") from error
    if len(text) > MOST_JSON_BYTES:
        raise ReportError(f"{path} has more than {MOST_JSON_BYTES >> 20} MiB, which no report has; give another.")
    try:
        values = json.loads(text, parse_int=_read_int, parse_float=_read_float, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ReportError(f"{path} is no JSON: {reason}; give what this program wrote.") from None
    if _measure_depth(values) > MOST_LEVELS:
        raise ReportError(f"{path} is nested more than {MOST_LEVELS} levels deep, which no report is.")
    return values


def _read_int(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _read_float(text: str) -> float:
    value = float(text)
    if abs(value) > LARGEST_NUMBER:
        raise ValueError(f"the number {text[:24]}")
    return value


def _measure_depth(values: object) -> int:
    deepest, left = 0, [(values, 1)]
    while left:
        value, depth = left.pop()
        deepest = max(deepest, depth)
        if depth <= MOST_LEVELS and isinstance(value, (dict, list)):
            left += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    return deepest
