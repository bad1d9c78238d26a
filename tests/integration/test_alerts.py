"""Messages on their way: real SMTP and HTTP servers, up, down, silent and refusing; the service with a failing run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.config.loader import load_settings
from backup.errors import StoreError
from backup.model.backup_set import Verdict
from backup.model.finding import failure
from backup.model.run import Outcome, Run
from backup.monitoring import alerts
from backup.monitoring.alerts.delivery import DeliveryProcess, deliver
from backup.monitoring.alerts.destinations import everything, targets
from backup.monitoring.alerts.model import HEARTBEAT, Delivery, Known, Policy, Receipt, Target
from backup.monitoring.alerts.notifier import TRIES, Notifier, Snapshot
from backup.monitoring.alerts.outbox import MOST, recall, remember
from backup.monitoring.health import Health
from backup.operations.status import overview, status
from tests.integration.test_serve import RUNNER, Service, eventually, publish, supercronic
from tests.support.receivers import Calls, http_server, silence, smtp
from tests.support.schemas import checked

__all__ = ["supercronic"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, str(ROOT / "entrypoint.py")]
CANARY = "canary-7f3a9c51e2"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def delivery(target: str, name: str = "m1", title: str = "[obcms] BACKUP FAILED: x", body: str = "why\n") -> Delivery:
    return Delivery(target=target, id=name, kind="failure", title=title, body=body)


def send(environ: dict[str, str], deadline: float = 10, deliveries: Sequence[Delivery] = ()) -> dict[str, Receipt]:
    """Receipts by target of one message for each."""
    to = everything(load_settings(environ))
    found = deliver(deliveries or [delivery(target.name) for target in to], to, deadline)
    return {receipt.target: receipt for receipt in found}


# --- one delivery --------------------------------------------------------------------------------------------------


def test_mail_arrives_as_plain_text_with_login_and_sender() -> None:
    with smtp(auth=True) as mails:
        environ = {
            "MAILTO": "one@example.com,two@example.com",
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": str(mails.port),
            "EMAIL_HOST_USER": "user@example.com",
            "EMAIL_HOST_PASSWORD": "p@ss/w%rd&?#",
            "DEFAULT_FROM_EMAIL": "OBCMS <noreply@example.com>",
        }
        body = "- a name: <b>@everyone</b> {x} \\n &amp; é\n  next\n"
        to = everything(load_settings(environ))
        receipts = deliver([delivery(t.name, body=body) for t in to], to, 10)
    assert [receipt.error for receipt in receipts] == ["", ""]
    assert set(mails.logins) == {("user@example.com", "p@ss/w%rd&?#")}
    assert sorted(recipients for recipients, _ in mails.messages) == [("one@example.com",), ("two@example.com",)]
    _, message = mails.messages[0]
    assert message["subject"] == "[obcms] BACKUP FAILED: x" and message["from"] == "OBCMS <noreply@example.com>"
    assert message.get_content_type() == "text/plain"
    content = message.get_content().replace("\r\n", "\n").replace("\u200b", "")
    assert content.strip() == body.strip()


def test_one_refused_recipient_does_not_keep_the_mail_from_the_others() -> None:
    with smtp(refused={"gone@example.com"}) as mails:
        environ = {"MAILTO": "gone@example.com,here@example.com", "EMAIL_HOST": "127.0.0.1"}
        found = send(environ | {"EMAIL_PORT": str(mails.port)})
    assert "550" in found["mail:gone@example.com"].error
    assert found["mail:here@example.com"].error == ""


@pytest.mark.parametrize("code", [400, 404, 500, 503])
def test_a_webhook_that_refuses_says_why_and_shows_no_address(code: int) -> None:
    with http_server(code) as calls:
        url = f"json://user:{CANARY}-1@127.0.0.1:{calls.port}/hook/{CANARY}-2?x={CANARY}-3"
        (receipt,) = send({"BACKUP_NOTIFY_URLS": url}).values()
    assert calls.requests[0][0] == "POST" and "BACKUP FAILED" in calls.requests[0][2]
    assert str(code) in receipt.error and CANARY not in receipt.error and len(receipt.error) <= 300


def test_targets_that_are_down_or_silent_hold_up_no_other_and_show_no_address() -> None:
    with http_server() as calls, silence() as port, silence() as down:
        urls = [
            f"mailto://u:{CANARY}@127.0.0.1:{port}/?from=a@example.com&to=b@example.com&smtp=127.0.0.1",
            f"json://127.0.0.1:{port}/{CANARY}",
            f"xml://127.0.0.1:{calls.port}/fine",
        ]
        begun = time.monotonic()
        threads = threading.active_count()
        found = send(
            {"BACKUP_NOTIFY_URLS": " ".join(urls), "BACKUP_HEARTBEAT_URL": f"http://127.0.0.1:{port}/{CANARY}"}, 5
        )
        assert time.monotonic() - begun < 30
        assert found["xml://127.0.0.1"].error == "" and found["xml://127.0.0.1"].seconds < 5
        silent = [receipt for name, receipt in found.items() if not name.startswith("xml")]
        assert len(silent) == 3 and all(receipt.error and CANARY not in receipt.error for receipt in silent)
        assert threading.active_count() - threads <= 6
        assert down
    refused = send({"BACKUP_NOTIFY_URLS": f"json://127.0.0.1:{down}/{CANARY}"})
    assert "refused" in refused["json://127.0.0.1"].error and CANARY not in refused["json://127.0.0.1"].error


def test_a_target_of_yesterday_is_named() -> None:
    (receipt,) = deliver([delivery("discord://***")], [], 10)
    assert receipt.target == "discord://***" and "not in the settings" in receipt.error


@pytest.mark.parametrize(("code", "well"), [(200, True), (204, True), (404, False), (500, False)])
def test_the_heartbeat_is_one_get(code: int, well: bool) -> None:
    with http_server(code) as calls:
        (receipt,) = send({"BACKUP_HEARTBEAT_URL": f"{calls.url}/ping/{CANARY}"}).values()
    assert calls.requests == [("GET", f"/ping/{CANARY}", "")]
    assert (receipt.error == "") is well and CANARY not in receipt.error


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_the_heartbeat_follows_no_redirect_away_from_the_web(location: str) -> None:
    with http_server(302, location) as calls:
        (receipt,) = send({"BACKUP_HEARTBEAT_URL": f"{calls.url}/x"}).values()
    assert receipt.error


# --- the notifier --------------------------------------------------------------------------------------------------


class Office:
    """A notifier with a clock of its own, delivering in this process. `again` is the service after a restart."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        self.root, self.settings, self.now = root, load_settings(environ | {"BACKUP_DIR": str(root)}), NOW
        self.health = Health("pass", (), self.now)
        self.runs: list[Run] = []
        self.sets: list[Any] = []
        self.tried: list[Sequence[Delivery]] = []
        self.notifier = self.again()

    def again(self) -> Notifier:
        self.notifier = Notifier(
            root=self.root,
            policy=lambda: Policy("obcms", "warn", timedelta(hours=24), UTC),
            targets=[target.name for target in targets(self.settings)],
            heartbeat=self.settings.heartbeat_url is not None,
            max_age=timedelta(hours=48),
            look=lambda: Snapshot(self.health, self.runs, self.sets),
            deliver=self.deliver,
            stop=lambda: None,
            clock=lambda: self.now,
        )
        return self.notifier

    def deliver(self, deliveries: Sequence[Delivery]) -> Sequence[Receipt]:
        self.tried.append(deliveries)
        return deliver(deliveries, everything(self.settings), 5)

    def look(self, times: int = 1, every: timedelta = timedelta(seconds=30)) -> None:
        for _ in range(times):
            self.notifier.round()
            self.now += every

    def fail(self, message: str = "no route to the database") -> None:
        run = Run(
            id=f"f{len(self.runs)}", operation="create", started=self.now, outcome=Outcome.FAILED, message=message
        )
        self.runs.insert(0, run)
        self.health = Health("fail", (failure(f"the last backup failed: {message}"),), self.now)

    def succeed(self) -> None:
        self.health = Health("pass", (), self.now)

    def texts(self) -> str:
        return " ".join(reason.text for reason in alerts.reasons(self.root, self.now))


