"""A small model whose tables take many ranges, and what one process makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from launch import Ended, Launched, Rank

ROWS, DIM = (6000, 2500, 30), 8


@dataclass
class Case:
    """Conversions of one file into one folder each."""

    checkpoint: Path
    folder: Path
    extra: tuple[str, ...] = ()
    launched: list[Launched] = field(default_factory=list)

    def arguments(self, name: str, *more: str) -> tuple[str, ...]:
        """Of the command that writes `name`, which keeps what it finishes in `name`'s work folder."""
        out, work = self.out(name), self.work(name)
        options = ("--budget", "14kB", "--threads", "1", "--quiet", "--out", str(out), "--work", str(work))
        return ("convert", str(self.checkpoint), *options, *self.extra, *more)

    def out(self, name: str) -> Path:
        """The artifact."""
        place = self.folder / f"{name}-out"
        place.mkdir(exist_ok=True)
        return place / "o.safetensors"

    def work(self, name: str) -> Path:
        """Its work folder."""
        return self.folder / f"{name}-work"

    def start(
        self, name: str, size: int, special: Mapping[int, Rank] | None = None, more: Sequence[str] = ()
    ) -> Launched:
        """Ranks that convert."""
        folder = self.folder / f"{name}-run-{len(self.launched)}"
        found = Launched(size, self.arguments(name, *more), folder, special)
        self.launched.append(found)
        return found

    def run(self, name: str, size: int, special: Mapping[int, Rank] | None = None) -> list[Ended]:
        """The same to its end."""
        return self.start(name, size, special).wait()

    def digest(self, name: str) -> str:
        """SHA-256 of the artifact."""
        return hashlib.sha256(self.out(name).read_bytes()).hexdigest()

    def kept(self, name: str) -> dict[str, int]:
        """Files of the work folder and when they were last written."""
        work = self.work(name)
        return {path.name: path.stat().st_mtime_ns for path in work.iterdir()} if work.is_dir() else {}

    def remove(self, name: str) -> None:
        """The artifact and what lies beside it go; the work folder stays."""
        for path in self.out(name).parent.iterdir():
            path.unlink()

    def nothing_written(self, name: str) -> bool:
        """Whether no artifact, no report and no part of one is there."""
        return not list(self.out(name).parent.iterdir())


def make_checkpoint(path: Path, *, seed: int = 0, change: Callable[[list[torch.Tensor]], None] | None = None) -> Path:
    """A DLRM of `ROWS` tables, whose rows lie about few centres."""
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for rows in ROWS:
        centres = torch.randn(40, DIM, generator=generator)
        near = centres[torch.randint(40, (rows,), generator=generator)]
        tables.append(0.1 * (near + 0.3 * torch.randn(rows, DIM, generator=generator)))
    if change is not None:
        change(tables)
    state = {f"emb_l.{number}.weight": table for number, table in enumerate(tables)}
    vectors = len(ROWS) + 1
    widths = {"bot_l.0": (2, DIM), "top_l.0": (DIM + vectors * (vectors - 1) // 2, 1)}
    for name, (inputs, outputs) in widths.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator)
        state[f"{name}.bias"] = torch.zeros(outputs)
    torch.save({"state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; nobody may change it."""
    return make_checkpoint(tmp_path_factory.mktemp("ranks") / "dlrm.pt")


@pytest.fixture(scope="session")
def alone(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """What one process makes of it, as `alone`, and two ranks, as `two`."""
    case = Case(checkpoint, tmp_path_factory.mktemp("alone"))
    started = [case.start("alone", 1), case.start("two", 2)]
    for ended in [one for launched in started for one in launched.wait()]:
        assert ended.code == 0, ended.said
    return case


@pytest.fixture
def case(checkpoint: Path, tmp_path: Path) -> Case:
    """A place for one test's conversions."""
    return Case(checkpoint, tmp_path)
