"""What the doctor says of facts, and how its checks are run: none hides another, none is waited for without end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyrage
import pytest
from rich.console import Console

from backup.app import doctor_checks
from backup.app.doctor_checks import keys
from backup.catalog.catalog import Catalog
from backup.cli.doctor import doctor_lines, doctor_page
from backup.config import loader
from backup.docker.container import Container
from backup.docker.permissions import CALLS, Rights
from backup.errors import ConfigError, EngineError
from backup.logging import redacting
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding, failure, ok, warning
from backup.model.manifest import Locale
from backup.model.schedule import upcoming
from backup.monitoring.alerts.model import Receipt
from backup.operations.doctor import EXIT, Check, NotChecked, SharedFact, examine, findings, worst
from backup.operations.doctor.findings import Keys, Measured
from backup.operations.doctor.settings import Setting
from backup.operations.doctor.settings import settings as told
from backup.postgres.inspect import DatabaseFacts, DatabaseRights
from tests.support.facts import a_set

NOW = datetime(2026, 11, 25, 4, tzinfo=UTC)
MANILA = ZoneInfo("Asia/Manila")
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
FACTS = DatabaseFacts(
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


def levels(lines: Iterator[Finding] | list[Finding]) -> list[str]:
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


def test_the_sets_are_read_once_for_all_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = list[Catalog]()
    monkeypatch.setattr(Catalog, "sets", lambda catalog: readings.append(catalog) or [])
    monkeypatch.setattr(doctor_checks, "Engine", no_engine)
    (tmp_path / "b").mkdir()
    given = {"BACKUP_DIR": str(tmp_path / "b"), "BACKUP_VOLUMES_DIR": str(tmp_path / "v")}
    doctor = doctor_checks._Doctor(loader.load_settings(given), [])
    checks = [each for each in doctor.checks(notify=False, put=False) if each.topic in ("volumes", "encryption")]
    assert {line.topic for line in examine(checks)} == {"volumes", "encryption"} and len(readings) == 1


def no_engine() -> None:
    raise EngineError("there is none")


def test_a_check_that_fails_hides_no_other() -> None:
    def config_error() -> list[Finding]:
        raise ConfigError("no such service", "Set DB_SERVICE.")

    def bug() -> Iterator[Finding]:
        yield ok("first")
        raise KeyError("secret-canary")

    def wants() -> list[Finding]:
        raise NotChecked("the database")

    redacting(["secret-canary"])
    checks = [Check("a", config_error), Check("b", bug), Check("c", wants), Check("d", lambda: [ok("well")])]
    lines = examine(checks)
    assert [(line.topic, line.level) for line in lines] == [
        ("a", "fail"),
        ("b", "pass"),
        ("b", "fail"),
        ("c", "warn"),
        ("d", "pass"),
    ]
    assert lines[0].hint == "Set DB_SERVICE."
    assert "this check is broken: KeyError" in lines[2].text
    assert "secret-canary" not in str(lines)
    assert worst(lines) == "fail"


def test_a_check_that_hangs_is_not_waited_for() -> None:
    never = threading.Event()
    hangs = Check("slow", lambda: [ok(str(never.wait(60)))], seconds=0.2)
    lines = examine([hangs, Check("quick", lambda: [ok("well")])])
    assert [(line.topic, line.level) for line in lines] == [("slow", "fail"), ("quick", "pass")]
    assert "no answer within 0 s" in lines[0].text
    never.set()


def test_a_shared_fact_is_asked_for_once_and_its_error_is_told_once() -> None:
    asked: list[int] = []

    def find() -> int:
        asked.append(1)
        raise ConfigError("gone")

    shared = SharedFact(find, "the database")
    with pytest.raises(ConfigError):
        shared.get()
    with pytest.raises(NotChecked, match="the database"):
        shared.borrow()
    assert (len(asked), shared.known()) == (1, None)


def test_lines_are_harmless() -> None:
    (line,) = examine([Check("a", lambda: [warning("evil\x1b[31m\nname", "run\tthis")])])
    assert line.text == "evil\\x1b[31m name"
    assert line.hint == "run this"


def test_exit_codes_are_those_of_the_monitor() -> None:
    assert [EXIT[worst(lines)] for lines in ([], [ok("")], [ok(""), warning("")])] == [0, 0, 60]
    assert EXIT[worst([failure(""), warning("")])] == 61


def test_an_engine_with_all_rights() -> None:
    lines = list(findings.engine(Rights("unix:///s", "28.5", rootless=False, refused=())))
    assert levels(lines) == ["pass", "pass"]
    assert "as good as root" in lines[1].text


@pytest.mark.parametrize(("purpose", "level"), [("backup", "fail"), ("drill", "warn"), ("restore", "warn")])
def test_a_refused_call_says_what_does_not_work(purpose: str, level: str) -> None:
    call = next(call for call in CALLS if call.purpose == purpose)
    lines = list(findings.engine(Rights("tcp://proxy:2375", "28.5", rootless=None, refused=(call,))))
    assert levels(lines) == ["pass", level]
    assert call.shown in lines[1].text
    assert "proxy" in lines[1].hint


def test_calls_are_shown_without_a_query() -> None:
    assert {call.shown for call in CALLS} >= {"POST /containers/ID/start", "GET /containers/json"}


@pytest.mark.parametrize(
    ("network", "wanted", "level"),
    [(False, True, "fail"), (True, True, "warn"), (True, False, "pass")],
)
def test_no_engine(network: bool, wanted: bool, level: str) -> None:
    assert findings.no_engine("it does not answer", "", network=network, wanted=wanted).level == level


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        (RIGHTS, ["pass"]),
        (replace(RIGHTS, superuser=False), ["pass"]),
        (replace(RIGHTS, superuser=False, create_roles=False), ["warn"]),
        (replace(RIGHTS, superuser=False, untrusted=("postgis",)), ["warn"]),
        (replace(RIGHTS, superuser=False, unreadable=("public.t",)), ["fail", "pass"]),
        (replace(RIGHTS, superuser=False, hidden=("public.t",)), ["fail", "pass"]),
    ],
)
def test_rights_of_the_login(rights: DatabaseRights, expected: list[str]) -> None:
    assert levels(findings.database_rights(FACTS, rights)) == expected


def test_a_password_that_is_a_public_word_is_warned_of() -> None:
    assert [line.level for line in findings.password("app", public=True)] == ["warn"]
    assert not list(findings.password("app", public=False))


def test_what_a_superuser_lacks_is_named() -> None:
    rights = replace(RIGHTS, role="acting", superuser=False, create_databases=False, untrusted=("postgis",))
    (line,) = findings.database_rights(FACTS, rights)
    assert "CREATEDB" in line.text
    assert "postgis" in line.text
    assert "ALTER ROLE acting" in line.hint


def test_volumes() -> None:
    found = [Measured("media", 3, 10), Measured("empty"), Measured("may"), Measured("bad", problem="cannot")]
    lines = list(findings.volumes([*found, Measured("new")], ["may"], ["empty", "media"]))
    assert levels(lines) == ["pass", "fail", "pass", "fail", "warn"]
    assert "BACKUP_ALLOW_EMPTY=empty" in lines[1].hint and "BACKUP_ALLOW_EMPTY=new" in lines[4].hint


@pytest.mark.parametrize(("allowed", "level"), [([], "fail"), (["none"], "pass")])
def test_no_volume(allowed: list[str], level: str) -> None:
    assert levels(findings.volumes([], allowed, [])) == [level]


def test_no_list_is_cut_without_saying_so() -> None:
    many = replace(RIGHTS, superuser=False, unreadable=tuple(f"t{number}" for number in range(8)))
    line = next(iter(findings.database_rights(FACTS, many)))
    assert "t4 and 3 more: a backup will fail" in line.text
    webs = [container(f"web{number}", mount(f"p_{number}")) for number in range(7)]
    (wrong, _) = findings.mounts([Measured("media", 1, 1, source="other")], webs, [])
    assert wrong.hint.endswith("p_4 (web4) and 2 more.")


def test_mounts() -> None:
    media = [Measured("media", 1, 1, source="p_media")]
    web = container("web1", mount("p_media"), mount("p_static"))
    nginx = container("nginx", mount("p_media", writable=False))
    good = list(findings.mounts(media, [web, nginx], []))
    assert levels(good) == ["pass", "pass"]
    assert "web1 may write" in good[0].text
    assert "p_static (web1)" in good[1].text
    wrong = list(findings.mounts([Measured("media", 1, 1, source="other")], [web], []))
    assert wrong[0].level == "fail"
    assert "p_media (web1)" in wrong[0].hint
    assert levels(findings.mounts(media, [nginx], [])) == ["warn"]
    assert levels(findings.mounts(media, [], [])) == ["warn"]
    assert levels(findings.mounts(media, [container("db", mount("data"))], ["data"])) == ["warn"]


@pytest.mark.parametrize(
    ("free", "needed", "level"),
    [(10**11, 10**6, "pass"), (10**11, None, "pass"), (10**9, 10**6, "warn"), (10**9, 2 * 10**9, "fail")],
)
def test_space(free: int, needed: int | None, level: str) -> None:
    assert levels(findings.space(free, 10**12, needed, 5e9)) == [level]


@pytest.mark.parametrize(
    ("ahead", "newest", "expected"),
    [
        (timedelta(seconds=2), NOW, ["pass", "pass"]),
        (timedelta(hours=1), None, ["pass", "warn"]),
        (-timedelta(hours=1), None, ["pass", "warn"]),
        (None, None, ["pass", "warn"]),
        (timedelta(), NOW + timedelta(days=9), ["pass", "fail", "pass"]),
    ],
)
def test_clock(ahead: timedelta | None, newest: datetime | None, expected: list[str]) -> None:
    lines = list(findings.clock(MANILA, NOW, ahead, newest))
    assert levels(lines) == expected
    assert "12:00:00" in lines[0].text
    assert "Asia/Manila" in lines[0].text


def test_schedule() -> None:
    slots = upcoming({"daily": "0 2 * * *", "drill": ""}, NOW, MANILA)
    (line,) = findings.schedule(slots, MANILA, [])
    assert line.level == "pass"
    assert "daily Thu 2026-11-26 02:00" in line.text
    assert levels(findings.schedule(upcoming({"monitor": "0 2 * * *"}, NOW, MANILA), MANILA, [])) == ["fail"]


def test_the_service() -> None:
    own = container("backup")
    assert levels(findings.running(None, [])) == []
    assert levels(findings.running(own, [own])) == ["pass"]
    assert levels(findings.running(own, [container("backup", running=False)])) == ["warn"]


def test_restore() -> None:
    commands = [("web1", "migrate"), ("gone", "x")]
    lines = list(findings.check_restore([container("web1")], commands, {"web1"}))
    assert levels(lines) == ["pass", "pass", "fail"]
    assert "stop web1" in lines[0].text
    assert "gone" in lines[2].text


@pytest.mark.parametrize(("on_purpose", "level"), [(True, "pass"), (False, "warn")])
def test_nobody_to_stop_the_application_with(on_purpose: bool, level: str) -> None:
    line = findings.no_stop(on_purpose=on_purpose)
    assert line.level == level
    assert "by hand" in line.text + line.hint


def test_alerts() -> None:
    assert levels(findings.alerts([], [], heartbeat=False)) == ["warn"]
    assert levels(findings.alerts(["mail:a@b.example"], [], heartbeat=True)) == ["pass", "pass"]
    receipts = [Receipt(target="a", id="test"), Receipt(target="b", id="test", error="refused")]
    assert levels(findings.tried(receipts)) == ["pass", "fail"]


def test_a_volume_in_memory() -> None:
    assert levels(findings.volume(2, 1, "volume abc", "", "/backups")) == ["pass"]
    assert levels(findings.volume(2, 1, "volume abc", "/backups is memory", "/backups")) == ["pass", "fail"]


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
    found = told(
        loader.load_settings(environ), lambda name: loader.origin(name, environ), {"DB_USER": ("u", "container db")}
    )
    by_name = {each.name: (each.value, each.source) for each in found}
    assert by_name["DB_NAME"] == ("obcms", "environment (POSTGRES_DB)")
    assert by_name["DB_PASSWORD"] == ("***", f"file {file} (DB_PASSWORD_FILE)")
    assert by_name["DB_USER"] == ("u", "container db")
    assert by_name["TZ"] == ("Asia/Manila", "environment")
    assert by_name["BACKUP_DAILY"] == ("0 2 * * *", "default")
    assert set(by_name) == set(loader.ALIASES)
    assert "canary" not in str(found)


def test_shown_on_a_terminal_and_elsewhere() -> None:
    lines = [replace(ok("well"), topic="x"), replace(failure("not well", "do this"), topic="x")]
    settings = [Setting("TZ", "UTC", "environment"), Setting("DB_PORT", "5432", "default")]
    assert doctor_lines(lines, settings) == [
        "ok\tx\twell",
        "failed\tx\tnot well\tdo this",
        "setting\tTZ\tUTC\tenvironment",
        "Something does not work: each failed line says what to do.",
    ]
    console = Console(force_terminal=True, width=60, record=True, no_color=True)
    console.print(doctor_page(lines, settings))
    page = console.export_text()
    assert "→ do this" in page
    assert "1 other setting at the default" in page


def cautioned(stored: StoredSet, *cautions: str) -> StoredSet:
    assert stored.manifest and stored.manifest.database
    part = stored.manifest.database.model_copy(update={"cautions": cautions})
    return replace(stored, manifest=stored.manifest.model_copy(update={"database": part}))


CAUTION = "the extension pg_cron loads in one database only: \x1b[31mmake it by hand"


def test_what_was_said_of_the_newest_set_is_said_unless_the_database_says_it_itself() -> None:
    newest = cautioned(a_set(1), CAUTION)
    (line,) = findings.cautions([a_set(2), newest], ())
    assert (line.level, line.text) == ("warn", f"{newest.id}: {CAUTION}")
    assert not list(findings.cautions([newest], (CAUTION,))) and not list(findings.cautions([a_set(0), newest], ()))
    told = list(findings.database(replace(FACTS, cautions=(CAUTION,)), "a way"))
    assert [(each.level, each.text) for each in told[1:]] == [("warn", CAUTION)]


def test_what_is_told_about_the_key(tmp_path: Path) -> None:
    public = str(pyrage.x25519.Identity.generate().to_public())
    assert [line.text for line in findings.encryption(Keys("off"), [])] == [
        "sets are not encrypted (BACKUP_ENCRYPT=off)"
    ]
    loaded = loader.load_settings({"BACKUP_ENCRYPT": "all", "BACKUP_AGE_RECIPIENTS": public})
    lines = list(findings.encryption(keys(loaded), []))
    assert public[:10] in lines[0].text and public not in lines[0].text
    assert any("a single key" in line.text for line in lines) and any("no private key" in line.text for line in lines)
    gone = loaded.model_copy(update={"age_identity": tmp_path / "gone"})
    assert any(line.level == "warn" and "gone" in line.text for line in findings.encryption(keys(gone), []))