@pytest.fixture
def office(tmp_path: Path) -> Callable[..., Office]:
    return lambda **environ: Office(tmp_path, environ)


def test_a_target_that_was_down_gets_it_later_also_after_a_restart_and_health_said_so(
    office: Callable[..., Office],
) -> None:
    with http_server(503) as calls:
        here = office(BACKUP_NOTIFY_URLS=f"json://u:{CANARY}@127.0.0.1:{calls.port}/{CANARY}")
        here.fail()
        here.look(20)
        assert 2 <= len(calls.requests) <= 5  # longer and longer pauses
        assert "alerts do not reach json://***@127.0.0.1 since 2026-03-01" in here.texts()
        assert "503" in here.texts() and "1 undelivered" in here.texts()
        summary = alerts.summary(here.root, here.settings)
        assert (summary.undelivered, summary.targets) == (1, ("json://***@127.0.0.1",)) and "503" in summary.last_error
        here.again()
        calls.code = 500
        here.look(20, timedelta(minutes=10))
        assert "503" in here.texts()  # the first error stays
        calls.code = 200
        here.look(8, timedelta(minutes=10))
        assert here.texts() == "" and recall(here.root).messages == ()
        assert alerts.summary(here.root, here.settings).last_delivered is not None
        told = len(calls.requests)
        here.again()
        here.look(20)
        assert len(calls.requests) == told
    state = [path for path in (here.root / "state").rglob("*") if path.is_file()]
    assert state and all(path.stat().st_mode & 0o777 == 0o600 for path in state)
    assert all(CANARY.encode() not in path.read_bytes() for path in state)


