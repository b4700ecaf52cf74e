"""Every command and Python block of the README, the tutorial and the how-to pages runs, on tiny stand-ins.

A page runs from top to bottom in a folder of its own that holds a small file under every name that a reader is expected
to have. Nothing is left out but what sets up an environment; a line of another kind is an error here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import torch
from docs_pages import ROOT, Block, find_blocks, split_commands
from torch import nn

from memrec_convert.cli.commands import cli
from memrec_convert.clicklog import SyntheticSpec

GUIDES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("tutorial", "budget", "no-data", "counts", "own-model", "serving", "report")),
)

SET_UP = (
    r"make (demo|test)",
    r"python3 -m venv \.venv",
    r"source \.venv/bin/activate",
    r"pip install -c constraints\.txt -e \.",
    r"pip install memrec-convert\[onnx\]",
    r"npm install --prefix \S+ axe-core",
    r"npm install onnxruntime-web@\S+",
    r"npm ci --prefix examples/browser",
    r"python examples/browser/build\.py .*--serve",
    r"MEMREC_AXE=\S+ python -m pytest tests/report/test_html_browser\.py",
)
"""Commands that make an environment or run tests; nothing else is left out."""

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))
NEEDS_ONNX = re.compile(r"memrec-convert (export|verify) .*(\bonnx\b|\bpage\b)")
"""Commands that the tier with the library runs; the core passes them over where it is not installed."""

BEFORE = {
    "docs/serving.md": ["memrec-convert dlrm.pt --budget 10x --quiet"],
    "docs/report.md": ["memrec-convert compare dlrm.pt --budget 48MB --eval test.parquet --json > compare.json"],
}
"""What a page takes for done."""

SMALLER = {
    "bench": "--seconds 0.02 --batch 1",
    "experiment": "--quick --set samples=2000",
    "compare": "--only int8",
    "--max-auc-drop": "--max-auc-drop 0.05",
    "dlrm.pt --budget 48MB": "--budget 100x",
}
"""What is appended to a line with these words, so that it takes seconds, and suits a short hold-out and tiny tables."""

TINY = SyntheticSpec(tables=(3000, 2000, 1500, 300, 50), train_rows=20_000, val_rows=4_000, test_rows=4_000)
"""In place of the log that the demo makes."""


class MyModel(nn.Module):
    """The reader's own model, in README."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(2000, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B] of ids [B]."""
        return self.items(ids).sum(dim=1)


TIERS = {"engines": r"\.pt2\b", "torchrec": r"\btorchrec\b", "spark": r"\bpyspark\b"}
"""What needs a tier's library or compiler, by what is in its text; only the tier's own test runs it."""
SERVING_TIERS = ("engines", "torchrec")
"""Those that the page on serving has something for."""


class Reader:
    """Somebody who does what a page says, in the working directory; of TIERS they have `tier`."""

    def __init__(self, tier: str = "") -> None:
        self.foreign = [pattern for name, pattern in TIERS.items() if name != tier]
        torch.manual_seed(0)
        batches = [(torch.randint(2000, (64,)),) for _ in range(4)]
        self.names = {"MyModel": MyModel, "my_model": MyModel(), "train_loader": batches[:3], "val_loader": batches[3:]}
        self.printed = ""

    def run(self, block: Block) -> None:
        """Runs a block; what it shows as output has to be of the kind that was printed."""
        if block.language == "python" and self.is_foreign(block.text):
            return
        if block.language == "python" and "import onnxruntime" in block.text and not HAS_ONNX:
            return
        if block.language == "sql":
            duckdb.connect().execute(block.text)
            return
        if block.language == "python":
            self.printed += print_of(lambda: exec(compile(block.text, "<page>", "exec"), self.names))
        elif block.language == "text":
            assert find_foreign(block.text.splitlines(), self.printed.splitlines()) == []
        else:
            for command, shown in split_commands(block):
                if self.is_foreign(command):
                    continue
                printed = run_command(shlex.split(command, comments=True))
                assert find_foreign(shown, printed.splitlines()) == [], command
                self.printed += printed

    def is_foreign(self, text: str) -> bool:
        """Whether something is left to the test of a tier that this reader is not in."""
        return any(re.search(pattern, text) for pattern in self.foreign)


def run_command(words: list[str]) -> str:
    """What a command prints; one that nobody foresaw is an error."""
    if any(re.fullmatch(pattern, " ".join(words)) for pattern in SET_UP):
        return ""
    if ">" in words:
        Path(words[-1]).write_text(run_command(words[: words.index(">")]), encoding="utf-8")
        return ""
    if not HAS_ONNX and NEEDS_ONNX.match(" ".join(words)):
        return ""
    if words[0] == "memrec-convert":
        line = f" {' '.join(words)} "
        smaller = [word for known, more in SMALLER.items() if f" {known} " in line for word in more.split()]
        return print_of(lambda: cli.main([*words[1:], *smaller], standalone_mode=False))
    if words[:2] == ["python", "examples/demo.py"]:
        return print_of(lambda: run_demo(words[1:]))
    return pytest.fail(f"{' '.join(words)!r} is neither run nor listed as set-up")


