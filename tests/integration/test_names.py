"""Names made to be taken for options, paths, connection strings, code and terminal commands."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.support.database import PASSWORD, USER, Server
from tests.support.faults import judge, nothing_left
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")
NAMES = [
    "with space",
    "quote'single",
    'quote"double',
    "back\\slash",
    "a=b",
    "-leading",
    "--file=/tmp/evil",
    "../../evil",
    "/etc/passwd",
    "host=evil.invalid dbname=x",
    "postgres://evil.invalid/x",
    "postgresql://u:p@evil.invalid:1/x?sslmode=disable",
    "$(touch /tmp/evil)",
    "`touch /tmp/evil`",
    "a;touch /tmp/evil",
    "a|b&c",
    "%s%n{0}{evil}",
    "new\nline",
    "tab\tbell\x07",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "ü" * 31 + "x",
    "\U0001f4be" * 15 + "abc",
    "*?[a-z]",
    "COPY",
    ":'x'",
    "\\! touch evil",
    " ",
]
CONTROL = set("\x1b\x07\u202e")
EVIL = ("/tmp/evil", "evil")
PLAIN = {"quote'single", 'quote"double', "new\nline", "--file=/tmp/evil", "\\! touch evil"}
SECRET = "canary'p\\a:ss"
CONTENT = "a row with \\. and \t tab"


def quoted(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def database(server: Server, name: str) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateDatabase):
        server.new_database(name)
    server.execute(name, "CREATE TABLE IF NOT EXISTS t AS SELECT 'a row with \\. and ' || chr(9) || ' tab' AS x")


def untouched(sidecar: Sidecar) -> None:
    """Nothing was executed, and nothing lies outside of the backup volume's own directories."""
    assert not any(Path(name).exists() for name in EVIL)
    assert {path.name for path in sidecar.root.iterdir()} <= {"daily", "logs", "state"}
    assert {path.name for path in sidecar.root.parent.iterdir()} == {"backups", "spool", "volumes"}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_database_of_any_name(sidecar: Sidecar, server: Server, name: str) -> None:
    """Some belong to a role of the same name, which dumps them; what some dumps say is run by plain psql."""
    database(server, name)
    settings = {"DB_NAME": name}
    if own := name in NAMES[1::3]:
        settings |= owned(server, name)
    if plain := name in PLAIN:
        said_of(server, name)
    result = sidecar.run(*CREATE, **settings)
    assert result.code == 0 and SECRET not in result.output, result.output
    untouched(sidecar)
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    oid = server.value("postgres", f"SELECT oid FROM pg_database WHERE datname = {sql.quote(name)}")
    assert (manifest.database.name, manifest.database.oid) == (name, oid), "this database and no other"
    assert judge(sidecar.root) == [manifest.id]
    nothing_left(sidecar, server)
    assert not CONTROL & set(result.output)
    roles = unpacked(sidecar, "roles")
    if own:
        assert any("passwords of roles" in each for each in manifest.database.not_carried)
        text = roles.decode()
        assert f"OWNER TO {quoted(name).as_string(None)};" in text or f"OWNER TO {name};" in text
    if plain:
        target = server.new_database()
        server.load(target, unpacked(sidecar, "backup"))
        assert server.value(target, "SELECT x FROM t") == CONTENT
        server.load("postgres", roles[roles.index(b"-- Settings of the database itself") :])
        untouched(sidecar)


def owned(server: Server, name: str) -> dict[str, str]:
    """The database and its table belong to a role of the same name; the settings to log in as it."""
    with server.connect(name) as connection:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(quoted(name)))
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(quoted(name), sql.Literal(SECRET)))
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(quoted(name), quoted(name)))
        connection.execute(sql.SQL("ALTER TABLE t OWNER TO {}").format(quoted(name)))
    return {"DB_USER": name, "DB_PASSWORD": SECRET}


def said_of(server: Server, name: str) -> None:
    with server.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET work_mem TO '7MB'").format(quoted(name)))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(quoted(name), sql.Literal(name)))


def unpacked(sidecar: Sidecar, what: str) -> bytes:
    return gzip.decompress(next((sidecar.root / "daily").glob(f"*_{what}_*.sql.gz")).read_bytes())


def test_names_are_shown_as_text(sidecar: Sidecar, server: Server) -> None:
    name = "\x1b[31mred\u202egnp\x07\nb"
    database(server, name)
    assert sidecar.run(*CREATE, DB_NAME=name).code == 0
    for command in (("show", "latest"), ("list",), ("verify", "latest")):
        result = sidecar.run(*command)
        assert result.code == 0 and not CONTROL & set(result.output), result.output
    assert sidecar.run("show", "latest", "--json").json


@pytest.mark.parametrize("name", ["no\x1b[2Jsuch", "host=127.0.0.1 dbname=postgres", "no'such"])
def test_a_name_that_is_no_database_is_refused_and_shown_as_text(sidecar: Sidecar, server: Server, name: str) -> None:
    for settings in ({"DB_NAME": name}, {"DB_USER": name, "DB_PASSWORD": "canary-wrong"}):
        result = sidecar.run(*CREATE, **settings)
        assert result.code == 20 and "\x1b" not in result.output and "canary" not in result.output, result.output
        assert "DB_USER" in result.output or "DB_NAME" in result.output
    assert sidecar.files() == {}
    untouched(sidecar)


def test_tables_of_any_name_are_counted(sidecar: Sidecar, server: Server) -> None:
    own = sidecar.environment["DB_NAME"]
    with server.connect(own) as connection:
        for name in NAMES:
            connection.execute(sql.SQL("CREATE TABLE {} AS SELECT 1 AS {}").format(quoted(name), quoted(name)))
    result = sidecar.run(*CREATE)
    assert result.code == 0, result.output
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    assert sorted(manifest.database.rows.values()) == [1] * len(NAMES)
    assert not CONTROL & set(sidecar.run("show", "latest").output)
    target = server.new_database()
    server.load(target, gzip.decompress(next((sidecar.root / "daily").glob("*_backup_*.sql.gz")).read_bytes()))
    assert server.value(
        target, "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    ) == len(NAMES)


@pytest.mark.parametrize(
    "query", ["../../../etc/passwd", "/etc/passwd", "..", "\x1b[2J", "$(id)", "--", "-x", "a\nb", ""]
)
def test_no_query_shows_what_is_no_backup(sidecar: Sidecar, query: str) -> None:
    for command in ("show", "verify"):
        result = sidecar.run(command, "--", query)
        assert result.code in (40, 44) and "\x1b" not in result.output, result.output
        assert "root:" not in result.output


def test_a_password_of_odd_characters(sidecar: Sidecar, server: Server) -> None:
    """The pass file escapes what it must."""
    for secret in ("\\a\\:b:\\", " '#\"ünï ", "x" * 900):
        with server.connect() as connection:
            connection.execute("DROP ROLE IF EXISTS odd_password")
            connection.execute(
                sql.SQL("CREATE ROLE odd_password SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(secret))
            )
        result = sidecar.run(*CREATE, DB_USER="odd_password", DB_PASSWORD=secret)
        assert result.code == 0, f"{secret!r}: {result.output}"
    result = sidecar.run(*CREATE, DB_USER=USER, DB_PASSWORD=f"{PASSWORD}\nx")
    assert result.code == 10 and "newline" in result.output and "canary" not in result.output
