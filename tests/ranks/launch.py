"""Conversions by several ranks: processes as torchrun would start them, or torchrun's own, in which small is large.

Ranks come from a server that has imported torch once, so that a test may start dozens of them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SECONDS_PER_RUN = 90
CHUNK_BYTES, CHUNKS_PER_RANGE = 2048, 16

_SERVER: Any = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["memrec_convert.conversion.convert", "memrec_convert.cli.conversion", "torch"])


@dataclass(frozen=True)
class Rank:
    """What is special about one rank: its signal to itself at a step, other arguments, another version."""

    at: int = -1
    kill: int = signal.SIGKILL
    arguments: tuple[str, ...] | None = None
    version: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code (a negative signal), what it said, the seconds from the start."""

    code: int | None
    said: str
    seconds: float


def make_small_large() -> None:
    """Ranges of 32 kB, and every table of more than 1000 numbers in them."""
    rows = importlib.import_module("memrec_convert.distill.rows")
    rows.LARGE_ELEMENTS, rows.BYTES_PER_CHUNK = 1000, CHUNK_BYTES
    for name in ("distill.survey", "distill.streamed", "conversion.inputs.finite_rows"):
        importlib.import_module(f"memrec_convert.{name}").CHUNKS_PER_RANGE = CHUNKS_PER_RANGE
    importlib.import_module("memrec_convert.conversion.inputs.workspace").HELD_BYTES = 0


def count_steps(at: int, act: Callable[[], Any], counted: Path | None = None) -> None:
    """Calls at which ranks wait for each other or keep something are steps; at one of them something happens."""
    from memrec_convert.conversion.inputs.kept_fits import FitStore
    from memrec_convert.conversion.ranks.wire import Wire

    steps = 0

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            if counted is not None:
                counted.write_text(str(steps))
            if steps == at:
                act()
            return function(*arguments)

        return run

    Wire._wait = counting(Wire._wait)  # type: ignore[method-assign]
    FitStore.keep = counting(FitStore.keep)  # type: ignore[method-assign]


def run_here(arguments: Sequence[str], environment: Mapping[str, str], rank: Rank, said: Path, steps: Path) -> None:
    """The command line in this process, which is one rank's."""
    from memrec_convert.conversion.ranks import joining

    os.environ.update(environment)
    stream = said.open("wb")
    for number in (1, 2):
        os.dup2(stream.fileno(), number)
    make_small_large()
    count_steps(rank.at, partial(os.kill, os.getpid(), rank.kill), steps)
    if rank.version is not None:
        joining.__version__ = rank.version  # type: ignore[attr-defined]
    run_command(arguments)


def pull_cable(link: str, pulled: Path) -> None:
    """The link of one's own host goes down; `pulled` says when."""
    subprocess.run(["ip", "link", "set", link, "down"], check=True)
    pulled.touch()


def run_command(arguments: Sequence[str], how: str = "main") -> None:
    """The command line: `main` of it, or `run` as where it is a process of its own."""
    sys.argv = ["memrec-convert", *arguments]
    getattr(importlib.import_module("memrec_convert.cli"), how)()


class Launched:
    """Ranks that run, and the store that joins them, which torchrun's agent would host."""

    def __init__(self, size: int, arguments: Sequence[str], folder: Path, special: Mapping[int, Rank] | None) -> None:
        import torch.distributed as dist

        self.special = dict(special or {})
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.store: Any = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.began = time.monotonic()
        self.processes = []
        for number in range(size):
            rank = self.special.get(number, Rank())
            process = _SERVER.Process(
                target=run_here,
                args=(
                    rank.arguments or tuple(arguments),
                    self._environment(number, size) | dict(rank.environment),
                    rank,
                    folder / f"said-{number}",
                    folder / f"steps-{number}",
                ),
            )
            process.start()
            self.processes.append(process)

    def _environment(self, number: int, size: int) -> dict[str, str]:
        joined = {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        return {"OMP_NUM_THREADS": "1"} | (joined if size > 1 else {})

    def wait(self) -> list[Ended]:
        """Until all have ended but those that were stopped, which are then killed."""
        stopped = {number for number, rank in self.special.items() if rank.kill == signal.SIGSTOP and rank.at > 0}
        ended: dict[int, Ended] = {}
        while len(ended) < len(self.processes) and time.monotonic() - self.began < SECONDS_PER_RUN:
            for number, process in enumerate(self.processes):
                if number not in ended and process.exitcode is not None:
                    ended[number] = self._end(number)
            if set(range(len(self.processes))) - set(ended) <= stopped:
                break
            time.sleep(0.05)
        for number, process in enumerate(self.processes):
            process.kill()
            process.join()
            ended.setdefault(number, self._end(number))
        return [ended[number] for number in range(len(self.processes))]

    def _end(self, number: int) -> Ended:
        path = self.folder / f"said-{number}"
        said = path.read_text() if path.exists() else ""
        return Ended(self.processes[number].exitcode, said, time.monotonic() - self.began)

    def seconds_to_notice(self, victim: int, other: int) -> float:
        """From the victim's last step to the other's sentence."""
        last, told = self.folder / f"steps-{victim}", self.folder / f"said-{other}"
        return told.stat().st_mtime - last.stat().st_mtime

    def steps(self, number: int) -> int:
        """That a rank has taken."""
        return int((self.folder / f"steps-{number}").read_text())


def start_torchrun(size: int, arguments: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """The same command under torchrun itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", __file__]
    own = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *arguments], env=own, **pipes)


def end_torchrun(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what its ranks said."""
    _, said = process.communicate(timeout=2 * SECONDS_PER_RUN)
    return process.returncode, said


if __name__ == "__main__":
    make_small_large()
    own = os.environ.get("RANK", "0")
    victim, _, at = os.environ.get("TEST_VICTIM", "").partition(" ")
    if own == victim:
        count_steps(int(at), partial(os.kill, os.getpid(), signal.SIGKILL))
    victim, _, cut = os.environ.get("TEST_CUT", "").partition(" ")
    if own == victim:
        at, link, pulled = cut.split()
        count_steps(int(at), partial(pull_cable, link, Path(pulled)))
    run_command(sys.argv[1:], "run")
