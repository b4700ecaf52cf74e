"""The commands about speed: `bench` an artifact, and `doctor` what it runs on."""

from __future__ import annotations

from typing import Any

import click

from memrec_convert.cli.console import show, show_charted
from memrec_convert.cli.options import force_option, list_given, log_option, output_options, read_sizes, reading_options


@click.command()
@click.argument("file")
@click.option("--against", metavar="CHECKPOINT", help="Time the original too: nn.EmbeddingBag, and its rows as int8.")
@log_option("--data", "Ids come from this log; repeatable.")
@click.option("--zipf", type=float, metavar="S", help="Without --data: Zipf exponent of id frequencies (default 1.05).")
@click.option("--batch", metavar="N,N,...", callback=read_sizes, help="Samples per call (default 1,64,512,2048,16384).")
@click.option("--threads", type=int, metavar="N", help="Threads (default 1).")
@click.option("--seconds", type=float, metavar="S", help="Time to spend per batch size (default 4).")
@click.option("--seed", type=int, metavar="N", help="Seed of the ids (default 0).")
@click.option("--concurrency", metavar="N,N,...", callback=read_sizes, help="Threads that call the model at once.")
@click.option("--expand", metavar="SIZE", help="Decode small tables at loading, into this much memory: 8MB, or llc.")
@reading_options
@click.option("--chart", metavar="FILE.svg", help="Draw time against batch size (needs the extra 'plots').")
@force_option
@output_options
def bench(file: str, *, chart: str | None, force: bool, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401
    """Measure speed and memory of artifact FILE: embedding stage and whole model."""
    from memrec_convert.bench.bench import bench as run
    from memrec_convert.lab.chart import draw_latency
    from memrec_convert.report.latency import render_latency

    show_charted(
        lambda progress: run(file, progress=progress, **list_given(options)),
        draw_latency,
        render_latency,
        chart=chart,
        force=force,
        as_json=as_json,
        quiet=quiet,
    )


@click.command()
@click.option("--paths", is_flag=True, help="Show where header and libraries for C and C++ are, and nothing else.")
@output_options
def doctor(*, paths: bool, as_json: bool, quiet: bool) -> None:
    """Show what lookups run on: kernel, instruction set, caches, threads, large pages, versions."""
    from memrec_convert.bench.doctor import describe_machine
    from memrec_convert.kernels.library import find_library
    from memrec_convert.report.machine import render_machine

    if paths:
        places = find_library()
        text = "\n".join(f"{name}: {place}" for name, place in places.items())
        show(places, lambda _, __: text, as_json=as_json, quiet=quiet)
        return
    show(describe_machine().to_json(), render_machine, as_json=as_json, quiet=quiet)