def run_demo(words: list[str]) -> None:
    """The demo with its own options, on a tiny log."""
    description = importlib.util.spec_from_file_location("demo", ROOT / words[0])
    demo = importlib.util.module_from_spec(description)
    description.loader.exec_module(demo)
    demo.QUICK = TINY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        assert demo.main() == 0


def print_of(action) -> str:
    """What an action prints on stdout."""
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        action()
    torch.set_num_threads(threads)
    return printed.getvalue()


def find_foreign(shown: list[str], printed: list[str]) -> list[str]:
    """The lines of shown output of a kind that was not printed; `...` stands for what is left out."""
    known = f" {hide_figures(' '.join(printed))} "
    return [kind for kind in list_kinds(shown) if f" {kind} " not in known]


def list_kinds(lines: list[str]) -> list[str]:
    """What each line is, whatever its figures: a table's header whole, of others the first two words.

    Blank lines, rules and continuations have no kind.
    """
    kinds = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True) if lines else ():
        if line.strip() and not line.startswith((" ", "--", "...")):
            words = hide_figures(line if after.startswith("--") else line.split("  ")[0]).split()
            kinds.append(" ".join(words if after.startswith("--") else words[:2]))
    return kinds


def hide_figures(text: str) -> str:
    """The text on one line, with N for every number and V for every verdict."""
    text = re.sub(r"[+-]?\d[\d,]*(\.\d+)?(e-\d+)?( (GB|MB|kB|B)\b)?", "N", " ".join(text.split()))
    return re.sub(r"\b(better|worse|same|undecided)\b", "V", text)


@pytest.fixture
def desk(tiny, tmp_path, monkeypatch) -> Path:
    """The working directory, with what a reader is expected to have."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.checkpoint, "dlrm.pt")
    for name in ("train", "val", "test"):
        shutil.copy(getattr(tiny, name), f"{name}.parquet")
    shutil.copy(tiny.train, "day_0.parquet")
    pq.write_table(pq.read_table(tiny.train).drop(["label"]), "requests.parquet")
    pq.write_table(pq.read_table(tiny.val).drop(["label"]), "requests_val.parquet")
    runtime = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    runtime.mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (runtime / name).write_bytes(b"as npm would put it there")
    return tmp_path


@pytest.mark.pages
@pytest.mark.parametrize("guide", GUIDES)
def test_page_runs_from_top_to_bottom(guide, desk):
    """Commands succeed and Python runs in the order of the page; what is shown is of the kind that is printed."""
    run_page(guide)


@pytest.mark.parametrize("tier", [pytest.param(tier, marks=getattr(pytest.mark, tier)) for tier in SERVING_TIERS])
@pytest.mark.filterwarnings("ignore")  # torch's and torchrec's own
def test_serving_elsewhere_runs_in_its_tier(tier, desk):
    """With the library that a section is about, the page runs from top to bottom too."""
    if tier == "torchrec":
        pytest.importorskip("torchrec", exc_type=ImportError)
    run_page("docs/serving.md", tier)


def run_page(guide: str, tier: str = "") -> None:
    """Does what a page says, in its order."""
    for command in BEFORE.get(guide, ()):
        run_command(shlex.split(command))
    reader = Reader(tier)
    blocks = find_blocks(ROOT / guide)
    assert {block.language for block in blocks} <= {"sh", "console", "python", "sql", "text"}
    for block in blocks:
        reader.run(block)


@pytest.mark.onnx
@pytest.mark.skipif(not HAS_ONNX, reason="onnx and onnxruntime are not installed")
def test_the_serving_page_runs_with_the_library(desk):
    """In the tier that has it, no command is passed over."""
    test_page_runs_from_top_to_bottom("docs/serving.md", desk)


def test_a_command_that_nobody_foresaw_is_an_error():
    """What is neither a command of the package nor set-up is not passed over."""
    with pytest.raises(pytest.fail.Exception, match="curl"):
        run_command(["curl", "https://example.org"])


@pytest.mark.parametrize(
    ("shown", "foreign"),
    [
        ("AUC 0.7 -> 0.8", []),
        ("...", []),
        ("size   before   after\n-----  -------  ------", []),
        ("size   before   now\n-----  -------  ------", ["size before now"]),
        ("Accuracy 0.7", ["Accuracy N"]),
        ("12 MB -> 3.4 kB (3.5x)", []),
    ],
)
def test_output_of_another_kind_is_found(shown, foreign):
    """The comparison passes other figures and sees other words and columns."""
    printed = "18.1 MB -> 1.1 kB (7x)\nAUC 0.75 -> 0.71\n\nsize   before   after\n-----  -------  ------\na  1  2"
    assert find_foreign(shown.splitlines(), printed.splitlines()) == foreign
