"""`doctor` on a healthy sidecar and on broken ones, with its words. Real servers, real containers, a real engine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import docker
import pytest

from backup.operations.restore.journal import Journal, JournalFile
from tests.support.database import LABEL, PASSWORD, PROJECT, USER, Server
from tests.support.faults import freeze
from tests.support.receivers import free_port, silence, smtp
from tests.support.sidecar import Result, Sidecar
from tests.support.socketproxy import socket_proxy

# Everything but what a setting of these tests makes of the alerts, which nobody has set.
QUIET = {"alerts", "offsite"}


@pytest.fixture(scope="module")
def path() -> str:
    """PATH with the scheduler on it, which the image has."""
    wanted = os.environ.get("SUPERCRONIC") or Path(sys.executable).parent / "supercronic"
    found = shutil.which("supercronic") or shutil.which(wanted)
    assert found, "supercronic is not installed: run tools/supercronic, or set SUPERCRONIC to its path"
    return f"{Path(found).parent}:{os.environ['PATH']}"


@contextmanager
def application(service: str, *folders: Path, project: str = PROJECT) -> Iterator[None]:
    """A container of the application that may write to these folders."""
    client = docker.from_env()
    try:
        container = client.containers.run(
            "obcms-test/app:latest",
            detach=True,
            network_mode="none",
            volumes={str(folder): {"bind": f"/srv/{folder.name}", "mode": "rw"} for folder in folders},
            labels={
                LABEL: PROJECT,
                "com.docker.compose.project": project,
                "com.docker.compose.service": service,
                "com.docker.compose.oneoff": "False",
            },
        )
        try:
            yield
        finally:
            container.remove(force=True, v=True)
    finally:
        client.close()


@pytest.fixture
def stack(sidecar: Sidecar) -> Iterator[Sidecar]:
    """A sidecar whose volume an application writes to."""
    with application("web1", sidecar.media):
        yield sidecar


Doctor = Callable[..., "Seen"]


class Seen:
    """What the doctor said."""

    def __init__(self, result: Result) -> None:
        self.code, self.output, self.said = result.code, result.output, result.json

    def of(self, topic: str) -> list[tuple[str, str, str]]:
        """(level, text, hint) of each line of the topic."""
        return [(e["level"], e["text"], e["hint"]) for e in self.said["findings"] if e["topic"] == topic]

    def bad(self) -> dict[str, str]:
        """Topics whose worst line is no pass, but for those nobody cares for here."""
        found: dict[str, str] = {}
        for entry in self.said["findings"]:
            if entry["level"] != "pass" and found.get(entry["topic"]) != "fail" and entry["topic"] not in QUIET:
                found[entry["topic"]] = entry["level"]
        return found

    def only(self, topic: str, level: str, text: str, hint: str, *, besides: dict[str, str] | None = None) -> None:
        """That nothing else is wrong, and that what is wrong is said in these words."""
        assert self.bad() == {topic: level, **(besides or {})}, self.output
        lines = [line for line in self.of(topic) if line[0] == level]
        assert any(text in line[1] and hint in line[2] for line in lines), lines
        assert self.code == (61 if "fail" in self.bad().values() else 60)


@pytest.fixture
def doctor(path: str) -> Doctor:
    def ask(sidecar: Sidecar, *words: str, **environment: str) -> Seen:
        return Seen(sidecar.run("doctor", "--json", *words, PATH=path, **environment))

    return ask


def unanswered(**others: str) -> dict[str, str]:
    """What cannot be checked without a database."""
    return {"client": "warn", "rights": "warn", "clock": "warn", **others}


def test_a_healthy_stack(stack: Sidecar, doctor: Doctor, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    with smtp() as mails:
        mail = {"MAILTO": "ops@example.com", "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": str(mails.port)}
        seen = doctor(stack, "--notify", **mail, BACKUP_COPY_DIR=str(copies))
    assert (seen.code, seen.said["status"]) == (0, "pass"), seen.output
    topics = [entry["topic"] for entry in seen.said["findings"]]
    assert list(dict.fromkeys(topics)) == [
        *("engine", "database", "client", "rights", "volumes", "mounts", "backups", "space"),
        *("clock", "schedule", "restore", "alerts", "offsite", "encryption"),
    ]
    # Test servers beside this one write to volumes of theirs, which are not in the sets either.
    assert seen.of("mounts")[0] == ("pass", f"media is {stack.media}, which web1 may write to", "")
    assert {line[0] for line in seen.of("mounts")} == {"pass"}
    assert seen.of("restore") == [("pass", "a restore would stop web1 while it swaps", "")]
    assert "accepted the test message" in seen.of("alerts")[-1][1]
    assert len(mails.messages) == 1
    assert PASSWORD not in seen.output
    password = next(each for each in seen.said["settings"] if each["name"] == "DB_PASSWORD")
    assert password["value"] == "***"
    assert password["source"].startswith("container ")


def test_nothing_is_changed(stack: Sidecar, doctor: Doctor) -> None:
    doctor(stack)
    assert [each for each in stack.root.rglob("*") if each.is_file()] == []


def test_after_a_backup(stack: Sidecar, doctor: Doctor) -> None:
    assert stack.run("create").code == 0
    seen = doctor(stack)
    assert seen.bad() == {}, seen.output
    assert "holds 1 set, 1 good" in seen.of("backups")[0][1]


def test_no_engine(stack: Sidecar, doctor: Doctor) -> None:
    seen = doctor(stack, DOCKER_HOST="unix:///nonexistent/docker.sock")
    besides = unanswered(database="warn", mounts="warn", restore="warn")
    seen.only("engine", "fail", "does not answer", "Is /var/run/docker.sock mounted", besides=besides)


def test_an_engine_that_may_not_be_asked_for_a_container(stack: Sidecar, doctor: Doctor) -> None:
    with socket_proxy(r"^(GET|HEAD) /(_ping|version|info|containers|images)") as address:
        seen = doctor(stack, DOCKER_HOST=address)
    seen.only("engine", "fail", "refused: POST /containers/create, POST /containers/ID/start", "Allow these calls")
    assert ("warn", "refused: POST /containers/ID/stop: a restore cannot stop the application") in [
        line[:2] for line in seen.of("engine")
    ]


def test_an_engine_that_allows_backups_alone(stack: Sidecar, doctor: Doctor) -> None:
    allowed = (
        r"^(GET|HEAD) /(_ping|version|containers/(json|[^/]+/(json|logs))|images)"
        r"|^POST /containers/(create|[^/]+/(start|wait|kill))|^DELETE /containers/"
    )
    with socket_proxy(allowed) as address:
        seen = doctor(stack, DOCKER_HOST=address)
        assert stack.run("create", DOCKER_HOST=address).code == 0
    seen.only("engine", "warn", "drills and the commands", "Allow these calls")
    assert "rootless or not is unknown" in seen.of("engine")[0][1]


def test_a_wrong_password(stack: Sidecar, doctor: Doctor) -> None:
    seen = doctor(stack, DB_PASSWORD="not-it")  # noqa: S106
    seen.only("database", "fail", "password authentication failed", "DB_PASSWORD", besides=unanswered())
    assert "not-it" not in seen.output


def test_a_wrong_database(stack: Sidecar, doctor: Doctor) -> None:
    seen = doctor(stack, DB_NAME="nope")
    seen.only("database", "fail", 'database "nope" does not exist', "Set DB_NAME", besides=unanswered())


def test_a_service_that_is_not_there(stack: Sidecar, doctor: Doctor) -> None:
    seen = doctor(stack, DB_SERVICE="postgre")
    seen.only("database", "fail", "no container of service 'postgre'", "Set DB_SERVICE", besides=unanswered())


def test_a_stopped_database(stack: Sidecar, servers: Callable[[int], Server], doctor: Doctor) -> None:
    container = servers(17).container
    freeze(container.id)
    try:
        seen = doctor(stack)
    finally:
        container.unpause()
    seen.only("database", "fail", "is paused", "docker unpause", besides=unanswered())


def test_an_ordinary_user_that_may_not_read_all(stack: Sidecar, server: Server, doctor: Doctor) -> None:
    database = stack.environment["DB_NAME"]
    server.execute(
        database,
        "DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN PASSWORD 'plain-secret'; CREATE TABLE hidden (id int);"
        " CREATE TABLE rows (id int); ALTER TABLE rows ENABLE ROW LEVEL SECURITY; GRANT SELECT ON rows TO plain",
    )
    seen = doctor(stack, DB_USER="plain", DB_PASSWORD="plain-secret")  # noqa: S106
    seen.only("rights", "fail", "plain may not read public.hidden", "GRANT pg_read_all_data TO plain")
    texts = " ".join(line[1] for line in seen.of("rights"))
    assert "row-level security hides rows from plain in public.rows" in texts
    assert "plain is not a superuser" in texts
    server.execute(database, "GRANT SELECT ON hidden TO plain; ALTER TABLE rows DISABLE ROW LEVEL SECURITY")
    seen = doctor(stack, DB_USER="plain", DB_PASSWORD="plain-secret")  # noqa: S106
    seen.only("rights", "warn", "a restore cannot make databases (CREATEDB), roles", "ALTER ROLE plain")
    assert stack.run("create", DB_USER="plain", DB_PASSWORD="plain-secret").code == 0  # noqa: S106
    # The rights that count are those of the role that it acts as.
    server.execute(database, "CREATE ROLE acted; GRANT pg_read_all_data TO acted; GRANT acted TO plain")
    server.execute(database, "ALTER ROLE plain CREATEDB CREATEROLE; ALTER ROLE plain SET role = 'acted'")
    seen = doctor(stack, DB_USER="plain", DB_PASSWORD="plain-secret")  # noqa: S106
    seen.only("rights", "warn", "acted is not a superuser", "ALTER ROLE acted CREATEDB")
    server.execute(database, "DROP OWNED BY plain; DROP ROLE plain, acted")


def test_an_empty_volume(stack: Sidecar, doctor: Doctor) -> None:
    """A fresh stack's is empty until somebody uploads; one that had files is how a wrong mount looks."""
    files = stack.media / "uploads"
    moved = files.rename(stack.root.parent / "uploads")
    doctor(stack).only("volumes", "warn", "media is empty, and no set holds a file of it yet", "")
    moved.rename(files)
    assert stack.run("create", "manual").code == 0
    shutil.rmtree(files)
    doctor(stack).only("volumes", "fail", "media is empty", "BACKUP_ALLOW_EMPTY=media")
    assert doctor(stack, BACKUP_ALLOW_EMPTY="media").bad() == {}


