"""A server of one file in ranges, with an ETag, that makes the faults it is told to and counts what it sends."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("dropped", "503", "truncated", "short", "reset")
"""No answer, the server is busy, the body ends early, fewer bytes are announced, the connection is reset."""


class RangeServer(ThreadingHTTPServer):
    """Serves `file` at `url`. Each GET takes one of `faults` (None: none); `sent` counts bytes of bodies."""

    daemon_threads = True

    def __init__(self, file: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.file, self.name, self.tag, self.sent, self.requests = file, file.name, '"1"', 0, 0
        self.faults: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"http://127.0.0.1:{self.server_port}/{self.name}"

    def replace(self, file: Path) -> None:
        """Another object takes the place of the file."""
        self.file, self.tag = file, f'"{int(self.tag.strip(chr(34))) + 1}"'

    def take_fault(self) -> str | None:
        """The fault of the next GET."""
        with self.lock:
            self.requests += 1
            return self.faults.pop(0) if self.faults else None

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are expected."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RangeServer

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        if self._is_here():
            self._start(200, self.server.file.stat().st_size)

    def do_GET(self) -> None:
        if not self._is_here():
            return None
        fault = self.server.take_fault()
        if fault == "503":
            return self._start(503, 0)
        if fault == "dropped":
            return self._hang_up()
        size = self.server.file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(wanted[1]), min(int(wanted[2]) + 1, size)) if wanted else (0, size)
        content = self._read(start, stop if fault != "short" else start + (stop - start) // 2)
        self._start(206, len(content), f"bytes {start}-{start + len(content) - 1}/{size}")
        cut = len(content) // 2 if fault in ("truncated", "reset") else len(content)
        self.wfile.write(content[:cut])
        self.server.sent += cut
        if fault == "replaced":
            self.server.replace(self.server.file)
        if cut < len(content):
            self._hang_up(reset=fault == "reset")

    def _is_here(self) -> bool:
        """Whether the file is asked for; else the answer has been given."""
        found = self.server.url.endswith(self.path)
        if not found:
            self._start(404, 0)
        return found

    def _read(self, start: int, stop: int) -> bytes:
        with self.server.file.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def _start(self, status: int, length: int, span: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", self.server.tag)
        self.send_header("Accept-Ranges", "bytes")
        if span is not None:
            self.send_header("Content-Range", span)
        self.end_headers()

    def _hang_up(self, *, reset: bool = False) -> None:
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


@contextlib.contextmanager
def serve(file: Path) -> Iterator[RangeServer]:
    """A running server of a file."""
    server = RangeServer(file)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
