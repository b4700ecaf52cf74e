"""The corpus of hostile files: each ends in one sentence, and nothing in it is run, misread or left to exhaust us."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hostile import all_cases
from hostile.directories import GOOD_DISTRIBUTED, GOOD_NVIDIA, GOOD_RANKS
from hostile.legacy import GOOD as GOOD_LEGACY
from hostile.safetensors import entry, safetensors_bytes
from hostile.snapshots import GOOD as GOOD_SNAPSHOT
from hostile.state_dicts import DCN, DLRM, tensors

from memrec_convert.checkpoint import read_source
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.cli.commands import cli

CASES = all_cases()
DRIVER = Path(__file__).parent / "hostile" / "driver.py"
MOST_SECONDS = 5.0
MOST_MIB = 500.0


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of every case, each read in a watched process of its own."""
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path_factory.mktemp("corpus"))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | quiet,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_each_hostile_file_is_one_sentence(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    """A refusal of our own that names the file; nothing run, opened elsewhere or left; five seconds and 500 MiB."""
    outcome = outcomes[case]
    assert "MemrecError" in outcome.get("of", ()), outcome
    assert outcome["code"] == 2
    assert re.search(CASES[case][1], outcome["said"]) is not None, outcome["said"]
    assert outcome["said"].startswith(outcome["path"])
    assert outcome["said"].isprintable()
    assert outcome["said"].endswith(".")
    assert (outcome["seen"], outcome["left"]) == ([], [])
    assert outcome["seconds"] < MOST_SECONDS
    assert outcome["peak_mib"] < MOST_MIB


def test_the_corpus_is_as_large_as_the_documents_say() -> None:
    """Each case has a name of its own, and there are at least as many as promised."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"(\d+) hostile checkpoints", page)
    assert len(CASES) == int(said) >= 240


def test_the_watch_sees_what_unpickling_runs(tmp_path: Path) -> None:
    """The proof can fail: Python's own unpickler, watched in the same way, is caught."""
    script = (
        f"import sys, pickle; sys.path.insert(0, {str(DRIVER.parents[1])!r})\n"
        "from pathlib import Path; from hostile import driver; from hostile.pickles import calls\n"
        "sys.addaudithook(driver.audit); driver._watched = Path('.')\n"
        "pickle.loads(calls()['eval, protocol 4'])\n"
        "driver._watched = None; print(driver._seen)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "pickle.find_class" in done.stdout
    assert "sentinel" in done.stdout


@pytest.mark.parametrize("good", [GOOD_DISTRIBUTED, GOOD_NVIDIA, GOOD_RANKS, GOOD_SNAPSHOT])
def test_the_unharmed_directories_are_read(tmp_path: Path, good: Any) -> None:
    """The builders make real directories: without the harm they show their tables."""
    assert inspect(good[0](tmp_path)).tables


def test_the_unharmed_files_are_read(tmp_path: Path) -> None:
    """The same of the files: old form, safetensors, and the networks, which even convert."""
    for called, content, count in (
        ("m.pt", GOOD_LEGACY, 1),
        ("a.safetensors", safetensors_bytes(entry()), 1),
        ("b.safetensors", tensors(DLRM), 2),
        ("c.safetensors", tensors(DCN), 2),
    ):
        (tmp_path / called).write_bytes(content)
        assert len(inspect(tmp_path / called).tables) == count
    assert read_source(tmp_path / "b.safetensors").architecture["name"] == "dlrm"
    assert read_source(tmp_path / "c.safetensors").architecture["name"] == "dlrm-dcn"


def test_the_command_line_ends_with_2(tmp_path: Path) -> None:
    """What raises in Python is one line and exit code 2 on the command line."""
    path = CASES["pickle: calls os.system, protocol 2"][0](tmp_path)
    found = CliRunner().invoke(cli, ["inspect", str(path)], standalone_mode=False)
    assert getattr(found.exception, "exit_code", found.exit_code) == 2