def test_a_wrong_volume(sidecar: Sidecar, tmp_path: Path, doctor: Doctor) -> None:
    other = tmp_path / "theirs"
    other.mkdir()
    with application("web1", other):
        seen = doctor(sidecar)
    seen.only("mounts", "fail", "which no container of the project uses", f"It writes to: {other} (web1)")


def test_low_space(stack: Sidecar, doctor: Doctor) -> None:
    seen = doctor(stack, BACKUP_MIN_FREE_GB="1000000")
    seen.only("space", "warn", "the limit is 1000.0 TB (BACKUP_MIN_FREE_GB)", "--make-room")


def test_a_zone_that_is_none_is_refused_before(stack: Sidecar) -> None:
    result = stack.run("doctor", TZ="Mars/Olympus")
    assert result.code == 10
    assert "unknown time zone 'Mars/Olympus'" in result.output


def test_a_clock_that_jumped(stack: Sidecar, doctor: Doctor) -> None:
    assert stack.run("create").code == 0
    (record,) = (stack.root / "state" / "runs").glob("*")
    text = record.read_text()
    year = text[text.index('"started"') :].split('"')[3][:4]
    record.write_text(text.replace(f'"{year}-', f'"{int(year) + 3}-'))
    seen = doctor(stack)
    seen.only("clock", "fail", "the clock jumped", "Correct the clock")


