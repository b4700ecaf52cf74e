"""What `bench` shows: the table, its ratios and the chart's points."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memrec_convert.bench.measuring import add_ratios
from memrec_convert.lab.chart import collect_points
from memrec_convert.report.latency import render_latency

MEMORY = ("file_bytes", "loaded_bytes", "loading_peak_bytes", "runtime_bytes", "running_bytes", "output_pool_bytes")


def make_rows() -> Iterator[dict[str, object]]:
    """Figures of three contenders at two batch sizes."""
    for batch in (1, 100_000):
        for name, ms in (("converted", 0.25), ("original", 123.5), ("torch int8", 3.0)):
            yield {
                "stage": "embedding",
                "batch": batch,
                "contender": name,
                "ns_per_lookup": ms * 1e5,
                "items_per_second": batch / ms * 1e3,
                "ms_p50": ms,
                "ms_p99": 9 * ms,
                "noisy": name == "original",
                "spread": 2.0,
                "repetitions": 9,
                "ratio_to_original": None,
            }


@pytest.mark.parametrize("width", [20, 60, 80, 100])
def test_text_keeps_to_its_width(width):
    """No line is longer than asked for; ratios are the original's time over each one's."""
    rows = list(make_rows())
    add_ratios(rows)
    found = {
        "artifact": {"path": "a.safetensors", "bytes": 5000},
        "against": "b.pt",
        "tables": 3,
        "threads": 2,
        "kernel": {"path": "kernel", "instruction_set": "avx2"},
        "ids": {"source": "log", "samples": 7},
        "rows": rows,
        "memory": dict.fromkeys(MEMORY, 10**6),
        "warnings": ["the machine is too noisy"],
    }
    text = render_latency(found, width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        assert "494.00x" in text
        assert "original*" in text


def test_chart_points_are_microseconds_per_sample():
    """Per contender, by batch size."""
    points = collect_points(list(make_rows()), "embedding")
    assert points["converted"] == [(1, pytest.approx(250.0)), (100_000, pytest.approx(0.0025))]
    assert list(points) == ["converted", "original", "torch int8"]
