"""The database fails in every way it can while it is dumped: the run fails, says why, and leaves nothing."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from backup.errors import DatabaseUnavailable
from backup.postgres.inspect import inspect
from backup.postgres.session import Login
from tests.support.database import LABEL, PASSWORD, PROJECT, USER, Server, start_server
from tests.support.faults import (
    docker as engine,
)
from tests.support.faults import (
    dumping,
    ended,
    eventually,
    failed,
    fill_big,
    freeze,
    helpers,
    judge,
    nothing_left,
    seeded,
    under_way,
)
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'obcms-backup%' AND wait_event_type = 'Lock'"
)


@pytest.fixture(scope="module")
def big(servers: Callable[[int], Server]) -> str:
    """A database on the shared server whose dump takes seconds."""
    server = servers(17)
    name = server.new_database()
    fill_big(server, name, 700)
    return name


@pytest.fixture
def target(tmp_path: Path, server: Server, big: str) -> Sidecar:
    """A sidecar for it, with one good set of a small database that no fault may touch."""
    return with_a_set(tmp_path, server, big)


def with_a_set(base: Path, server: Server, name: str) -> Sidecar:
    sidecar = Sidecar.make(base, server, name)
    result = sidecar.run(*CREATE, DB_NAME="obcms_prod")
    assert result.code == 0, result.output
    return sidecar


@pytest.fixture(scope="module")
def victim() -> Iterator[Server]:
    """A server of its own, to stop, kill and pause."""
    server = start_server(17, "victim")
    fill_big(server, "obcms_prod", 700)
    server.new_database("small")
    yield server
    engine("unpause", server.container.id, check=False)
    server.remove()


@pytest.fixture
def doomed(tmp_path: Path, victim: Server) -> Iterator[Sidecar]:
    """A sidecar for the victim, which is well again afterwards."""
    sidecar = Sidecar.make(tmp_path, victim)
    result = sidecar.run(*CREATE, DB_NAME="small")
    assert result.code == 0, result.output
    yield sidecar
    engine("unpause", victim.container.id, check=False)
    engine("start", victim.container.id)
    victim.wait()


def unharmed(sidecar: Sidecar, before: dict[str, bytes], server: Server, name: str = "obcms_prod") -> None:
    """Nothing is left, earlier sets are as they were, and the next run succeeds and finds nothing to clear up."""
    assert sidecar.files() == before
    nothing_left(sidecar, server)
    result = sidecar.run(*CREATE, DB_NAME=name)
    assert result.code == 0 and "removed" not in result.output, result.output
    assert len(judge(sidecar.root)) == 2
    nothing_left(sidecar, server)


# --- before the dump ---------------------------------------------------------------------------------------------


def test_a_stopped_database(doomed: Sidecar, victim: Server) -> None:
    before = doomed.files()
    engine("stop", "-t", "1", victim.container.id)
    failed(doomed, doomed.run(*CREATE), 20, "is not running", "docker compose up -d victim", "Nothing was changed")
    assert doomed.files() == before
    engine("start", victim.container.id)
    victim.wait()
    unharmed(doomed, before, victim, "small")


def test_a_paused_database(doomed: Sidecar, victim: Server) -> None:
    freeze(victim.container.id)
    began = time.monotonic()
    failed(doomed, doomed.run(*CREATE), 20, "service victim, paused", "docker unpause")
    assert time.monotonic() - began < 60


def test_two_databases_answer_to_one_name(doomed: Sidecar, victim: Server) -> None:
    other = start_server(15, "victim", in_memory=True)
    try:
        said = failed(doomed, doomed.run(*CREATE), 10, "2 containers match 'victim'", "DB_HOST")
        for server in (victim, other):
            server.container.reload()
            assert server.container.name in said
    finally:
        other.remove()


def test_no_such_service(target: Sidecar, server: Server) -> None:
    said = failed(target, target.run(*CREATE, DB_SERVICE="nothere"), 10, "no container of service 'nothere'")
    assert "service db17" in said and "DB_SERVICE" in said


def test_a_pooler_is_refused(target: Sidecar, server: Server) -> None:
    client = docker.from_env()
    pooler = client.containers.run(
        "obcms-test/pgbouncer:latest",
        detach=True,
        environment={"DB_HOST": server.address, "DB_USER": USER, "DB_PASSWORD": PASSWORD, "AUTH_TYPE": "plain"},
        labels={
            LABEL: PROJECT,
            "com.docker.compose.project": PROJECT,
            "com.docker.compose.service": "pgbouncer",
            "com.docker.compose.oneoff": "False",
        },
    )
    try:
        login = {"DB_HOST": "pgbouncer", "DB_USER": USER, "DB_PASSWORD": PASSWORD}
        eventually(lambda: "listening" in pooler.logs().decode())
        before = target.files()
        failed(target, target.run(*CREATE, **login), 10, "pooler", "DB_HOST")
        assert target.files() == before
        nothing_left(target, server)
    finally:
        pooler.remove(force=True)
        client.close()


def test_a_table_that_is_locked_for_ever(target: Sidecar, server: Server, big: str) -> None:
    before = target.files()
    with server.connect(big) as session, session.transaction():
        session.execute("LOCK TABLE big IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        result = target.run(*CREATE)
        assert time.monotonic() - began < 60
    failed(target, result, 20, "statement timeout", "LOCK TABLE public.big", "is locked", "BACKUP_LOCK_TIMEOUT")
    unharmed(target, before, server)


def dumped_behind_a_lock(
    sidecar: Sidecar, server: Server, database: str, table: str, seconds: float, allowed: str
) -> None:
    """A dump that somebody's lock holds up for so long, several times its patience, is made all the same."""
    with server.connect(database) as session:
        with session.transaction():
            session.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            process = sidecar.start(*CREATE, BACKUP_STALL_TIMEOUT="5", BACKUP_LOCK_TIMEOUT=allowed)
            eventually(lambda: server.value("postgres", WAITING) == 1)
            time.sleep(seconds)
            assert process.poll() is None, process.communicate()[0]
        result = ended(process, 60)
    assert result.code == 0, result.output
    nothing_left(sidecar, server)