def test_nothing_scheduled(stack: Sidecar, doctor: Doctor) -> None:
    off = dict.fromkeys(("BACKUP_DAILY", "BACKUP_WEEKLY", "BACKUP_MONTHLY"), "off")
    doctor(stack, **off).only("schedule", "fail", "no backup is scheduled", "BACKUP_DAILY")


def test_no_scheduler(stack: Sidecar) -> None:
    seen = Seen(stack.run("doctor", "--json", PATH="/usr/bin:/bin"))
    seen.only("schedule", "fail", "supercronic is not installed", "Use the image")


def test_services_of_a_restore_that_are_not_there(stack: Sidecar, doctor: Doctor) -> None:
    seen = doctor(stack, BACKUP_RESTORE_STOP="web9")
    seen.only("restore", "fail", "BACKUP_RESTORE_STOP names web9", "docker compose ps -a")
    seen = doctor(stack, BACKUP_POST_RESTORE="web9: migrate")
    seen.only("restore", "fail", "no container of web9 is running", "BACKUP_POST_RESTORE")


def test_a_restore_that_stands_half_way(stack: Sidecar, doctor: Doctor) -> None:
    journal = Journal(id="1", run="1", set="daily_2025-10-20_02-00-00", started=datetime.now(UTC))
    JournalFile(stack.root).begin(journal)
    doctor(stack).only("restore", "fail", "has been unfinished since", "`restore --rollback`")


