"""What servers say of their WAL and of the login's right to it, and what `doctor` makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backup.postgres.session import Login
from backup.postgres.wal_rights import wal_rights
from tests.support.database import PASSWORD, USER, Server, start_server
from tests.support.sidecar import Sidecar


def login(server: Server, user: str = USER) -> Login:
    return Login(host=server.address, port=5432, user=user, name="obcms_prod", password=PASSWORD)


@pytest.fixture
def plain(any_server: Server) -> Iterator[tuple[Server, str]]:
    """A role without any right, and one that it is put in the place of when it enters."""
    with any_server.connect() as connection:
        for name in ("wal_plain", "wal_other"):
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Literal(PASSWORD)))
        connection.execute("GRANT wal_other TO wal_plain")
        try:
            yield any_server, "wal_plain"
        finally:
            connection.execute("DROP ROLE wal_plain, wal_other")


def test_a_server_with_its_defaults_suffices(any_server: Server) -> None:
    found = wal_rights(login(any_server))
    assert replace(found, used=0) == replace(found, role=USER, allowed=True, level="replica", senders=10, used=0)
    assert not found.standby


def test_a_base_backup_is_one_of_the_senders(any_server: Server) -> None:
    with any_server.standing_backup():
        assert wal_rights(login(any_server)).used >= 1


@pytest.mark.parametrize("acts_as", ["wal_plain", "wal_other"])
def test_the_right_is_the_logins_own(plain: tuple[Server, str], acts_as: str) -> None:
    """As the server sees it: what it says and what it does are compared."""
    server, user = plain
    with server.connect() as connection:
        connection.execute(sql.SQL("ALTER ROLE wal_plain SET role = {}").format(sql.Literal(acts_as)))
        assert (wal_rights(login(server, user)).allowed, enters(server, user)) == (False, False)
        connection.execute("ALTER ROLE wal_other REPLICATION")
        assert (wal_rights(login(server, user)).allowed, enters(server, user)) == (False, False)
        connection.execute("ALTER ROLE wal_plain REPLICATION")
        assert wal_rights(login(server, user)).role == user
        assert (wal_rights(login(server, user)).allowed, enters(server, user)) == (True, True)


def enters(server: Server, user: str) -> bool:
    """Whether it is let in as a receiver, where pg_hba.conf has nothing against it: by the container's own loopback."""
    command = [
        "psql",
        "-h",
        "127.0.0.1",
        "-U",
        user,
        "-d",
        "replication=true dbname=obcms_prod",
        "-c",
        "IDENTIFY_SYSTEM",
    ]
    code, said = server.container.exec_run(command, environment={"PGPASSWORD": PASSWORD})
    assert code == 0 or b"permission denied to start WAL sender" in said or b"must be superuser" in said, said
    return bool(code == 0)


@pytest.fixture(scope="module")
def minimal() -> Iterator[Server]:
    lacks = ("wal_level=minimal", "max_wal_senders=0")
    command = [word for each in lacks for word in ("-c", each)]
    server = start_server(17, "minimal", in_memory=True, command=command)
    yield server
    server.remove()


def topic(sidecar: Sidecar, **environment: str) -> list[Any]:
    found = sidecar.run("doctor", "--json", **environment).json["findings"]
    return [(each["level"], each["text"], each["hint"]) for each in found if each["topic"] == "moments"]


def test_the_doctor_says_that_all_is_there(sidecar: Sidecar) -> None:
    assert topic(sidecar) == []
    server, bases, room = topic(sidecar, BACKUP_PITR="on")
    assert server[0] == "pass" and server[1].startswith(f"{USER} may receive WAL (wal_level replica; ")
    assert bases[0] == "pass" and "ALTER SYSTEM SET summarize_wal = on" in bases[1]
    assert "8 base backups of at most" in room[1]


def test_the_doctor_says_what_a_minimal_server_lacks(tmp_path: Path, minimal: Server) -> None:
    with minimal.connect() as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE fast LOCATION ''")
    found = topic(Sidecar.make(tmp_path, minimal, minimal.new_database()), BACKUP_PITR="on")
    failed = [text for level, text, _ in found if level == "fail"]
    assert [text.split(":")[0][:20] for text in failed] == [
        "wal_level is minimal",
        "0 of max_wal_senders",
        "the cluster has tabl",
    ]
    assert "ALTER SYSTEM SET wal_level = 'replica';" in found[0][2]


def test_a_server_that_does_not_answer_is_told_once(sidecar: Sidecar) -> None:
    (found,) = topic(sidecar, BACKUP_PITR="on", DB_PASSWORD="wrong")  # noqa: S106
    assert found[:2] == ("warn", "not checked: it needs the database")


def test_no_session_is_left(server: Server) -> None:
    wal_rights(login(server))
    with psycopg.connect(host=server.address, user=USER, password=PASSWORD, dbname="obcms_prod") as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%wal%'").fetchone()
    assert row == (0,)
