"""The tests reach no other machine, and the guard in conftest.py would say so if one did."""

from __future__ import annotations

import socket

import pytest

OTHER = "192.0.2.1"
"""An address that is reserved for documentation."""


@pytest.mark.parametrize("host", [OTHER, "example.org"])
def test_other_machines_are_refused(host: str) -> None:
    """A connection to an address or a name ends before a packet leaves."""
    with pytest.raises(RuntimeError, match="the tests use no network"):
        socket.create_connection((host, 80), timeout=1)


def test_datagrams_are_refused() -> None:
    """So does what needs no connection."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(RuntimeError, match=OTHER):
        sender.sendto(b"x", (OTHER, 9))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_reached(host: str) -> None:
    """A server on the loopback interface answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, server.getsockname()[1]), timeout=10) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"here")
        assert accepted.recv(4) == b"here"
