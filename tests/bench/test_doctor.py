"""`doctor`: what it says of this machine, and of machines that say less."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from memrec_convert.bench import doctor as machine
from memrec_convert.cli.commands import main
from memrec_convert.kernels import loading
from memrec_convert.report.machine import render_machine


@pytest.fixture(autouse=True)
def _fresh_choice():
    """The kernel is chosen anew before and after each test."""
    loading.load_kernel.cache_clear()
    yield
    loading.load_kernel.cache_clear()


@pytest.fixture
def doctor(monkeypatch, capsys):
    """A function that runs the command and gives (exit code, stdout, stderr)."""
    monkeypatch.setattr(machine, "measure_reads", lambda: [(1 << 18, 1.0), (1 << 27, 2.0)])

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memrec-convert", "doctor", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return end.value.code, streams.out, streams.err

    return call


def write_cache(folder: Path, name: str, **files: str) -> None:
    """A cache as sysfs describes one."""
    (folder / name).mkdir(parents=True)
    for key, text in files.items():
        (folder / name / key).write_text(text + "\n")


def test_json_is_the_whole_of_stdout(doctor):
    """--json prints one object with path, caches, threads and versions."""
    code, out, err = doctor("--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["kernel"]["path"] in ("kernel", "reference")
    assert "reference" in found["kernel"]["available"]
    assert {"caches", "effective_cache", "threads", "cores", "large_pages", "processor", "versions"} <= set(found)
    assert found["versions"]["torch"]


def test_text_names_path_and_wish(doctor, monkeypatch):
    """The reference, asked for, is named with the variable that asks for it."""
    monkeypatch.setenv("MEMREC_KERNEL", "reference")
    code, out, _ = doctor()
    assert code == 0
    assert out.startswith("lookups: torch reference")
    assert "MEMREC_KERNEL=reference" in " ".join(out.split())


def test_an_instruction_set_that_is_not_there_is_told_not_raised(doctor, monkeypatch):
    """A wish that lookups refuse is reported with the reason, and the exit code is 0."""
    monkeypatch.setenv("MEMREC_KERNEL", "sse1")
    code, out, err = doctor()
    assert (code, err) == (0, "")
    assert out.startswith("lookups: refused.")
    assert "MEMREC_KERNEL=sse1" in " ".join(out.split())


def test_a_missing_kernel_is_told_with_its_reason(doctor, monkeypatch):
    """Without the extension the reference is named, with what stood in the way, and nothing warns."""

    def fail():
        raise ImportError("no such extension")

    monkeypatch.delenv("MEMREC_KERNEL", raising=False)
    monkeypatch.setattr(loading, "importlib_import", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, _ = doctor()
    assert code == 0
    assert "no such extension" in " ".join(out.split())


def test_caches_come_from_sysfs_without_instructions(tmp_path):
    """Data and unified caches by level; instruction caches and unreadable entries are left out."""
    write_cache(tmp_path, "index0", type="Data", level="1", size="32K", shared_cpu_list="0")
    write_cache(tmp_path, "index1", type="Instruction", level="1", size="32K", shared_cpu_list="0")
    write_cache(tmp_path, "index2", type="Unified", level="3", size="32768K", shared_cpu_list="0-3,8")
    write_cache(tmp_path, "index3", type="Unified", level="4", size="much", shared_cpu_list="0")
    assert machine.read_caches(tmp_path) == [
        {"level": 1, "kind": "data", "bytes": 32 << 10, "shared_by": 1},
        {"level": 3, "kind": "unified", "bytes": 32 << 20, "shared_by": 5},
    ]
    assert machine.read_caches(tmp_path / "nowhere") == []


def make_curve(step_bytes: int, *, inside: float = 2.0, outside: float = 15.0) -> list[tuple[int, float]]:
    """Reads that are fast up to a size."""
    sizes = [1 << n for n in range(18, 28)]
    return [(size, inside if size <= step_bytes else outside) for size in sizes]


@pytest.mark.parametrize("step", [1 << 20, 1 << 23, 1 << 25])
def test_step_is_found_where_reads_get_slow(step):
    """The largest size that is still fast."""
    assert machine.find_step(make_curve(step)) == step


def test_a_single_disturbed_size_does_not_move_the_step():
    """One slow measurement among fast ones is noise."""
    curve = make_curve(1 << 24)
    curve[3] = (curve[3][0], 40.0)
    assert machine.find_step(curve) == 1 << 24


def test_no_step_where_all_sizes_are_alike():
    """A cache larger than the largest buffer shows no step, and neither does a curve that ended at once."""
    assert machine.find_step(make_curve(1 << 30)) is None
    assert machine.find_step(make_curve(1 << 20)[:3]) is None


def test_reads_visit_every_line_once_a_round():
    """The measured chain is one circle through all lines of the buffer."""
    curve = machine.measure_reads(largest_bytes=1 << 19, seconds=60)
    assert [size for size, _ in curve] == [1 << 18, round(2**18.5) // 64 * 64, 1 << 19]
    assert all(ns > 0 for _, ns in curve)


def test_measuring_ends_when_time_is_up():
    """No time, no buffers: and the text says so."""
    assert machine.measure_reads(seconds=0) == []
    found = machine.describe_machine(chase=False)
    assert "random reads: not measured" in render_machine(found.to_json())


def test_a_fraction_of_the_stated_cache_is_pointed_out():
    """Where reads get slow long before the stated size, the text says what to do about it."""
    found = machine.describe_machine(chase=False).to_json()
    found["caches"] = [{"level": 3, "kind": "unified", "bytes": 32 << 20, "shared_by": 8}]
    curve = [{"bytes": 1 << 18, "ns": 2.0}, {"bytes": 1 << 27, "ns": 20.0}]
    small = render_machine(found | {"effective_cache": {"bytes": 8 << 20, "curve": curve}})
    whole = render_machine(found | {"effective_cache": {"bytes": 32 << 20, "curve": curve}})
    assert "less than the system reports" in " ".join(small.split())
    assert "less than" not in whole


@pytest.mark.parametrize("width", [20, 40, 80])
def test_text_keeps_to_its_width(width):
    """No line is longer than asked for."""
    text = render_machine(machine.describe_machine(chase=False).to_json(), width)
    assert max(map(len, text.splitlines())) <= max(width, 20)


def test_large_pages_setting_is_read(tmp_path):
    """The chosen word stands in brackets; a system that does not tell gives None."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert machine.describe_large_pages(tmp_path / "enabled")["setting"] == "madvise"
    assert machine.describe_large_pages(tmp_path / "absent")["setting"] is None


def test_core_lists_are_counted():
    """Ranges and single cores."""
    assert [machine.count_cores(text) for text in ("0", "0-3", "0-3,8", "")] == [1, 4, 5, 0]


def test_the_circle_is_a_permutation(monkeypatch):
    """Following the buffer's words from any line leads through every line before it comes back."""
    seen = {}
    take = np.take

    def remember(buffer, at, **rest):
        seen.setdefault("buffer", buffer.copy())
        return take(buffer, at, **rest)

    monkeypatch.setattr(machine.np, "take", remember)
    machine.measure_reads(largest_bytes=1 << 18, seconds=60)
    buffer, at, visited = seen["buffer"], 0, set()
    while at not in visited:
        visited.add(at)
        at = int(buffer[at])
    assert len(visited) == (1 << 18) // 64
