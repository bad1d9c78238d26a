"""The probe says in one line how the service is, and waits while the first backup runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backup.service.probe import main, probe, target

ROOT = Path(__file__).parents[3]


@contextmanager
def service(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[int]:
    """A real HTTP server whose answer to a path is `answer`; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answer(self.path)
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def body(status: str, *reasons: str) -> bytes:
    return json.dumps({"status": status, "reasons": [{"text": text} for text in reasons]}).encode()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("code", "answer", "exit_code", "line"),
    [
        (200, body("pass"), 0, "pass"),
        (200, body("warn", "a file changed"), 0, "warn: a file changed"),
        (503, body("fail", "too old", "no scheduler"), 1, "fail: too old; no scheduler"),
        (503, body("starting", "first backup"), 1, "starting: first backup"),
        (503, b"Service Unavailable", 1, "HTTP 503, without a status"),
        (404, b"", 1, "HTTP 404, without a status"),
        (200, b"[1]", 0, "HTTP 200, without a status"),
        (500, b'{"status": 1, "reasons": 3}', 1, "HTTP 500, without a status"),
    ],
)
def test_the_exit_code_is_that_of_the_answer(code: int, answer: bytes, exit_code: int, line: str) -> None:
    with service(lambda _: (code, answer)) as port:
        assert probe(port) == (exit_code, line)


def test_the_path_is_asked_as_given() -> None:
    with service(lambda path: (200, body(path))) as port:
        assert probe(port, "/readyz") == (0, "/readyz")


def test_hostile_text_is_one_short_harmless_line() -> None:
    with service(lambda _: (503, body("fail", "\x1b[2J\n\u202e", "ü" * 10_000))) as port:
        code, line = probe(port)
    assert code == 1
    assert line.startswith(r"fail: \x1b[2J\n\u202e; ü")
    assert len(line.encode()) < 4000


def test_it_waits_while_the_first_backup_runs() -> None:
    slept: list[float] = []
    answers = iter([(503, body("starting", "x"))] * 3 + [(503, body("fail", "the password is wrong"))])
    with service(lambda _: next(answers)) as port:
        assert probe(port, wait=30, sleep=slept.append) == (1, "fail: the password is wrong")
    assert len(slept) == 3


def test_it_waits_no_longer_than_it_is_told() -> None:
    slept: list[float] = []
    with service(lambda _: (503, body("starting", "x"))) as port:
        told = probe(port, wait=7, clock=lambda: sum(slept), sleep=slept.append)
    assert told == (1, "starting: x") and sum(slept) == 7


def test_nobody_there(free_port: int) -> None:
    assert probe(free_port, wait=30) == (1, f"the service does not answer on port {free_port}: Connection refused")


def test_somebody_who_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, line = probe(port, timeout=0.1)
    assert (code, line) == (1, f"the service does not answer on port {port} within 0 s")


def test_somebody_who_speaks_something_else() -> None:
    def greet(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        assert probe(port) == (1, f"what answers on port {port} is not the service: BadStatusLine")
        thread.join()


def test_the_address_is_that_of_the_service() -> None:
    assert target({}) == ("127.0.0.1", 8080)
    assert target({"BACKUP_HTTP_PORT": "", "BACKUP_HTTP_HOST": "0.0.0.0"}) == ("127.0.0.1", 8080)  # noqa: S104
    assert target({"BACKUP_HTTP_PORT": "81", "BACKUP_HTTP_HOST": "::"}) == ("::1", 81)
    assert target({"BACKUP_HTTP_HOST": "172.18.0.5"}) == ("172.18.0.5", 8080)


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with service(lambda path: (200, body(path))) as port:
        monkeypatch.setenv("BACKUP_HTTP_PORT", str(port))
        monkeypatch.delenv("BACKUP_HTTP_HOST", raising=False)
        assert main([]) == 0
        assert main(["--wait", "0", "/livez"]) == 0
    assert capsys.readouterr().out == "/healthz\n/livez\n"
    assert main(["--wait"]) == main(["--wait", "long"]) == 1


def test_as_a_process_it_is_quick_and_needs_the_standard_library_only() -> None:
    with service(lambda _: (503, body("fail", "too old"))) as port:
        argv = [sys.executable, "-S", "-m", "backup.service.probe", "--wait", "0"]
        done = subprocess.run(argv, cwd=ROOT, env={"BACKUP_HTTP_PORT": str(port)}, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"fail: too old\n", b"")
