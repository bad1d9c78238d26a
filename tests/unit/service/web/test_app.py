"""The health endpoint on a real socket: right answers, and no client that can hurt a running backup."""

from __future__ import annotations

import base64
import http.client
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup import logging
from backup.catalog.catalog import Catalog
from backup.errors import BackupError, DatabaseUnavailable
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding, Level, failure
from backup.model.manifest import Tier
from backup.monitoring.health import Health, SchedulerState
from backup.monitoring.overview import Overview
from backup.service.main import check_ready
from backup.service.probe import SOCKET, login, probe
from backup.service.web import app as app_module
from backup.service.web.app import DEAR, FRESH, create_app
from backup.service.web.guard import HEADERS, Access
from backup.service.web.server import LIFETIME, HttpServer, bind, reserved
from tests.support.overviews import healthy
from tests.support.schemas import checked

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
GOOD = StoredSet(
    Path("/backups/daily"), "daily_2025-10-20_02-00-00", Tier.DAILY, NOW - timedelta(hours=10), "complete", (), 7
)


@dataclass
class World:
    """What the service would find out, settable by a test, and how often it was asked."""

    status: Level = "pass"
    reasons: tuple[Finding, ...] = ()
    scheduler: SchedulerState = "alive"
    ready: Callable[[], None] = lambda: None
    before: Callable[[], None] = lambda: None
    asked: list[float] = field(default_factory=list)

    def overview(self) -> Overview:
        self.asked.append(time.monotonic())
        self.before()
        return replace(healthy(), health=Health(self.status, self.reasons, NOW, GOOD, self.scheduler))


@contextmanager
def served(
    world: World, access: Access | None = None, lifetime: float = LIFETIME, local: Path | None = None, **limits: float
) -> Iterator[int]:
    app = create_app(
        scheduler=lambda: world.scheduler, overview=world.overview, ready=lambda: world.ready(), access=access, **limits
    )
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with HttpServer(app, listener, lifetime), reserved(app, local) if local else nullcontext():
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


@pytest.fixture(scope="module")
def plain_port() -> Iterator[int]:
    """A server that has nothing to say."""
    with served(World()) as port:
        yield port


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers={"Connection": "close"} | headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("status", "code"), [("pass", 200), ("warn", 200), ("starting", 503), ("fail", 503)])
def test_healthz_answers_with_status_reasons_and_checks(world: World, port: int, status: Level, code: int) -> None:
    world.status, world.reasons = status, (Finding(status, "why", "what next"),)
    got, headers, body = ask(port, "/healthz")
    assert got == code
    assert headers["content-type"] == "application/health+json"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    answer = checked(body)
    assert answer.pop("version")
    assert answer == {
        "format": 1,
        "kind": "health",
        "status": status,
        "service": "obcms-backup",
        "reasons": [{"level": status, "topic": "", "text": "why", "hint": "what next"}],
        "time": "2025-10-20T12:00:00Z",
        "checks": {
            "scheduler:state": [{"observedValue": "alive"}],
            "newest-good-set:age": [
                {
                    "componentId": GOOD.id,
                    "observedValue": 36000,
                    "observedUnit": "s",
                    "time": "2025-10-20T02:00:00Z",
                }
            ],
        },
    }


@pytest.mark.parametrize(("state", "code"), [("alive", 200), ("stopped", 503), ("dead", 503)])
def test_livez_is_about_the_scheduler_alone(world: World, port: int, state: SchedulerState, code: int) -> None:
    world.scheduler, world.status = state, "fail"
    got, _, body = ask(port, "/livez")
    assert (got, bool(checked(body)["reasons"])) == (code, code != 200)
    assert not world.asked


def test_head_has_the_headers_and_no_body(world: World, port: int) -> None:
    world.status = "fail"
    code, headers, body = ask(port, "/healthz", "HEAD")
    assert (code, body) == (503, b"")
    assert headers["content-type"] == "application/health+json"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/livez", "/healthz", "/", "/metrics", "/nowhere"])
def test_other_methods_are_refused(any_port: int, path: str, method: str) -> None:
    code, headers, _ = ask(any_port, path, method)
    assert code == 405
    assert set(headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path", ["/healthz/", "//healthz", "/metrics/", "/livez/..", "/../etc/passwd", "/%00", "/icon/x.svg"]
)
def test_other_paths_are_not_there(any_port: int, path: str) -> None:
    assert ask(any_port, path)[0] == 404


