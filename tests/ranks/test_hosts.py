"""Two hosts, each a network namespace of its own, with a cable between them that can be pulled."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import SECONDS_PER_RUN

pytestmark = pytest.mark.ranks

HERE = Path(__file__).resolve().parent
_NUMBERS = itertools.count()


def run_ip(*words):
    """A command of iproute2; what it said where it failed, else None."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    return f"ip {' '.join(words)}: {done.stderr.strip()}" if done.returncode else None


class Hosts:
    """Hosts 0 and 1 with the addresses 10.97.0.1 and 10.97.0.2; neither sees this machine's own network."""

    def __init__(self):
        mark = f"{os.getpid()}-{next(_NUMBERS)}"
        self.names = [f"memrec-{mark}-{number}" for number in (0, 1)]
        self.links = [f"mr{number}-{os.getpid() % 100_000}" for number in (0, 1)]

    def build(self):
        """What could not be built, or None."""
        steps = [("netns", "add", name) for name in self.names]
        steps.append(("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1]))
        for number, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            steps.append(("link", "set", link, "netns", name))
            steps.append(("-n", name, "address", "add", f"{self.address(number)}/24", "dev", link))
            steps += [("-n", name, "link", "set", one, "up") for one in (link, "lo")]
        return next(filter(None, (run_ip(*words) for words in steps)), None)

    def address(self, number):
        """Of a host."""
        return f"10.97.0.{number + 1}"

    def remove(self):
        """The hosts go, and the cable with them."""
        for name in self.names:
            run_ip("netns", "del", name)

    def ranks(self, number):
        """Processes of a host that convert."""
        found = subprocess.run(["ip", "netns", "pids", self.names[number]], capture_output=True, text=True, check=True)
        lines = [Path(f"/proc/{pid}/cmdline") for pid in found.stdout.split()]
        return [one for one in lines if one.exists() and b"torch.distributed.run" not in one.read_bytes()]

    def start(self, number, arguments, ranks, said, **environment):
        """torchrun on one of the two hosts; what it says goes to a file."""
        where = ["--nnodes", "2", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-id", "test"]
        where += ["--rdzv-endpoint", f"{self.address(0)}:29500", "--local-addr", self.address(number)]
        where += ["--rdzv-conf", f"is_host={number == 0}"]  # the name of this machine leads to none of the two
        command = [sys.executable, "-m", "torch.distributed.run", *where, str(HERE / "launch.py"), *arguments]
        own = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.links[number]} | environment
        command = ["ip", "netns", "exec", self.names[number], *command]
        with said.open("wb") as stream:
            return subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=stream)


@pytest.fixture
def hosts():
    """Two hosts with a cable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs iproute2 and the right to make network namespaces")
    found = Hosts()
    try:
        problem = found.build()
        if problem is not None:
            pytest.skip(f"no network namespaces here: {problem}")
        yield found
    finally:
        found.remove()


def test_two_hosts_write_the_same_bytes(alone, case, hosts, tmp_path):
    """Two ranks on each, each host with a work folder of its own."""
    other = tuple(str(case.work("other")) if part == str(case.work("own")) else part for part in case.arguments("own"))
    said = [tmp_path / f"said-{number}" for number in (0, 1)]
    started = [hosts.start(0, case.arguments("own"), 2, said[0]), hosts.start(1, other, 2, said[1])]
    for process, own in zip(started, said, strict=True):
        assert process.wait(2 * SECONDS_PER_RUN) == 0, own.read_text()
    assert case.digest("own") == alone.digest("alone")
    assert case.kept("own")
    assert case.kept("other")


def test_a_pulled_cable_stops_both_hosts(case, hosts, tmp_path):
    """Both sides say within 30 seconds whom they lost and end, and nothing is written.

    torchrun itself then waits for five minutes for its other half.
    """
    pulled = tmp_path / "pulled"
    cut = {"TEST_CUT": f"1 30 {hosts.links[1]} {pulled}"}
    said = [tmp_path / f"said-{number}" for number in (0, 1)]
    started = [hosts.start(number, case.arguments("own"), 1, said[number], **cut) for number in (0, 1)]
    try:
        wait_until(pulled.exists, SECONDS_PER_RUN)
        seconds = 30 - (time.time() - pulled.stat().st_mtime)
        wait_until(lambda: all("is gone" in one.read_text() for one in said), seconds)
        for number in (0, 1):
            assert f"rank {1 - number} of 2 is gone" in said[number].read_text()
            wait_until(lambda number=number: not hosts.ranks(number), 10)
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert case.nothing_written("own")


def wait_until(holds, seconds):
    """Fails where it does not hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.1)