def test_a_target_that_is_down(stack: Sidecar, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integration.test_doctor.QUIET", {"offsite"})
    mail = {"MAILTO": "ops@example.com", "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": str(free_port())}
    assert doctor(stack, **mail).bad() == {}
    seen = doctor(stack, "--notify", **mail)
    seen.only("alerts", "fail", "mail:ops@example.com did not accept the test message", "then run `notify --test`")


def test_nobody_is_told(stack: Sidecar, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integration.test_doctor.QUIET", {"offsite"})
    doctor(stack).only("alerts", "warn", "no alert target is set", "Set MAILTO with EMAIL_HOST")


def test_an_engine_that_hangs_keeps_nobody_waiting_for_ever(stack: Sidecar, doctor: Doctor) -> None:
    with silence() as port:
        seen = doctor(stack, DOCKER_HOST=f"tcp://127.0.0.1:{port}")
    assert seen.bad()["engine"] == "fail"
    assert [line[0] for line in seen.of("backups")] == ["pass"]


def network(sidecar: Sidecar, server: Server, *options: str, **environment: str) -> Sidecar:
    """In the shipped image, without an engine."""
    made = sidecar.network(server)
    return replace(made, options=options, environment=made.environment | environment)


def test_over_the_network(sidecar: Sidecar, server: Server) -> None:
    seen = Seen(network(sidecar, server).run("doctor", "--json"))
    assert seen.bad() == {}, seen.output
    assert seen.of("engine")[0][:2] == (
        "pass",
        "there is none, and none is needed: the database is reached over the network",
    )
    assert seen.of("client") == [("pass", "pg_dump 17 for PostgreSQL 17: this image brings it", "")]


def test_over_the_network_without_the_servers_client(sidecar: Sidecar, server: Server) -> None:
    seen = Seen(network(sidecar, server, "--tmpfs=/usr/lib/postgresql/17").run("doctor", "--json"))
    words = "the server is PostgreSQL 17, the clients here are 15, 18"
    seen.only("client", "fail", words, "Grant the Docker socket")


def test_a_volume_that_is_read_only(sidecar: Sidecar, server: Server) -> None:
    options = f"--volume={sidecar.root}:/elsewhere:ro"
    seen = Seen(network(sidecar, server, options, BACKUP_DIR="/elsewhere").run("doctor", "--json"))
    seen.only("backups", "fail", "Read-only file system", "Mount the backup volume read-write")


def test_no_backup_volume(sidecar: Sidecar, server: Server) -> None:
    seen = Seen(network(sidecar, server, BACKUP_DIR="/backups").run("doctor", "--json"))
    seen.only("backups", "fail", "no volume is mounted at /backups", "obcms_backups:/backups")


def test_a_login_that_is_unknown_over_the_network(sidecar: Sidecar, server: Server) -> None:
    made = network(sidecar, server, DB_USER=f"{USER}x")
    seen = Seen(made.run("doctor", "--json"))
    others = unanswered()
    seen.only("database", "fail", "password authentication failed", "", besides=others)