def test_readyz_says_what_is_missing(world: World, port: int) -> None:
    def refuse() -> None:
        raise DatabaseUnavailable("the database \x1b[31m does\nnot answer", "Start it.")

    world.ready = refuse
    code, _, body = ask(port, "/readyz")
    assert code == 503
    assert checked(body)["reasons"] == [
        {"level": "fail", "topic": "", "text": r"the database \x1b[31m does not answer", "hint": "Start it."}
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


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    logging.setup_logging(None, lines.append)
    yield lines
    logging.logger.remove()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/metrics", "/api/status"])
def test_a_bug_is_red_and_shows_its_trace_in_the_log_only_and_once(path: str, logged: list[str]) -> None:
    def fail() -> None:
        raise RuntimeError("secret in /app/backup/health.py")

    with served(World(before=fail, ready=fail)) as port:
        answers = [ask(port, path) for _ in range(20)]
    for code, _, body in answers:
        assert code == 503
        assert b"the check itself failed: RuntimeError" in body
        assert b"secret" not in body and b"Traceback" not in body
    assert sum("secret in" in line for line in logged) == 1


def test_a_bug_in_the_drawing_is_answered_and_logged(
    world: World, port: int, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module.page, "render", lambda overview: 1 / 0)
    code, headers, body = ask(port, "/")
    assert (code, headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert b"the check itself failed: ZeroDivisionError" in body
    assert ask(port, "/healthz")[0] == 200
    assert "ZeroDivisionError" in "".join(logged)


SURFACES = ("/", "/metrics", "/api/status", "/healthz")


@pytest.mark.long
def test_a_thousand_requests_cost_one_look(world: World, port: int) -> None:
    begun = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda number: ask(port, SURFACES[number % 4])[0], range(1000)))
    assert set(codes) == {200}
    assert len(world.asked) <= 1 + (time.monotonic() - begun) / FRESH


def test_the_answer_is_renewed(world: World) -> None:
    with served(world, fresh=0) as port:
        assert ask(port, "/healthz")[0] == 200
        world.status = "fail"
        assert ask(port, "/healthz")[0] == 503


def test_a_disk_that_hangs_is_red_asked_once_and_blocks_nobody() -> None:
    hang = threading.Event()
    world = World(before=lambda: hang.wait(60) and None)
    with served(world, limit=0.1) as port:
        for _ in range(3):
            code, _, body = ask(port, "/healthz")
            assert code == 503
            assert "hangs" in checked(body)["reasons"][0]["text"]
        assert ask(port, "/livez")[0] == 200
        assert len(world.asked) == 1
        hang.set()


def work() -> None:
    """What a look at thousands of sets costs."""
    begun = time.thread_time()
    while time.thread_time() - begun < 1.5 * DEAR:
        pass


def test_after_much_work_the_probe_waits_for_how_it_is_now(tmp_path: Path) -> None:
    world, local = World(before=work), tmp_path / SOCKET
    with served(world, fresh=0, limit=30, local=local) as port:
        assert probe(port, local=local) == (0, "pass")
        world.status = "fail"
        assert probe(port, local=local) == (1, "fail")


@pytest.mark.long
def test_after_much_work_health_is_told_from_the_last_look_while_the_next_is_under_way() -> None:
    go_on = threading.Event()
    go_on.set()
    world = World(before=lambda: (work(), go_on.wait(60)) and None)
    with served(world, fresh=0, limit=30) as port:
        assert ask(port, "/healthz")[0] == 200
        go_on.clear()
        world.status = "fail"
        for _ in range(3):
            assert ask(port, "/healthz")[0] == 200
        assert len(world.asked) == 2
        go_on.set()
        deadline = time.monotonic() + 20
        while ask(port, "/healthz")[0] != 503:
            assert time.monotonic() < deadline
        assert ask(port, "/api/status")[0] == 200  # which waits for the newest


def test_a_disk_that_hangs_is_not_told_from_memory() -> None:
    hang = threading.Event()
    hang.set()
    world = World(before=lambda: hang.wait(60) and None)
    with served(world, fresh=0, limit=0.1) as port:
        assert ask(port, "/healthz")[0] == 200
        hang.clear()
        assert ask(port, "/healthz")[0] == 503
        hang.set()


def test_slow_clients_do_not_block_others(world: World) -> None:
    with served(world, lifetime=600) as port, ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        for connection in slow:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert ask(port, "/healthz")[0] == 200


def test_slow_clients_are_sent_away() -> None:
    with served(World(), lifetime=0.1) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
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


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_the_probe_is_answered_while_visitors_hold_all_connections(tmp_path: Path, path: str) -> None:
    """Idle and slow ones, and more than the server takes."""
    local = tmp_path / "run" / SOCKET
    with served(World(), lifetime=600, local=local) as port, ExitStack() as stack:
        many = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(300)]
        for slow in many[:100]:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert ask_anyway(many[-1]) == b""
        assert probe(port, path)[0] == 1  # as everybody
        assert probe(port, path, local=local) == (0, "pass")
        assert stat.S_IMODE(local.stat().st_mode) == 0o600
    assert not local.exists()


@pytest.mark.long
def test_the_probe_is_answered_while_visitors_keep_the_service_at_work(tmp_path: Path) -> None:
    """Pages that are much work, drawn anew each time."""
    local, ended = tmp_path / SOCKET, threading.Event()

    def visit(port: int) -> None:
        while not ended.is_set():
            with suppress(OSError, http.client.HTTPException):
                ask(port, "/")

    with served(World(before=work), fresh=0, local=local) as port, ThreadPoolExecutor(20) as visitors:
        for _ in range(20):
            visitors.submit(visit, port)
        try:
            assert [probe(port, path, local=local) for path in ("/livez", "/healthz") * 3] == [(0, "pass")] * 6
        finally:
            ended.set()