def test_undelivered_alerts_are_seen_in_health_but_do_not_make_it_fail(office: Callable[..., Office]) -> None:
    with http_server(500) as calls:
        here = office(BACKUP_NOTIFY_URLS=f"json://127.0.0.1:{calls.port}")
        here.fail()
        here.look(2)
    publish(here.root)
    catalog, records = Catalog(here.root, here.settings.zone), Records(here.root / "state" / "runs")
    now = datetime.now(UTC)
    health = status(here.settings, catalog, records, now, scheduler="alive")
    assert health.status == "warn" and "alerts do not reach" in health.reasons[0].text
    assert overview(here.settings, catalog, records, now, scheduler="alive", alerting=False).health.status == "pass"


def test_what_one_target_does_not_take_is_told_through_the_other(office: Callable[..., Office]) -> None:
    with http_server(500) as bad, http_server() as good:
        here = office(BACKUP_NOTIFY_URLS=f"json://127.0.0.1:{bad.port} xml://127.0.0.1:{good.port}")
        here.fail()
        here.look(4)
        bodies = [body for _, _, body in good.requests]
        assert len(bodies) == 2 and "alerts do not reach json" in bodies[1]
        here.look(200)
        assert len(good.requests) == 2


def test_what_was_refused_once_goes_before_what_came_after_it(office: Callable[..., Office]) -> None:
    with smtp() as mails:
        environ = {"MAILTO": "a@example.com", "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": str(mails.port)}
        here = office(**environ)
        mails.refused = {"a@example.com"}
        here.fail()
        here.look(2)
        mails.refused = set()
        here.succeed()
        here.look(2)
        assert ["FAILED" in mails.subjects()[0], "RECOVERED" in mails.subjects()[1]] == [True, True]


def test_an_alert_that_nobody_takes_for_a_week_is_given_up_and_health_says_so(office: Callable[..., Office]) -> None:
    here = office(BACKUP_NOTIFY_URLS="json://127.0.0.1:1")
    here.fail()
    here.look(2)
    here.health = Health("starting", (), here.now)
    here.now += timedelta(days=8)
    here.look(1)
    assert recall(here.root).messages  # a machine that was off, or a clock that jumped, has tried nothing
    here.look(TRIES, timedelta(hours=1))
    assert "1 alert could never be delivered" in here.texts() and recall(here.root).messages == ()


