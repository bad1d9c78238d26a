"""The real service under what hostile clients send: it goes on answering, and its memory stays what it was."""

from __future__ import annotations

import http.client
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.schemas import checked

ROOT = Path(__file__).parents[2]
MB = 1 << 20

# The server as `serve` makes it, in a process whose memory can be measured.
RUNNER = """
import sys, time
from backup.service.web.app import create_app
from backup.service.web.server import HttpServer, bind
from tests.support.overviews import warning

app = create_app(scheduler=lambda: "alive", overview=warning, ready=lambda: None)
with bind("127.0.0.1", 0) as listener, HttpServer(app, listener):
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@dataclass
class Target:
    """One server process."""

    process: subprocess.Popen[str]
    port: int
    errors: Path

    def memory(self) -> int:
        """Bytes that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def health(self) -> tuple[int, float]:
        """(code, seconds)"""
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/healthz", headers={"Connection": "close"})
            response = connection.getresponse()
            checked(response.read())
            return response.status, time.monotonic() - begun
        finally:
            connection.close()

    def recovered(self, seconds: float = 20) -> None:
        """Wait until health is answered well again."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(OSError, http.client.HTTPException, ValueError):
                if self.health()[0] == 200:
                    return
            assert time.monotonic() < deadline, "health does not come back"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    errors = tmp_path_factory.mktemp("http") / "errors"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    with (
        errors.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout
        target = Target(process, int(process.stdout.readline()), errors)
        for path in ("/", "/metrics", "/api/status"):  # what is loaded once
            connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=20)
            connection.request("GET", path)
            assert connection.getresponse().read()
            connection.close()
        yield target
        process.communicate()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert errors.read_text() == ""  # not one line for all of it


def test_slowloris(target: Target) -> None:
    """A hundred clients that send one byte at a time, for ever."""
    before = target.memory()
    with ExitStack() as stack:
        slow = [stack.enter_context(target.connect()) for _ in range(100)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        for _ in range(10):
            for connection in slow:
                with suppress(OSError):
                    connection.send(b"x")
            code, seconds = target.health()
            assert (code, seconds < 8) == (200, True)
    assert target.memory() - before < 32 * MB


def test_a_thousand_connections(target: Target) -> None:
    before = target.memory()
    with ExitStack() as stack:
        for _ in range(1_000):
            with suppress(OSError):
                stack.enter_context(target.connect()).sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        assert target.memory() - before < 64 * MB
    target.recovered()
    assert target.memory() - before < 64 * MB


def test_a_gigabyte_of_body(target: Target) -> None:
    """A request of a gigabyte is answered from its head; what follows is not kept, and soon the connection ends."""
    before, peak = target.memory(), 0
    chunk = bytes(4 * MB)
    sent = 0
    with target.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n")
        reader = threading.Thread(target=_drain, args=(connection,))
        reader.start()
        with suppress(OSError):
            while sent < 1 << 30:
                sent += connection.send(chunk)
                peak = max(peak, target.memory())
        code, seconds = target.health()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        reader.join()
    assert (code, seconds < 8) == (200, True)
    assert peak - before < 32 * MB


def _drain(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(MB):
            pass


def test_one_that_reads_nothing_does_not_fill_the_memory(target: Target) -> None:
    """Clients that ask and ask and never take the answer."""
    before = target.memory()
    with ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(target.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            with suppress(OSError):
                for _ in range(200):
                    connection.send(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        assert target.health()[0] == 200
        assert target.memory() - before < 64 * MB
    target.recovered()
