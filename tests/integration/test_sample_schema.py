"""The sample schema against plain pg_dump and psql: what comes back the same, and what is known not to."""

from __future__ import annotations

import subprocess
from collections import Counter

import pytest
from psycopg import sql

from tests.support import sample_schema
from tests.support.database import USER, Server, start_server

OPTIONS = ("--format=plain", "--clean", "--if-exists", "--no-sync")


def client(server: Server, *command: str, pinned: bool = True) -> bytes:
    """What a program of the container's own prints."""
    settings = [f"--env={key}={value}" for key, value in sample_schema.PINNED.items()] if pinned else []
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


def entries(script: bytes) -> list[str]:
    """What a dump says of each object."""
    return script.decode().split("\n--\n-- ")[1:]


def test_a_copy_and_a_fresh_cluster_dump_the_same_and_every_damage_shows(any_server: Server) -> None:
    """On one database with everything in it, which takes its time to make."""
    source, copy = blank(any_server), blank(any_server)
    sample_schema.fill(any_server, source, "kf")
    try:
        wanted = dump(any_server, source)
        any_server.load(copy, wanted)
        assert same(dump(any_server, copy)) == same(wanted)
        taken_by_a_fresh_cluster(any_server, wanted)
        every_damage_shows(any_server, copy)
    finally:
        any_server.execute("postgres", f"DROP DATABASE {copy} WITH (FORCE)")
        sample_schema.drop(any_server, source, "kf")


def taken_by_a_fresh_cluster(server: Server, wanted: bytes) -> None:
    accounts = client(server, "pg_dumpall", "--roles-only", "--no-sync")
    fresh = start_server(server.major, service=f"fresh{server.major}", in_memory=True)
    try:
        target = blank(fresh)
        fresh.load("postgres", accounts.replace(f"CREATE ROLE {USER};\n".encode(), b""))
        fresh.load(target, wanted)
        assert same(dump(fresh, target)) == same(wanted)
    finally:
        fresh.remove()


def every_damage_shows(server: Server, copy: str) -> None:
    """What the dump says of the damaged object is another; those that no entry names both are damaged together."""
    server.execute(copy, "CREATE INDEX case_brin2 ON public.app_case USING brin (made) WITH (pages_per_range = 8)")
    before = entries(same(dump(server, copy)).lower())
    left = dict(sample_schema.DAMAGES)
    while left:
        batch: dict[str, str] = {}
        touched: set[int] = set()
        for name, (statement, words) in left.items():
            named = {number for number, entry in enumerate(before) if words in entry}
            assert named, f"{name}: nothing is called {words}"
            if not named & touched:
                batch[name] = words
                touched |= named
                server.execute(copy, statement)
        after = entries(same(dump(server, copy)).lower())
        changed = Counter(before) - Counter(after) + (Counter(after) - Counter(before))
        for name, words in batch.items():
            assert any(words in entry for entry in changed), name
            del left[name]
        before = after


def test_what_is_known_to_differ_after_one_restore_settles_after_two(any_server: Server) -> None:
    """Every case in a schema of its own."""
    database = blank(any_server)
    for number, statements in enumerate(sample_schema.UNSTABLE.values()):
        any_server.execute(database, f"CREATE SCHEMA case{number}; SET search_path = case{number}; {statements}")
    texts = []
    for _ in range(3):
        texts.append(dump(any_server, database))
        database = blank(any_server)
        any_server.load(database, texts[-1])
    for number, case in enumerate(sample_schema.UNSTABLE):
        first, second, *_ = (of_schema(number, text if "order of rows" in case else same(text)) for text in texts)
        assert first and first != second, case
        _, second, third = (of_schema(number, same(text)) for text in texts)
        assert second == third or "enum" in case, case


def of_schema(number: int, script: bytes) -> list[str]:
    return [entry for entry in entries(script) if f"; Schema: case{number};" in entry.partition("\n")[0]]


@pytest.mark.parametrize("case", sample_schema.REFUSED)
def test_what_a_strict_load_is_known_to_refuse(any_server: Server, case: str) -> None:
    source, copy = blank(any_server), blank(any_server)
    any_server.execute(source, sample_schema.REFUSED[case])
    with pytest.raises(AssertionError):
        any_server.load(copy, dump(any_server, source))


def test_settings_of_a_database_change_its_dump_unless_pinned(any_server: Server) -> None:
    source = blank(any_server)
    any_server.execute(source, "CREATE TABLE t AS SELECT timestamptz '2024-01-01 00:00+00' AS a, bytea '\\xff' AS b; ")
    any_server.execute(source, "CREATE VIEW v AS SELECT a FROM t")
    pinned, plain = same(dump(any_server, source)), same(dump(any_server, source, pinned=False))
    for setting in ("timezone = 'Asia/Manila'", "bytea_output = 'escape'", "quote_all_identifiers = on"):
        any_server.execute(source, f"ALTER DATABASE {source} SET {setting}")
        assert same(dump(any_server, source)) == pinned, setting
        assert same(dump(any_server, source, pinned=False)) != plain, setting
        any_server.execute(source, f"ALTER DATABASE {source} RESET {setting.split()[0]}")
