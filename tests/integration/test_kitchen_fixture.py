"""The kitchen-sink database against plain pg_dump and psql: what comes back the same, and what is known not to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from psycopg import sql

from tests.support import kitchen
from tests.support.database import USER, Server, start_server

OPTIONS = ("--format=plain", "--clean", "--if-exists", "--no-sync")


def client(server: Server, *command: str, pinned: bool = True) -> bytes:
    """What a program of the container's own prints."""
    settings = [f"--env={key}={value}" for key, value in kitchen.PINNED.items()] if pinned else []
    run = ["docker", "exec", *settings, server.container.id, command[0], "-h", "127.0.0.1", "-U", USER, *command[1:]]
    done = subprocess.run(run, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def dump(server: Server, database: str, pinned: bool = True) -> bytes:
    """A plain dump of it."""
    return client(server, "pg_dump", *OPTIONS, database, pinned=pinned)


def same(script: bytes) -> bytes:
    """A dump without psql's keys, rows of each table in the order of their bytes."""
    lines: list[bytes] = []
    rows: list[bytes] | None = None
    for line in script.split(b"\n"):
        if rows is None:
            if not line.startswith((b"\\restrict ", b"\\unrestrict ")):
                lines.append(line)
            rows = [] if line.endswith(b" FROM stdin;") else None
        elif line == b"\\.":
            lines += [*sorted(rows), line]
            rows = None
        else:
            rows.append(line)
    assert rows is None
    return b"\n".join(lines)


def blank(server: Server) -> str:
    """An empty database made from template0."""
    name = server.new_database()
    with server.connect() as connection:
        identifier = sql.Identifier(name)
        connection.execute(sql.SQL("DROP DATABASE {}").format(identifier))
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(identifier))
    return name


@pytest.fixture
def filled(any_server: Server) -> Iterator[tuple[Server, str, str]]:
    """A server, the kitchen-sink database and a strictly loaded copy of it."""
    source, copy = blank(any_server), blank(any_server)
    kitchen.fill(any_server, source, "kf")
    any_server.load(copy, dump(any_server, source))
    yield any_server, source, copy
    with any_server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(copy)))
    kitchen.drop(any_server, source, "kf")


def test_a_strictly_loaded_copy_dumps_the_same(filled: tuple[Server, str, str]) -> None:
    server, source, copy = filled
    assert same(dump(server, copy)) == same(dump(server, source))


def test_every_damage_shows(filled: tuple[Server, str, str]) -> None:
    server, _, copy = filled
    server.execute(copy, "CREATE INDEX case_brin2 ON public.app_case USING brin (made) WITH (pages_per_range = 8)")
    before = same(dump(server, copy))
    for name, (statement, words) in kitchen.DAMAGES.items():
        server.execute(copy, statement)
        after = same(dump(server, copy))
        assert after != before, name
        assert words in before.decode().lower(), name
        before = after


def test_a_fresh_cluster_with_the_roles_takes_it(filled: tuple[Server, str, str]) -> None:
    server, source, _ = filled
    wanted = dump(server, source)
    accounts = client(server, "pg_dumpall", "--roles-only", "--no-sync")
    fresh = start_server(server.major, service=f"fresh{server.major}")
    try:
        target = blank(fresh)
        fresh.load("postgres", accounts.replace(f"CREATE ROLE {USER};\n".encode(), b""))
        fresh.load(target, wanted)
        assert same(dump(fresh, target)) == same(wanted)
    finally:
        fresh.remove()


@pytest.mark.parametrize("case", kitchen.UNSTABLE)
def test_what_is_known_to_differ_after_one_restore_settles_after_two(any_server: Server, case: str) -> None:
    texts = []
    database = blank(any_server)
    any_server.execute(database, kitchen.UNSTABLE[case])
    for _ in range(3):
        texts.append(dump(any_server, database))
        database = blank(any_server)
        any_server.load(database, texts[-1])
    first, second, third = (text if "order of rows" in case else same(text) for text in texts)
    assert b"\n".join(first.split(b"\n")[8:-6]) != b"\n".join(second.split(b"\n")[8:-6])
    assert same(texts[1]) == same(texts[2]) or "enum" in case


@pytest.mark.parametrize("case", kitchen.REFUSED)
def test_what_a_strict_load_is_known_to_refuse(any_server: Server, case: str) -> None:
    source, copy = blank(any_server), blank(any_server)
    any_server.execute(source, kitchen.REFUSED[case])
    with pytest.raises(AssertionError):
        any_server.load(copy, dump(any_server, source))


@pytest.mark.parametrize(
    "setting", ["timezone = 'Asia/Manila'", "bytea_output = 'escape'", "quote_all_identifiers = on"]
)
def test_settings_of_a_database_change_its_dump_unless_pinned(any_server: Server, setting: str) -> None:
    source = blank(any_server)
    any_server.execute(source, "CREATE TABLE t AS SELECT timestamptz '2024-01-01 00:00+00' AS a, bytea '\\xff' AS b; ")
    any_server.execute(source, "CREATE VIEW v AS SELECT a FROM t")
    plain = same(dump(any_server, source)), same(dump(any_server, source, pinned=False))
    any_server.execute(source, f"ALTER DATABASE {source} SET {setting}")
    assert same(dump(any_server, source)) == plain[0]
    assert same(dump(any_server, source, pinned=False)) != plain[1]