def test_the_outbox_is_bounded_and_keeps_the_first(office: Callable[..., Office]) -> None:
    here = office(BACKUP_NOTIFY_URLS="json://127.0.0.1:1")
    for n in range(60):
        here.fail(f"reason {'abcdefghij'[n % 10] * 3} {'klmnopqrst'[n // 10] * 3}")
        here.look(2, timedelta(hours=1))
    messages = recall(here.root).messages
    assert len(messages) == MOST / 2 and "aaa kkk" in messages[0].title
    notice = alerts.Notice(kind="report", title="weekly", body="x")
    with pytest.raises(StoreError, match="wait to be delivered"):
        for _ in range(MOST + 1):
            alerts.enqueue(here.root, notice, here.now)
    here.look(3, timedelta(hours=1))
    messages = recall(here.root).messages
    assert len(messages) == MOST and "aaa kkk" in messages[0].title and "could never be delivered" in here.texts()
    assert sum(each.kind == "failure" for each in messages) == MOST / 2


def test_a_full_disk_does_not_keep_an_alert_back(office: Callable[..., Office], tmp_path: Path) -> None:
    with http_server() as calls:
        here = office(BACKUP_NOTIFY_URLS=f"json://127.0.0.1:{calls.port}")
        (tmp_path / "state").write_text("no directory: nothing can be written below")
        here.fail("the backup volume is full")
        here.look(20)
        assert len(calls.requests) == 1 and "volume is full" in calls.requests[0][2]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"state": {"seen": 5}}', b"\xff" * 100])