def test_a_socket_that_nobody_listens_at_is_no_reason_to_be_unhealthy(tmp_path: Path, port: int) -> None:
    """It is left by a service that was killed; the next one takes its place."""
    local = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(local))
    assert probe(port, local=local) == (0, "pass")
    with served(World(scheduler="dead"), local=local):
        assert probe(port, "/livez", local=local) == (
            1,
            "fail: supercronic is not running and is being started again; the service starts the backups alone",
        )


def test_without_a_place_for_the_socket_the_service_runs(tmp_path: Path, logged: list[str]) -> None:
    (tmp_path / "run").touch()
    with served(World(), local=tmp_path / "run" / SOCKET) as port:
        assert probe(port, local=tmp_path / "run" / SOCKET) == (0, "pass")
    assert "uses the port" in "".join(logged)


def ask_anyway(connection: socket.socket) -> bytes:
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(1)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("path", [*SURFACES, "/livez", "/readyz", "/style.css", "/icon/fail.svg", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_has_the_headers(plain_port: int, path: str, method: str) -> None:
    _, headers, _ = ask(plain_port, path, method)
    assert {name: headers.get_all(name) for name in HEADERS} == {name: [value] for name, value in HEADERS.items()}


def test_what_is_not_http_is_told_so_with_the_headers(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert all(f"{name.lower()}: {value}\r\n".encode() in answer for name, value in HEADERS.items())


def test_odd_requests_do_not_fill_the_log(port: int, logged: list[str]) -> None:
    for odd in (
        b"\0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n\0\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(odd)
            assert connection.makefile("rb").readline()
    assert logged == []


# --- who may ask -----------------------------------------------------------------------------------------------------

LOCKED = Access.of([], token="canary-token", user="ops", password="canary: pass wörd")
BASIC = "Basic " + base64.b64encode("ops:canary: pass wörd".encode()).decode()
WRONG = [
    "",
    "Bearer",
    "Bearer canary-toke",
    "Bearer canary-token2",
    "Basic canary-token",
    "Basic !",
    "Digest x",
    "Basic b3Bz",
]


@pytest.fixture(scope="module")
def locked() -> Iterator[int]:
    with served(World("fail", (failure("canary set is damaged", "canary hint"),)), LOCKED) as port:
        yield port


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/status", "/style.css", "/icon/pass.svg", "/nowhere"])
@pytest.mark.parametrize("login", WRONG)
def test_nothing_is_told_without_the_login(locked: int, path: str, login: str) -> None:
    code, headers, body = ask(locked, path, Authorization=login)
    assert (code, body) == (401, b"Log in to read this.\n")
    assert headers["www-authenticate"] == 'Basic realm="OBCMS backup", charset="UTF-8", Bearer realm="OBCMS backup"'
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("login", ["Bearer canary-token", "bearer  canary-token", BASIC])
def test_the_login_opens_everything(locked: int, path: str, login: str) -> None:
    code, _, body = ask(locked, path, Authorization=login)
    assert code == (503 if path == "/healthz" else 200)
    assert path == "/metrics" or b"canary set is damaged" in body
    assert b"canary-token" not in body and b"pass w" not in body


def test_health_tells_everybody_the_bare_status(locked: int) -> None:
    code, _, body = ask(locked, "/healthz")
    answer = checked(body)
    assert (code, answer["status"], answer["version"], answer["reasons"]) == (503, "fail", None, [])
    assert ask(locked, "/livez")[0] == ask(locked, "/readyz")[0] == 200


def test_the_probe_has_the_login_from_its_environment(locked: int, tmp_path: Path) -> None:
    told = (1, "fail: canary set is damaged")
    (tmp_path / "token").write_text("canary-token\n")
    token = login({"BACKUP_HTTP_TOKEN_FILE": str(tmp_path / "token")})
    assert probe(locked, login=token) == told
    pair = login({"BACKUP_HTTP_USER": "ops", "BACKUP_HTTP_PASSWORD": "canary: pass wörd"})
    assert probe(locked, login=pair) == told
    assert (login({}), probe(locked)) == ("", (1, "fail"))


@pytest.fixture(scope="module")
def named() -> Iterator[int]:
    with served(World(), Access.of(["mine.example."])) as port:
        yield port


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.:1",
        "127.0.0.1:8080",
        "10.1.2.3",
        "[::1]:8080",
        "[fe80::1%25eth0]",
        "backup",
        "Mine.example",
    ],
)
def test_names_that_are_its_own(named: int, host: str) -> None:
    assert ask(named, "/livez", Host=host)[0] == ask(named, "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "backup.",
        "",
        "a b",
        "[evil]",
        "0x7f.1",
        "::1",
    ],
)
def test_other_names_are_refused(any_port: int, host: str) -> None:
    expected = (200,) if host == "backup." else (400, 421)
    code, _, body = ask(any_port, "/livez", Host=host)
    assert code in expected
    assert b"evil" not in body


def test_any_name_will_do_if_the_operator_says_so(world: World) -> None:
    with served(world, Access.of(["*"])) as port:
        assert ask(port, "/", Host="evil.example")[0] == 200


# --- limits ----------------------------------------------------------------------------------------------------------


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
