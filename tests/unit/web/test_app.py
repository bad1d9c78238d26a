"""The health endpoint on a real socket: right answers, and no client that can hurt a running backup."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.catalog import Catalog
from backup.errors import BackupError, DatabaseUnavailable
from backup.health import Health, Reason, SchedulerState, Status
from backup.manifest import Tier
from backup.operations.serve import check_ready
from backup.sets import StoredSet
from backup.web import app as app_module
from backup.web import server as server_module
from backup.web.app import create_app
from backup.web.server import HttpServer, bind

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
GOOD = StoredSet(
    Path("/backups/daily"), "daily_2025-10-20_02-00-00", Tier.DAILY, NOW - timedelta(hours=10), "complete", (), 7
)


@dataclass
class World:
    """What the service would find out, settable by a test, and how often it was asked."""

    status: Status = "pass"
    reasons: tuple[Reason, ...] = ()
    scheduler: SchedulerState = "alive"
    ready: Callable[[], None] = lambda: None
    before: Callable[[], None] = lambda: None
    asked: list[float] = field(default_factory=list)

    def health(self) -> Health:
        self.asked.append(time.monotonic())
        self.before()
        return Health(self.status, self.reasons, NOW, GOOD, self.scheduler)


@contextmanager
def served(world: World) -> Iterator[int]:
    app = create_app(scheduler=lambda: world.scheduler, health=world.health, ready=lambda: world.ready())
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with HttpServer(app, listener):
            yield port


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def port(world: World) -> Iterator[int]:
    with served(world) as port:
        yield port


@pytest.fixture(scope="module")
def any_port() -> Iterator[int]:
    """A server for the questions that ask nothing of the world."""

    def forbidden() -> None:
        raise AssertionError("asked")

    with served(World(before=forbidden, ready=forbidden)) as port:
        yield port


def ask(port: int, path: str, method: str = "GET") -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("status", "code"), [("pass", 200), ("warn", 200), ("starting", 503), ("fail", 503)])
def test_healthz_answers_with_status_reasons_and_checks(world: World, port: int, status: Status, code: int) -> None:
    world.status, world.reasons = status, (Reason(status, "why", "what next"),)
    got, headers, body = ask(port, "/healthz")
    assert got == code
    assert headers["content-type"] == "application/health+json"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    answer = json.loads(body)
    assert answer.pop("version")
    assert answer == {
        "status": status,
        "service": "obcms-backup",
        "reasons": [{"severity": status, "text": "why", "hint": "what next"}],
        "time": "2025-10-20T12:00:00+00:00",
        "checks": {
            "scheduler:state": [{"observedValue": "alive"}],
            "newest-good-set:age": [
                {
                    "componentId": GOOD.id,
                    "observedValue": 36000,
                    "observedUnit": "s",
                    "time": "2025-10-20T02:00:00+00:00",
                }
            ],
        },
    }


@pytest.mark.parametrize(("state", "code"), [("alive", 200), ("stopped", 503), ("dead", 503)])
def test_livez_is_about_the_scheduler_alone(world: World, port: int, state: SchedulerState, code: int) -> None:
    world.scheduler, world.status = state, "fail"
    got, _, body = ask(port, "/livez")
    assert (got, bool(json.loads(body)["reasons"])) == (code, code != 200)
    assert not world.asked


def test_head_has_the_headers_and_no_body(world: World, port: int) -> None:
    world.status = "fail"
    code, headers, body = ask(port, "/healthz", "HEAD")
    assert (code, body) == (503, b"")
    assert headers["content-type"] == "application/health+json"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
def test_other_methods_are_refused(any_port: int, path: str, method: str) -> None:
    code, headers, _ = ask(any_port, path, method)
    assert code == 405
    assert set(headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["/", "/healthz/", "//healthz", "/metrics", "/livez/..", "/../etc/passwd", "/%00"])
def test_other_paths_are_not_there(any_port: int, path: str) -> None:
    assert ask(any_port, path)[0] == 404


def test_readyz_says_what_is_missing(world: World, port: int) -> None:
    def refuse() -> None:
        raise DatabaseUnavailable("the database \x1b[31m does\nnot answer", "Start it.")

    world.ready = refuse
    code, _, body = ask(port, "/readyz")
    assert code == 503
    assert json.loads(body)["reasons"] == [
        {"severity": "fail", "text": r"the database \x1b[31m does not answer", "hint": "Start it."}
    ]


def test_readyz_when_all_is_there(port: int) -> None:
    assert ask(port, "/readyz")[0] == 200


def test_ready_needs_a_volume_that_takes_a_file_and_leaves_none(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, ZoneInfo("UTC"))
    called: list[bool] = []
    check_ready(catalog, lambda: called.append(True))
    assert called == [True]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BackupError, match="No such file"):
        check_ready(Catalog(tmp_path / "gone", ZoneInfo("UTC")), lambda: called.append(True))
    (tmp_path / "daily").write_text("a file where a directory should be")
    with pytest.raises(BackupError, match="Not a directory"):
        check_ready(catalog, lambda: called.append(True))
    assert called == [True]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_bug_is_red_and_shows_its_trace_in_the_log_only(path: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("secret in /app/backup/health.py")

    with served(World(before=fail, ready=fail)) as port:
        code, headers, body = ask(port, path)
    assert code == 503
    assert headers["content-type"] == "application/health+json"
    assert json.loads(body)["reasons"][0]["text"] == "the check itself failed: RuntimeError"
    assert b"secret" not in body and b"Traceback" not in body
    assert "secret in" in caplog.text


def test_a_thousand_requests_cost_one_look(world: World, port: int) -> None:
    begun = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: ask(port, "/healthz")[0], range(1000)))
    assert set(codes) == {200}
    assert len(world.asked) <= 1 + (time.monotonic() - begun) / app_module._FRESH


def test_the_answer_is_renewed(world: World, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_FRESH", 0.0)
    assert ask(port, "/healthz")[0] == 200
    world.status = "fail"
    assert ask(port, "/healthz")[0] == 503


def test_a_disk_that_hangs_is_red_asked_once_and_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_HEALTH_LIMIT", 0.2)
    hang = threading.Event()
    world = World(before=lambda: hang.wait(30) and None)
    with served(world) as port:
        for _ in range(3):
            code, _, body = ask(port, "/healthz")
            assert code == 503
            assert "hangs" in json.loads(body)["reasons"][0]["text"]
        assert ask(port, "/livez")[0] == 200
        assert len(world.asked) == 1
        hang.set()


def test_slow_clients_do_not_block_others(world: World, port: int) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        for connection in slow:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        begun = time.monotonic()
        assert ask(port, "/healthz")[0] == 200
        assert time.monotonic() - begun < 5


def test_slow_clients_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_LIFETIME", 0.1)
    with served(World()) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises(ConnectionResetError):
            assert slow.recv(1) == b""
            raise ConnectionResetError


def test_too_many_connections_are_closed_unread(port: int) -> None:
    with ExitStack() as stack:
        many = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(300)]
        assert ask_anyway(many[-1]) == b""
        for connection in many:
            connection.close()
    deadline = time.monotonic() + 10
    while (code := ask(port, "/livez")[0]) != 200 and time.monotonic() < deadline:
        pass
    assert code == 200


def ask_anyway(connection: socket.socket) -> bytes:
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(1)
    except ConnectionError:
        return b""


def test_a_huge_request_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert connection.recv(12) == b"HTTP/1.1 400"
    assert ask(port, "/healthz")[0] == 200


def test_a_port_in_use_is_named_with_the_setting() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BackupError, match=f"127.0.0.1:{port}: the port is in use") as caught:
            bind("127.0.0.1", port)
    assert "BACKUP_HTTP_PORT" in caught.value.hint


def test_an_address_of_another_machine_is_named_with_the_setting() -> None:
    with pytest.raises(BackupError, match="192.0.2.1:0") as caught:
        bind("192.0.2.1", 0)
    assert "BACKUP_HTTP_HOST" in caught.value.hint