def test_a_damaged_memory_or_message_is_survived(office: Callable[..., Office], tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state" / "outbox").mkdir(parents=True)
    (tmp_path / "state" / "alerts.json").write_bytes(damage)
    (tmp_path / "state" / "outbox" / "x.json").write_bytes(damage)
    os.mkfifo(tmp_path / "state" / "outbox" / "pipe.json")
    (tmp_path / "state" / "outbox" / "link.json").symlink_to("/etc/passwd")
    with http_server() as calls:
        here = office(BACKUP_NOTIFY_URLS=f"json://127.0.0.1:{calls.port}")
        here.fail()
        here.look(5)
        assert len(calls.requests) == 1 and here.texts() == ""


def test_a_report_put_in_by_another_process_is_delivered_once(office: Callable[..., Office]) -> None:
    with http_server() as calls:
        here = office(BACKUP_NOTIFY_URLS=f"json://127.0.0.1:{calls.port}")
        alerts.enqueue(
            here.root, alerts.Notice(kind="report", title="[obcms] weekly report", body="all is well"), here.now
        )
        here.look(5)
        assert [json.loads(body)["title"] for _, _, body in calls.requests] == ["[obcms] weekly report"]


def test_where_nothing_is_configured_nothing_is_sent_or_kept_and_nobody_complains(
    office: Callable[..., Office],
) -> None:
    here = office()
    alerts.enqueue(here.root, alerts.Notice(kind="report", title="weekly", body="x"), here.now)
    here.fail()
    here.look(10)
    assert here.tried == [] and here.texts() == "" and recall(here.root).messages == ()
    assert alerts.summary(here.root, here.settings) == alerts.summary(here.root / "none", here.settings)


def test_the_heartbeat_comes_after_a_verified_backup_once_and_its_failure_is_seen(
    office: Callable[..., Office],
) -> None:
    with http_server(500) as calls:
        here = office(BACKUP_HEARTBEAT_URL=f"{calls.url}/{CANARY}")
        name = publish(here.root)
        (made,) = Catalog(here.root, here.settings.zone).sets()
        run = Run(id="r1", operation="create", started=here.now, ended=here.now, outcome=Outcome.SUCCESS, set=name)
        here.runs, here.sets = [run], [made]
        here.look(3)
        assert calls.requests == []  # not verified yet
        here.sets = [replace(made, verdict=Verdict(checked=here.now))]
        here.look(2)
        assert len(calls.requests) == 1 and "the heartbeat does not reach its receiver" in here.texts()
        assert CANARY not in here.texts()
        calls.code = 200
        here.look(100)
        assert len(calls.requests) == 2 and here.texts() == ""
        assert alerts.summary(here.root, here.settings).last_heartbeat is not None
        here.again()
        here.look(10)
        assert len(calls.requests) == 2


# --- the process, the command, the service -------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return kept | {"DOCKER_HOST": "unix:///nowhere"} | more


def test_a_process_that_hangs_or_crashes_is_a_failed_delivery_and_is_gone() -> None:
    deliveries = [delivery("json://h")]
    begun = time.monotonic()
    (crashed,) = DeliveryProcess([sys.executable, "-c", "import os; os.abort()"])(deliveries)
    assert "ended with code" in crashed.error
    (missing,) = DeliveryProcess(["/nowhere/python"])(deliveries)
    assert "cannot be started" in missing.error
    process = DeliveryProcess([sys.executable, "-c", "import time; time.sleep(1000)"])
    timer = threading.Timer(0.3, process.stop)
    timer.start()
    assert process(deliveries) == []
    (hung,) = DeliveryProcess([sys.executable, "-c", "import time; time.sleep(1000)"], deadline=-29.5)(deliveries)
    assert "hung and was killed" in hung.error
    timer.join()
    assert time.monotonic() - begun < 60


def notify(tmp_path: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "notify", *words],
        env=environment(BACKUP_DIR=str(tmp_path), BACKUP_NOTIFY_NAME="stack", **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_notify_test_says_what_each_target_answers(tmp_path: Path) -> None:
    with smtp() as mails, http_server(500) as calls:
        environ = {
            "MAILTO": "a@example.com",
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": str(mails.port),
            "BACKUP_NOTIFY_URLS": f"json://u:{CANARY}@127.0.0.1:{calls.port}/{CANARY}",
            "BACKUP_HEARTBEAT_URL": f"{calls.url}/beat/{CANARY}",
        }
        done = notify(tmp_path, "--test", **environ)
        calls.code = 200
        well = notify(tmp_path, "--test", "--json", **environ)
    assert done.returncode == 62 and well.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("mail:a@example.com\tdelivered in")
    assert lines[1].startswith("json://***@127.0.0.1\tfailed") and "500" in lines[1]
    assert "heartbeat\tnot tried" in done.stdout
    assert "1 target of 2 did not accept the test message: json://***@127.0.0.1" in done.stdout + done.stderr
    assert [bool(each["error"]) for each in checked(well.stdout)["receipts"]] == [False, False]
    assert mails.subjects() == ["[stack] BACKUP TEST MESSAGE"] * 2
    assert not any("beat" in path for _, path, _ in calls.requests)
    assert CANARY not in done.stdout + done.stderr + well.stdout + well.stderr


def test_notify_says_what_to_set_and_lists_what_waits(tmp_path: Path) -> None:
    nothing = notify(tmp_path, "--test")
    assert nothing.returncode == 10 and "Set MAILTO with EMAIL_HOST" in nothing.stdout + nothing.stderr
    assert notify(tmp_path).returncode == 2
    here = Office(tmp_path, {"BACKUP_NOTIFY_URLS": f"json://u:{CANARY}@127.0.0.1:1/"})
    here.fail()
    here.look(2)
    waits = notify(tmp_path, "--pending", BACKUP_NOTIFY_URLS=f"json://u:{CANARY}@127.0.0.1:1/")
    assert "\tfailure\t[obcms] BACKUP FAILED" in waits.stdout and "json://***@127.0.0.1\tfailed 1" in waits.stdout
    assert CANARY not in waits.stdout + waits.stderr
    memory = recall(tmp_path)
    assert memory
    run = Known(level="run", text="upload daily failed: no route", since=datetime.now(UTC), count=2)
    remember(tmp_path, memory.model_copy(update={"state": memory.state.model_copy(update={"known": {"run x": run}})}))
    held = notify(tmp_path, "--pending").stdout
    assert "\theld back for the next message\tupload daily failed: no route" in held
    assert checked(notify(tmp_path, "--pending", "--json").stdout)["messages"][-1]["kind"] == "held"


NOTIFIER = """
import backup.service.main as service_module
from backup.app.composition import App
from backup.app.alerts import notifier as make_notifier
service_module._ALERTS = 0.5
make = lambda health: make_notifier(App(settings), given["alerts"], health)
"""


@pytest.fixture
def service(tmp_path: Path, supercronic: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    runner = RUNNER.replace("try:\n", f"{NOTIFIER}\ntry:\n").replace("grace=given", "notifier=make, grace=given")
    runner = runner.replace('given["alerts"]', json.dumps(CLI))
    monkeypatch.setattr("tests.integration.test_serve.RUNNER", runner)
    service = Service(tmp_path, supercronic)
    service.root.mkdir()
    with ExitStack() as stack:
        stack.callback(lambda: service.process and service.process.poll() is None and service.process.kill())
        yield service


def record(root: Path, name: str, outcome: Outcome, message: str = "", at: datetime | None = None) -> None:
    moment = at or datetime.now(UTC)
    run = Run(id=name, operation="create", tier="daily", started=moment, ended=moment, outcome=outcome, message=message)
    Records(root / "state" / "runs").end(run)


def test_in_the_service_a_failing_backup_is_one_mail_and_the_recovery_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(service.root)
    with smtp(auth=True) as mails, silence() as port:
        environ = {
            "MAILTO": "admin@example.com",
            "EMAIL_HOST": "127.0.0.1",
            "EMAIL_PORT": str(mails.port),
            "EMAIL_HOST_USER": "u",
            "EMAIL_HOST_PASSWORD": CANARY,
            # Takes connections and never answers: holds up nobody.
            "BACKUP_HEARTBEAT_URL": f"http://127.0.0.1:{port}/{CANARY}",
            "BACKUP_NOTIFY_NAME": "stack",
            "BACKUP_DRILL": "off",
        }
        for name, value in environment(**environ).items():
            monkeypatch.setenv(name, value)
        process = service.start(**environ)
        service.up()
        record(service.root, "20260101T000000Z-aaaaaa", Outcome.FAILED, f"FATAL: {'x' * 30} <b>\x1b[31m")
        eventually(lambda: mails.messages)
        record(service.root, "20260102T000000Z-bbbbbb", Outcome.SUCCESS)
        eventually(lambda: len(mails.messages) == 2)
        code, health = service.ask("/healthz")
        assert code == 200
        command_lines = [Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in service.children() if p.running]
        assert service.end() == 0
    assert process.returncode == 0
    assert mails.subjects()[0].startswith("[stack] BACKUP FAILED: the last daily backup failed: FATAL")
    assert mails.subjects()[1].startswith("[stack] BACKUP RECOVERED")
    assert set(mails.logins) == {("u", CANARY)}
    everywhere = service.output() + json.dumps(health) + str(command_lines)
    everywhere += "".join(path.read_text() for path in (service.root / "state").rglob("*.json"))
    everywhere += "".join(str(message) for _, message in mails.messages)
    # The runner's own argument holds the settings; nothing of ours does.
    assert CANARY not in everywhere
    assert mails.subjects() == mails.subjects()[:2]


def test_a_delivery_that_hangs_does_not_hold_up_the_end_of_the_service(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(service.root)
    with silence() as port:
        environ = {"BACKUP_NOTIFY_URLS": f"json://127.0.0.1:{port}/", "BACKUP_NOTIFY_NAME": "x", "BACKUP_DRILL": "off"}
        for name, value in environment(**environ).items():
            monkeypatch.setenv(name, value)
        service.start(**environ)
        service.up()
        record(service.root, "20260101T000000Z-aaaaaa", Outcome.FAILED, "x")
        eventually(lambda: any(b"--deliver" in Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in service.children()))
        begun = time.monotonic()
        assert service.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 20
    assert service.left() == []
    assert recall(service.root).messages  # it waits for the next start


def test_only_the_heartbeats_target_takes_heartbeats() -> None:
    assert HEARTBEAT not in [
        target.name for target in targets(load_settings({"BACKUP_NOTIFY_URLS": "json://heartbeat"}))
    ]
    assert isinstance(everything(load_settings({"BACKUP_HEARTBEAT_URL": "http://h/x"}))[0], Target)


def test_a_careless_service_that_repeats_the_address_is_struck_out() -> None:
    with http_server(404) as calls:
        (receipt,) = send({"BACKUP_NOTIFY_URLS": f"form://127.0.0.1:{calls.port}/{CANARY}%20x"}).values()
    assert isinstance(calls, Calls) and CANARY not in receipt.error
