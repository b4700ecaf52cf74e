"""The commands about speed: `bench` an artifact, and `doctor` what it runs on."""

from __future__ import annotations

from typing import Any

import click

from memrec_convert.cli.console import Progress, print_json, text_width
from memrec_convert.cli.options import read_sizes, reading_options


@click.command()
@click.argument("file")
@click.option("--against", metavar="CHECKPOINT", help="Time the original too: nn.EmbeddingBag, and its rows as int8.")
@click.option("--data", multiple=True, metavar="LOG", help="Ids come from this log; repeatable.")
@click.option("--zipf", type=float, metavar="S", help="Ids of rank r are read as r**-S (default 1.05, without --data).")
@click.option("--batch", metavar="N,N,...", callback=read_sizes, help="Samples per call (default 1,64,512,2048,16384).")
@click.option("--threads", type=int, metavar="N", help="Threads (default 1).")
@click.option("--seconds", type=float, metavar="S", help="Aimed at per batch size (default 4).")
@click.option("--seed", type=int, metavar="N", help="Seed of the ids (default 0).")
@reading_options
@click.option("--json", "json_file", metavar="FILE", help="Write the figures as JSON; - for stdout.")
@click.option("--chart", metavar="FILE.svg", help="Draw time against batch size (needs the extra 'plots').")
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no table.")
def bench(
    file: str,
    *,
    data: tuple[str, ...],
    json_file: str | None,
    chart: str | None,
    force: bool,
    quiet: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Time artifact FILE as it is served: embedding stage and whole model, and the memory it takes."""
    from memrec_convert.bench.bench import bench as run
    from memrec_convert.bench.bench import check_outputs, write_figures
    from memrec_convert.bench.drawing import check_chart
    from memrec_convert.report.latency import render_latency

    check_outputs(json_file, force=force)
    if chart is not None:
        check_chart(chart, force=force)
    given = {name: value for name, value in options.items() if value is not None}
    with Progress(quiet=quiet) as progress:
        found = run(file, data=list(data) or None, progress=progress, **given)
    if chart is not None:
        from memrec_convert.bench.chart import draw_latency

        draw_latency(found, chart, force=force)
    if json_file == "-":
        print_json(found)
        return
    if json_file is not None:
        write_figures(found, json_file)
    if not quiet:
        click.echo(render_latency(found, text_width()))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")
@click.option("--paths", is_flag=True, help="Show where header and library for C and C++ are, and nothing else.")
def doctor(*, as_json: bool, paths: bool) -> None:
    """Show what lookups run on: kernel, instruction set, caches, threads, large pages, versions."""
    from memrec_convert.bench.doctor import describe_machine
    from memrec_convert.kernels.library import find_library
    from memrec_convert.report.machine import render_machine

    if paths:
        places = find_library()
        if as_json:
            print_json(places)
        else:
            click.echo("\n".join(f"{name}: {place}" for name, place in places.items()))
        return
    found = describe_machine()
    if as_json:
        print_json(found)
    else:
        click.echo(render_machine(found, text_width()))
