"""What `bench` measured, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memrec_convert.report.figures import format_size
from memrec_convert.report.text import NARROWEST, list_lines, table_lines, wrap

STAGES = {"embedding": "Embedding stage", "model": "Whole model"}


def render_latency(found: Mapping[str, Any], width: int = 80) -> str:
    """What `bench` gives as JSON: a table per stage, then memory and warnings."""
    width = max(width, NARROWEST)
    parts = [wrap(_head(found), width)]
    for stage, title in STAGES.items():
        rows = [row for row in found["rows"] if row["stage"] == stage]
        if rows:
            parts.append([f"{title}:", *_table(rows, width)])
    if found.get("load"):
        parts.append(["Under load, each caller a thread:", *_load(found["load"], width)])
    parts += [wrap(_memory(found["memory"]), width), list_lines("Warnings:", found["warnings"], width)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(found: Mapping[str, Any]) -> str:
    ids, kernel, threads = found["ids"], found["kernel"], found["threads"]
    drawn = f"Zipf {ids['exponent']:g}" if ids["source"] == "zipf" else f"the log ({ids['samples']} samples)"
    path = "the torch reference" if kernel["path"] == "reference" else f"the C++ kernel, {kernel['instruction_set']}"
    beside = f" beside {found['against']}" if found["against"] else ""
    return (
        f"{found['artifact']['path']} ({format_size(found['artifact']['bytes'])}){beside}: {found['tables']} tables, "
        f"ids from {drawn}, {threads} thread{'s' * (threads != 1)}, {path}. Interleaved, medians; * marks noisy ones."
    )


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    compared = any(row["ratio_to_original"] is not None for row in rows)
    headers = ["batch", "who", "ns/lookup", "items/s", "p50 ms", "p99 ms", *["speed"] * compared]
    cells = [
        [
            f"{row['batch']}",
            row["contender"] + "*" * row["noisy"],
            _nanoseconds(row["ns_per_lookup"]),
            f"{row['items_per_second']:,.0f}",
            _milliseconds(row["ms_p50"]),
            _milliseconds(row["ms_p99"]),
            *[format_speed(row["ratio_to_original"])] * compared,
        ]
        for row in rows
    ]
    return table_lines(headers, cells, width, left=(1,))


def _load(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    cells = [
        [
            f"{row['batch']}",
            f"{row['callers']}",
            row["contender"],
            f"{row['items_per_second']:,.0f}",
            _milliseconds(row["ms_p50"]),
            _milliseconds(row["ms_p99"]),
        ]
        for row in rows
    ]
    return table_lines(["batch", "callers", "who", "items/s", "p50 ms", "p99 ms"], cells, width, left=(2,))


def format_speed(ratio: float | None) -> str:
    """0.66x, 10.85x; a dash where nothing was beside it."""
    return "-" if ratio is None else f"{ratio:.2f}x"


def _nanoseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.4g}"


def _memory(memory: Mapping[str, Any]) -> str:
    text = f"Memory: the file is {format_size(memory['file_bytes'])}"
    if memory["loaded_bytes"] is None:
        return text + "; what loading it takes was not measured."
    text += (
        f"; loading it adds {format_size(memory['loaded_bytes'])} ({format_size(memory['loading_peak_bytes'])} at the "
        f"most while it loads), besides {format_size(memory['runtime_bytes'])} of libraries, once per process"
    )
    if memory["running_bytes"] is not None:
        text += (
            f"; running the largest batch leaves {format_size(memory['running_bytes'])} more, "
            f"{format_size(memory['output_pool_bytes'])} of them outputs kept for the next call"
        )
    return text + "."
