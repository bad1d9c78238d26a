"""What the doctor says of facts, and how its checks are run: none hides another, none is waited for without end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from backup.cli.render.doctor import doctor_json, doctor_lines, doctor_page
from backup.config import loader
from backup.docker.container import Container
from backup.docker.permissions import CALLS, Rights
from backup.errors import ConfigError
from backup.logging import redacting
from backup.model.backup_set import StoredSet
from backup.model.manifest import Locale
from backup.model.schedule import upcoming
from backup.monitoring.alerts.model import Receipt
from backup.operations.doctor import service, sources
from backup.operations.doctor.model import EXIT, Check, Found, Line, NotChecked, Shared, examine, worst
from backup.operations.doctor.settings import Setting
from backup.operations.doctor.settings import settings as told
from backup.operations.doctor.sources import Measured
from backup.postgres.inspect import DatabaseRights, Facts
from tests.support.facts import a_set

NOW = datetime(2026, 11, 25, 4, tzinfo=UTC)
MANILA = ZoneInfo("Asia/Manila")
SAY = Found("x")
RIGHTS = DatabaseRights(
    role="obcms_user",
    superuser=True,
    create_databases=True,
    create_roles=True,
    end_sessions=True,
    keep_logins=True,
    untrusted=(),
    unreadable=(),
    hidden=(),
    ahead=timedelta(),
)
FACTS = Facts(
    name="obcms",
    oid=5,
    system_identifier="7",
    server_version="17.2",
    major=17,
    size=10**7,
    superuser=True,
    not_carried=(),
    settings=(),
    locale=Locale(encoding="UTF8", collate="C", ctype="C", provider="c"),
    bootstrap="postgres",
)


def levels(lines: Iterator[Line] | list[Line]) -> list[str]:
    return [line.level for line in lines]


def container(service: str, *mounts: dict[str, Any], running: bool = True) -> Container:
    return Container(
        id=service,
        name=f"p-{service}-1",
        project="p",
        service=service,
        image="app",
        image_id="sha256:a",
        running=running,
        status="running",
        environment={},
        addresses={},
        aliases=frozenset(),
        mounts=mounts,
    )


def mount(name: str, *, writable: bool = True) -> dict[str, Any]:
    return {"Type": "volume", "Name": name, "Destination": "/m", "RW": writable}


def test_a_check_that_fails_hides_no_other() -> None:
    def config_error() -> list[Line]:
        raise ConfigError("no such service", "Set DB_SERVICE.")

    def bug() -> Iterator[Line]:
        yield SAY.ok("first")
        raise KeyError("secret-canary")

    def wants() -> list[Line]:
        raise NotChecked("the database")

    redacting(["secret-canary"])
    checks = [Check("a", config_error), Check("b", bug), Check("c", wants), Check("d", lambda: [SAY.ok("well")])]
    lines = examine(checks)
    assert [(line.topic, line.level) for line in lines] == [
        ("a", "failed"),
        ("x", "ok"),
        ("b", "failed"),
        ("c", "warning"),
        ("x", "ok"),
    ]
    assert lines[0].hint == "Set DB_SERVICE."
    assert "this check is broken: KeyError" in lines[2].text
    assert "secret-canary" not in str(lines)
    assert worst(lines) == "failed"


def test_a_check_that_hangs_is_not_waited_for() -> None:
    never = threading.Event()
    hangs = Check("slow", lambda: [SAY.ok(str(never.wait(60)))], seconds=0.2)
    lines = examine([hangs, Check("quick", lambda: [SAY.ok("well")])])
    assert [(line.topic, line.level) for line in lines] == [("slow", "failed"), ("x", "ok")]
    assert "no answer within 0 s" in lines[0].text
    never.set()


def test_a_shared_fact_is_asked_for_once_and_its_error_is_told_once() -> None:
    asked: list[int] = []

    def find() -> int:
        asked.append(1)
        raise ConfigError("gone")

    shared = Shared(find, "the database")
    with pytest.raises(ConfigError):
        shared.get()
    with pytest.raises(NotChecked, match="the database"):
        shared.borrow()
    assert (len(asked), shared.known()) == (1, None)


def test_lines_are_harmless() -> None:
    (line,) = examine([Check("a", lambda: [SAY.warning("evil\x1b[31m\nname", "run\tthis")])])
    assert line.text == "evil\\x1b[31m name"
    assert line.hint == "run this"


def test_exit_codes_are_those_of_the_monitor() -> None:
    assert [EXIT[worst(lines)] for lines in ([], [SAY.ok("")], [SAY.ok(""), SAY.warning("")])] == [0, 0, 60]
    assert EXIT[worst([SAY.failed(""), SAY.warning("")])] == 61


def test_an_engine_with_all_rights() -> None:
    lines = list(sources.engine(Rights("unix:///s", "28.5", rootless=False, refused=())))
    assert levels(lines) == ["ok", "ok"]
    assert "as good as root" in lines[1].text


@pytest.mark.parametrize(("purpose", "level"), [("backup", "failed"), ("drill", "warning"), ("restore", "warning")])
def test_a_refused_call_says_what_does_not_work(purpose: str, level: str) -> None:
    call = next(call for call in CALLS if call.purpose == purpose)
    lines = list(sources.engine(Rights("tcp://proxy:2375", "28.5", rootless=None, refused=(call,))))
    assert levels(lines) == ["ok", level]
    assert call.shown in lines[1].text
    assert "proxy" in lines[1].hint


def test_calls_are_shown_without_a_query() -> None:
    assert {call.shown for call in CALLS} >= {"POST /containers/ID/start", "GET /containers/json"}


@pytest.mark.parametrize(
    ("network", "wanted", "level"),
    [(False, True, "failed"), (True, True, "warning"), (True, False, "ok")],
)
def test_no_engine(network: bool, wanted: bool, level: str) -> None:
    assert sources.no_engine("it does not answer", "", network=network, wanted=wanted).level == level


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        (RIGHTS, ["ok"]),
        (replace(RIGHTS, superuser=False), ["ok"]),
        (replace(RIGHTS, superuser=False, create_roles=False), ["warning"]),
        (replace(RIGHTS, superuser=False, untrusted=("postgis",)), ["warning"]),
        (replace(RIGHTS, superuser=False, unreadable=("public.t",)), ["failed", "ok"]),
        (replace(RIGHTS, superuser=False, hidden=("public.t",)), ["failed", "ok"]),
    ],
)
def test_rights_of_the_login(rights: DatabaseRights, expected: list[str]) -> None:
    assert levels(sources.database_rights(FACTS, rights)) == expected


def test_a_password_that_is_a_public_word_is_warned_of() -> None:
    assert [line.level for line in sources.password("app", public=True)] == ["warning"]
    assert not list(sources.password("app", public=False))


def test_what_a_superuser_lacks_is_named() -> None:
    rights = replace(RIGHTS, role="acting", superuser=False, create_databases=False, untrusted=("postgis",))
    (line,) = sources.database_rights(FACTS, rights)
    assert "CREATEDB" in line.text
    assert "postgis" in line.text
    assert "ALTER ROLE acting" in line.hint


def test_volumes() -> None:
    found = [Measured("media", 3, 10), Measured("empty"), Measured("may"), Measured("bad", problem="cannot")]
    lines = list(sources.volumes([*found, Measured("new")], ["may"], ["empty", "media"]))
    assert levels(lines) == ["ok", "failed", "ok", "failed", "warning"]
    assert "BACKUP_ALLOW_EMPTY=empty" in lines[1].hint and "BACKUP_ALLOW_EMPTY=new" in lines[4].hint


@pytest.mark.parametrize(("allowed", "level"), [([], "failed"), (["none"], "ok")])
def test_no_volume(allowed: list[str], level: str) -> None:
    assert levels(sources.volumes([], allowed, [])) == [level]


def test_no_list_is_cut_without_saying_so() -> None:
    many = replace(RIGHTS, superuser=False, unreadable=tuple(f"t{number}" for number in range(8)))
    line = next(iter(sources.database_rights(FACTS, many)))
    assert "t4 and 3 more: a backup will fail" in line.text
    webs = [container(f"web{number}", mount(f"p_{number}")) for number in range(7)]
    (wrong, _) = sources.mounts([Measured("media", 1, 1, source="other")], webs, [])
    assert wrong.hint.endswith("p_4 (web4) and 2 more.")


def test_mounts() -> None:
    media = [Measured("media", 1, 1, source="p_media")]
    web = container("web1", mount("p_media"), mount("p_static"))
    nginx = container("nginx", mount("p_media", writable=False))
    good = list(sources.mounts(media, [web, nginx], []))
    assert levels(good) == ["ok", "ok"]
    assert "web1 may write" in good[0].text
    assert "p_static (web1)" in good[1].text
    wrong = list(sources.mounts([Measured("media", 1, 1, source="other")], [web], []))
    assert wrong[0].level == "failed"
    assert "p_media (web1)" in wrong[0].hint
    assert levels(sources.mounts(media, [nginx], [])) == ["warning"]
    assert levels(sources.mounts(media, [], [])) == ["warning"]
    assert levels(sources.mounts(media, [container("db", mount("data"))], ["data"])) == ["warning"]


@pytest.mark.parametrize(
    ("free", "needed", "level"),
    [(10**11, 10**6, "ok"), (10**11, None, "ok"), (10**9, 10**6, "warning"), (10**9, 2 * 10**9, "failed")],
)
def test_space(free: int, needed: int | None, level: str) -> None:
    assert levels(service.space(free, 10**12, needed, 5e9)) == [level]


@pytest.mark.parametrize(
    ("ahead", "newest", "expected"),
    [
        (timedelta(seconds=2), NOW, ["ok", "ok"]),
        (timedelta(hours=1), None, ["ok", "warning"]),
        (-timedelta(hours=1), None, ["ok", "warning"]),
        (None, None, ["ok", "warning"]),
        (timedelta(), NOW + timedelta(days=9), ["ok", "failed", "ok"]),
    ],
)
def test_clock(ahead: timedelta | None, newest: datetime | None, expected: list[str]) -> None:
    lines = list(service.clock(MANILA, NOW, ahead, newest))
    assert levels(lines) == expected
    assert "12:00:00" in lines[0].text
    assert "Asia/Manila" in lines[0].text


def test_schedule() -> None:
    slots = upcoming({"daily": "0 2 * * *", "drill": ""}, NOW, MANILA)
    (line,) = service.schedule(slots, MANILA, [])
    assert line.level == "ok"
    assert "daily Thu 2026-11-26 02:00" in line.text
    assert levels(service.schedule(upcoming({"monitor": "0 2 * * *"}, NOW, MANILA), MANILA, [])) == ["failed"]


def test_the_service() -> None:
    own = container("backup")
    assert levels(service.running(None, [])) == []
    assert levels(service.running(own, [own])) == ["ok"]
    assert levels(service.running(own, [container("backup", running=False)])) == ["warning"]


def test_restore() -> None:
    commands = [("web1", "migrate"), ("gone", "x")]
    lines = list(service.restore([container("web1")], commands, {"web1"}))
    assert levels(lines) == ["ok", "ok", "failed"]
    assert "stop web1" in lines[0].text
    assert "gone" in lines[2].text


@pytest.mark.parametrize(("on_purpose", "level"), [(True, "ok"), (False, "warning")])
def test_nobody_to_stop_the_application_with(on_purpose: bool, level: str) -> None:
    line = service.no_stop(on_purpose=on_purpose)
    assert line.level == level
    assert "by hand" in line.text + line.hint


def test_alerts() -> None:
    assert levels(service.alerts([], [], heartbeat=False)) == ["warning"]
    assert levels(service.alerts(["mail:a@b.example"], [], heartbeat=True)) == ["ok", "ok"]
    receipts = [Receipt(target="a", id="test"), Receipt(target="b", id="test", error="refused")]
    assert levels(service.tried(receipts)) == ["ok", "failed"]


def test_a_volume_in_memory() -> None:
    assert levels(service.volume(2, 1, "volume abc", "", "/backups")) == ["ok"]
    assert levels(service.volume(2, 1, "volume abc", "/backups is memory", "/backups")) == ["ok", "failed"]


def test_settings_have_sources_and_no_secrets(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("canary-one\n")
    environ = {
        "POSTGRES_DB": "obcms",
        "DB_PASSWORD_FILE": str(file),
        "BACKUP_NOTIFY_URLS": "json://me:canary-two@hooks.example/canary-three",
        "BACKUP_HTTP_TOKEN": "canary-four",
        "TZ": "Asia/Manila",
    }
    found = told(loader.load(environ), lambda name: loader.origin(name, environ), {"DB_USER": ("u", "container db")})
    by_name = {each.name: (each.value, each.source) for each in found}
    assert by_name["DB_NAME"] == ("obcms", "environment (POSTGRES_DB)")
    assert by_name["DB_PASSWORD"] == ("***", f"file {file} (DB_PASSWORD_FILE)")
    assert by_name["DB_USER"] == ("u", "container db")
    assert by_name["TZ"] == ("Asia/Manila", "environment")
    assert by_name["BACKUP_DAILY"] == ("0 2 * * *", "default")
    assert set(by_name) == set(loader.ALIASES)
    assert "canary" not in str(found)


def test_shown_on_a_terminal_and_elsewhere() -> None:
    lines = [SAY.ok("well"), SAY.failed("not well", "do this")]
    settings = [Setting("TZ", "UTC", "environment"), Setting("DB_PORT", "5432", "default")]
    assert doctor_lines(lines, settings) == [
        "ok\tx\twell",
        "failed\tx\tnot well\tdo this",
        "setting\tTZ\tUTC\tenvironment",
        "It does not work like this: each failed line says what to do.",
    ]
    console = Console(force_terminal=True, width=60, record=True, no_color=True)
    console.print(doctor_page(lines, settings))
    page = console.export_text()
    assert "→ do this" in page
    assert "1 other setting as by default" in page
    assert doctor_json(lines, settings)["verdict"] == "failed"


def cautioned(stored: StoredSet, *cautions: str) -> StoredSet:
    assert stored.manifest and stored.manifest.database
    part = stored.manifest.database.model_copy(update={"cautions": cautions})
    return replace(stored, manifest=stored.manifest.model_copy(update={"database": part}))


CAUTION = "the extension pg_cron loads in one database only: \x1b[31mmake it by hand"


def test_what_was_said_of_the_newest_set_is_said_unless_the_database_says_it_itself() -> None:
    newest = cautioned(a_set(1), CAUTION)
    (line,) = service.cautions([a_set(2), newest], ())
    assert (line.level, line.text) == ("warning", f"{newest.id}: {CAUTION}")
    assert not list(service.cautions([newest], (CAUTION,))) and not list(service.cautions([a_set(0), newest], ()))
    told = list(sources.database(replace(FACTS, cautions=(CAUTION,)), "a way"))
    assert [(each.level, each.text) for each in told[1:]] == [("warning", CAUTION)]