def test_a_table_that_is_locked_for_longer_than_the_patience(target: Sidecar, server: Server, big: str) -> None:
    """A dump sends nothing while it waits: it may, for as long as it may wait for locks."""
    dumped_behind_a_lock(target, server, big, "big", 15, "60")


def test_a_dump_that_is_silent_in_its_midst(tmp_path: Path, server: Server) -> None:
    """It is asked about, and nobody takes its silence for that of a disk. Large objects come behind the rows."""
    database = server.new_database()
    server.execute(database, "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i")
    server.execute(database, "SELECT lo_from_bytea(0, 'x')")
    sidecar = Sidecar.make(tmp_path, server, database)
    dumped_behind_a_lock(sidecar, server, database, "pg_largeobject", 35, "120")


def test_a_server_that_falls_silent_between_two_words(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused just after the login: the connection stands, and nothing but our own clock tells."""
    monkeypatch.setattr("backup.postgres.session._SILENCE", 1.0)
    ready = threading.Event()

    def relay(listener: socket.socket) -> None:
        with listener.accept()[0] as client, socket.create_connection((server.address, 5432)) as upstream:
            while not ready.is_set():
                for side in select.select([client, upstream], [], [], 0.1)[0]:
                    data = side.recv(65536)
                    if side is client and b"pg_database_size" in data:
                        ready.wait(20)  # the question is never passed on
                        return
                    (upstream if side is client else client).sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay, args=(listener,))
        thread.start()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable) as caught:
            inspect(Login("127.0.0.1", listener.getsockname()[1], USER, "obcms_prod", PASSWORD))
        assert time.monotonic() - began < 60 and "Nothing was changed" in caught.value.message
        ready.set()
        thread.join()


# --- in the middle of the dump -----------------------------------------------------------------------------------


def test_a_database_killed_mid_dump(doomed: Sidecar, victim: Server) -> None:
    before = doomed.files()
    with under_way(doomed, BACKUP_STALL_TIMEOUT="5") as process:
        dumping(doomed, process, victim)
        engine("kill", victim.container.id)
        failed(doomed, ended(process), 20, "is not running", "docker compose up -d victim", "tried twice")
    assert doomed.files() == before
    nothing_left(doomed)
    engine("start", victim.container.id)
    victim.wait()
    unharmed(doomed, before, victim, "small")


def test_a_database_restarted_mid_dump(doomed: Sidecar, victim: Server) -> None:
    """It is looked up once more, and the set is whole."""
    with under_way(doomed) as process:
        dumping(doomed, process, victim)
        engine("kill", victim.container.id)
        engine("start", victim.container.id)
        result = ended(process)
    assert result.code == 0 and "looking it up once more: pg_dump ended with exit code 1" in result.output
    assert len(judge(doomed.root)) == 2
    nothing_left(doomed)


# Waits for an answer for less long than elsewhere.
IMPATIENT = """
import sys
from backup.cli import main
from backup.postgres import session
session._CONNECT_TIMEOUT = 2
sys.exit(main(sys.argv[1:]))
"""


def test_a_database_paused_mid_dump(doomed: Sidecar, victim: Server, tmp_path: Path) -> None:
    before, program = doomed.files(), tmp_path / "impatient.py"
    program.write_text(IMPATIENT)
    with under_way(replace(doomed, program=program), BACKUP_STALL_TIMEOUT="5") as process:
        dumping(doomed, process, victim)
        freeze(victim.container.id)
        # Whether it works is asked three times, and each time the answer is waited for.
        failed(doomed, ended(process, 120), 20, "no progress for 5 s", "paused", "BACKUP_STALL_TIMEOUT")
    nothing_left(doomed)
    engine("unpause", victim.container.id)
    unharmed(doomed, before, victim, "small")


def test_a_database_recreated_mid_dump(tmp_path: Path) -> None:
    old = start_server(17, "reborn", in_memory=True)
    new = None
    try:
        fill_big(old, "obcms_prod", 700)
        old.new_database("small")
        sidecar = with_a_set(tmp_path, old, "obcms_prod")
        before = sidecar.files()
        with under_way(sidecar) as process:
            dumping(sidecar, process, old)
            old.remove()
            # As Compose does it: for a while there is no container of that name, and that is waited for.
            assert process.stdout and any("waiting for the database: no container" in line for line in process.stdout)
            new = start_server(17, "reborn", in_memory=True)
            failed(sidecar, ended(process), 20, "was replaced by another database", "Nothing was published")
        result = sidecar.run(*CREATE)
        assert result.code == 0 and "this is not the database server of the last set" in result.output
        assert before.items() <= sidecar.files().items() and len(judge(sidecar.root)) == 2
        nothing_left(sidecar, new)
    finally:
        (new or old).remove()


def test_a_session_terminated_at_random_moments(target: Sidecar, server: Server) -> None:
    before, moments = target.files(), seeded()
    for _ in range(4):
        with under_way(target) as process:
            dumping(target, process, server)
            time.sleep(moments.uniform(0, 0.8))
            ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
            with server.connect() as session:
                hit = session.execute(ending, (f"%{(target.root / 'state/instance').read_text()}%",)).fetchone()
            result = ended(process, 120)
        assert result.code == 0, result.output
        if hit and "looking it up once more" in result.output:
            assert len(target.files()) > len(before)
        nothing_left(target, server)
        judge(target.root)
        before = target.files()


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_helper_killed_or_paused(target: Sidecar, server: Server, how: str) -> None:
    before = target.files()
    with under_way(target, BACKUP_STALL_TIMEOUT="5") as process:
        dumping(target, process, server)
        (helper,) = helpers(target)
        freeze(helper) if how == "pause" else engine("kill", helper)
        began = time.monotonic()
        words = ("137", "killed") if how == "kill" else ("no progress for 5 s",)
        failed(target, ended(process), 20, "pg_dump", *words)
        # Its session began a statement a moment before: that is taken for work once.
        assert time.monotonic() - began < 60
    unharmed(target, before, server)


def test_a_helper_killed_at_random_moments(target: Sidecar, server: Server) -> None:
    moments = seeded()
    for _ in range(8):
        before = target.files()
        with under_way(target) as process:
            eventually(lambda: helpers(target) or process.poll() is not None, pause=0.01)
            time.sleep(moments.uniform(0, 0.8))
            for helper in helpers(target):
                engine("kill", helper, check=False)
            result = ended(process)
        if result.code:
            failed(target, result, 20, "pg_dump", "ublished")
            assert target.files() == before
        judge(target.root)
        nothing_left(target, server)
