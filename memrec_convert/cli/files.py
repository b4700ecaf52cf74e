"""The commands on files as they are: `inspect`, `evaluate`, `verify`, `export`, `diff` and `apply`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from memrec_convert.choices import Inputs, PlaceName
from memrec_convert.cli.console import Progress, show
from memrec_convert.cli.options import (
    choose,
    force_option,
    group_option,
    list_given,
    log_option,
    output_options,
    reading_options,
    running_options,
)

MOST_SHOWN = 12
"""Changed tensors that `diff` lists."""


@click.command()
@click.argument("file")
@click.option(
    "--scan",
    is_flag=True,
    help="Also read the rows: count zero, constant, duplicate and non-finite rows, and show norms.",
)
@output_options
def inspect(file: str, *, scan: bool, as_json: bool, quiet: bool) -> None:
    """Show what checkpoint FILE holds: tables, dense part, layout, optimizer state. Reads headers only."""
    from memrec_convert.checkpoint.inspect import inspect as run
    from memrec_convert.report.terminal import render_inspection, render_scan

    with Progress(quiet=quiet) as progress:
        found = run(file, scan=scan, progress=progress)

    def render(values: Mapping[str, Any], width: int) -> str:
        return render_inspection(values, width) + ("\n\n" + render_scan(values, width) if scan else "")

    show(found.to_json(), render, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("file")
@log_option("--eval", "The log to measure on; repeatable.", required=True)
@click.option(
    "--against", metavar="CHECKPOINT", help="Also measure the original on the same rows and show the paired difference."
)
@group_option
@click.option("--ablation", is_flag=True, help="With --against: measure each table's compression alone.")
@click.option("--scores", metavar="FILE.npy", help="Write the logits.")
@force_option
@reading_options
@running_options
@output_options
def evaluate(file: str, *, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Measure the quality of artifact or checkpoint FILE on a log."""
    from memrec_convert.conversion.evaluate import evaluate as run
    from memrec_convert.report import render_evaluation

    show(run(file, **list_given(options)).to_json(), render_evaluation, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("file")
@click.option("--against", metavar="CHECKPOINT", help="Decode every row and compare it with the source's.")
@output_options
def verify(file: str, *, against: str | None, as_json: bool, quiet: bool) -> None:
    """Check artifact FILE: size, digests, shapes, indices. Of an export: run its golden samples."""
    from memrec_convert.conversion.verify import verify as run
    from memrec_convert.exports.export import find_place, prove

    if find_place(file) is None:
        show(run(file, against=against).to_json(), _render_verified, as_json=as_json, quiet=quiet)
    elif against is not None:
        raise click.UsageError(f"--against goes with an artifact, and {file} is an export of one")
    else:
        show(prove(file).to_json(), _render_proved, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("file")
@choose("--to", PlaceName, "The place: AOTInductor, ONNX Runtime, or a page for the browser.", required=True)
@click.option("--out", required=True, metavar="PATH", help="The file to write; for web a directory.")
@choose("--inputs", Inputs, "What it takes: one id per input (default), bags of ids, bags with weights.")
@click.option("--web-runtime", metavar="DIR", help="Directory with the files of onnxruntime-web, for web.")
@force_option
@output_options
def export(file: str, *, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Write the model of artifact FILE for another place, with golden samples that prove it."""
    from memrec_convert.exports.export import export as run

    given = {name: value for name, value in options.items() if value is not None}
    show(run(file, **given).to_json(), _render_exported, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--out", required=True, metavar="PATCH", help="The patch to write.")
@force_option
@output_options
def diff(old: str, new: str, *, out: str, force: bool, as_json: bool, quiet: bool) -> None:
    """Write the patch that makes artifact NEW of artifact OLD: what changed, compressed."""
    from memrec_convert.patches.diff import diff as run

    show(run(old, new, out=out, force=force).to_json(), _render_diffed, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("old")
@click.argument("patch")
@click.option("--out", required=True, metavar="NEW", help="The artifact to write; with --force, OLD itself.")
@force_option
@output_options
def apply(old: str, patch: str, *, out: str, force: bool, as_json: bool, quiet: bool) -> None:
    """Make the new artifact of artifact OLD and PATCH: the bytes that diff saw, or none."""
    from memrec_convert.patches.apply import apply as run

    show(run(old, patch, out=out, force=force).to_json(), _render_applied, as_json=as_json, quiet=quiet)


def _render_verified(found: Mapping[str, Any], _width: int) -> str:
    head = f"{found['path']}: sound. {found['bytes']} bytes, {found['tensors']} tensors, {found['tables']} tables."
    tables = found["against"]["tables"] if found["against"] else ()
    errors = [f"  {one['name']}: relative error of its rows {_render_error(one['relative_error'])}" for one in tables]
    return "\n".join([head, *errors])


def _render_error(error: float | None) -> str:
    return "not a number: rows are beyond the range of float32" if error is None else f"{error:.4f}"


def _render_proved(found: Mapping[str, Any], _width: int) -> str:
    return (
        f"{found['path']}: as the artifact {found['artifact'][:8]}... it was made from. {found['samples']} samples in "
        f"{found['runtime']}, largest difference {found['largest_difference']:.1e}. {found['bytes']} bytes."
    )


def _render_exported(found: Mapping[str, Any], _width: int) -> str:
    more = found["bytes"] / found["artifact_bytes"] - 1
    return f"{found['path']}: {found['bytes']} bytes for {found['place']}, {more:+.1%} on the artifact."


def _render_diffed(found: Mapping[str, Any], _width: int) -> str:
    share = found["bytes"] / found["new_bytes"]
    head = f"{found['path']}: {found['bytes']} bytes, {share:.1%} of the new artifact; {found['same']} parts unchanged."
    largest = sorted(found["changes"], key=lambda one: -one["patch_bytes"])[:MOST_SHOWN]
    changes = [
        f"  {one['name']}: {one['patch_bytes']} bytes for {one['changed']} of {one['entries']} entries"
        for one in largest
    ]
    more = [f"  and {len(found['changes']) - len(largest)} more (--json has them all)"]
    names = found["removed"][:MOST_SHOWN]
    rest = len(found["removed"]) - len(names)
    removed = [f"  removed: {', '.join(names)}" + (f" and {rest} more" if rest else "")] if names else []
    return "\n".join([head, *changes, *(more if len(largest) < len(found["changes"]) else []), *removed])


def _render_applied(found: Mapping[str, Any], _width: int) -> str:
    return (
        f"{found['path']}: {found['bytes']} bytes, those that the patch of {found['patch_bytes']} bytes was made for."
    )
