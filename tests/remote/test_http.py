"""Checkpoints over HTTP: twenty gigabytes inspected for kilobytes, and two hundred runs with a fault in each."""

from __future__ import annotations

import random
import socket

import pytest
from range_server import FAULTS, serve
from sparse import write_sparse_safetensors, write_sparse_zip

from memrec_convert import convert, inspect
from memrec_convert.checkpoint import read_source
from memrec_convert.errors import CheckpointError
from memrec_convert.remote import at_hand

pytestmark = pytest.mark.remote
pytest.importorskip("aiohttp")


@pytest.mark.parametrize(
    ("write", "name"), [(write_sparse_zip, "big.pt"), (write_sparse_safetensors, "big.safetensors")]
)
def test_inspecting_twenty_gigabytes_moves_little(tmp_path, write, name):
    """Far below 5 MB of 20 GB, for the same answer as on the disk."""
    file = write(tmp_path / name)
    assert file.stat().st_size > 19.9e9
    with serve(file) as server:
        found = inspect(server.url)
        assert 0 < server.sent < 1_000_000
    assert found.tables == inspect(file).tables
    assert len(found.tables) == 26


def test_one_fault_is_survived_in_two_hundred_runs(tiny, tmp_path):
    """Each run meets one fault at a place of its own, and every copy has the file's bytes."""
    expected, generator = tiny.checkpoint.read_bytes(), random.Random(0)
    with serve(tiny.checkpoint) as server:
        for run in range(200):
            server.faults = [None] * generator.randrange(6) + [FAULTS[run % len(FAULTS)]]
            if run % 2:
                with at_hand(server.url, None, tmp_path, lambda *_: None) as copy:
                    assert copy.read_bytes() == expected
            else:
                assert len(read_source(server.url).tables) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_one_sentence(tiny, fault):
    """The sentence names URL and fault."""
    with serve(tiny.checkpoint) as server:
        server.faults = [fault] * 99
        with pytest.raises(CheckpointError, match=r"cannot be read \(bytes 0 to .* in 4 tries: .+\)\.$"):
            inspect(server.url)


@pytest.mark.parametrize("when", range(8))
def test_an_object_replaced_between_two_reads_is_refused(tiny, when):
    """A new ETag at any moment ends the reading."""
    with serve(tiny.checkpoint) as server:
        server.faults = [None] * when + ["replaced"]
        with pytest.raises(CheckpointError, match="replaced while it was read"):
            [table.weight.read() for table in read_source(server.url).tables]


def test_conversion_over_http_leaves_nothing_when_it_fails(tiny, tmp_path):
    """No artifact, no copy, one sentence; then the same command succeeds."""
    out = tmp_path / "small.safetensors"
    with serve(tiny.checkpoint) as server:
        server.faults = ["replaced"]
        with pytest.raises(CheckpointError, match="replaced while it was read"):
            convert(server.url, "12kB", method="int8", out=out)
        assert list(tmp_path.iterdir()) == []
        convert(server.url, "12kB", method="int8", out=out)
    convert(tiny.checkpoint, "12kB", method="int8", out=tmp_path / "local.safetensors")
    assert out.read_bytes() == (tmp_path / "local.safetensors").read_bytes()


def test_a_server_that_is_not_there_is_one_sentence(tiny):
    """A page that is not found, and a refused connection."""
    with serve(tiny.checkpoint) as server, pytest.raises(CheckpointError, match="no such file"):
        inspect(server.url + "x")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and deaf
        with pytest.raises(CheckpointError, match=r"cannot be read \(the store was asked for it in 4 tries: "):
            inspect(f"http://127.0.0.1:{closed.getsockname()[1]}/dlrm.pt")
