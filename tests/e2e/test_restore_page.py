"""RESTORE.txt, followed to the letter: its lines are run by a shell, and what they make is compared with the source."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.catalog.restore_page import PAGE, restore_page
from backup.model.backup_set import StoredSet
from tests.support.database import USER, Server, start_server
from tests.support.keys import key_pair
from tests.support.sidecar import Sidecar

HOSTILE = """we'ird "$(touch pwned)" `x`; \\ -- dbname=postgres host=nowhere"""
NEWLINE = "two\nlines\n"
SETUP = """
    CREATE TABLE letters (id serial PRIMARY KEY, body text);
    INSERT INTO letters (body) SELECT repeat('x', n) FROM generate_series(1, 500) n;
    CREATE SCHEMA "We ird"; CREATE TABLE "We ird"."O'dd" AS SELECT n FROM generate_series(1, 7) n;
    CREATE FUNCTION loud(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(v)';
    CREATE FUNCTION slug(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN loud(v); END';
    CREATE TABLE said (v text, s text GENERATED ALWAYS AS (slug(v)) STORED); INSERT INTO said (v) VALUES ('x');
    CREATE VIEW seen AS SELECT count(*) FROM letters; SELECT lo_from_bytea(0, 'large');
"""
ROLES = """
    CREATE ROLE "{0} owner" LOGIN PASSWORD 'pw' VALID UNTIL '2030-01-01' CONNECTION LIMIT 3;
    CREATE ROLE "{0}""group" NOLOGIN; GRANT "{0}""group" TO "{0} owner" WITH ADMIN OPTION;
    ALTER ROLE "{0} owner" SET work_mem = '9MB';
    COMMENT ON ROLE "{0} owner" IS E'a comment\nCREATE ROLE "{0} evil" SUPERUSER;\nwith lines';
    ALTER DATABASE {1} OWNER TO "{0} owner"; ALTER DATABASE {1} CONNECTION LIMIT 17;
    ALTER DATABASE {1} SET statement_timeout = '77s'; ALTER DATABASE {1} SET default_transaction_read_only = off;
    ALTER ROLE "{0} owner" IN DATABASE {1} SET search_path = "We ird", public;
    REVOKE CONNECT ON DATABASE {1} FROM PUBLIC; GRANT CREATE ON DATABASE {1} TO "{0}""group" WITH GRANT OPTION;
    COMMENT ON DATABASE {1} IS 'it''s mine'; ALTER TABLE letters OWNER TO "{0} owner";
"""
SERVER_FACTS = """
    SELECT string_agg(line, E'\n' ORDER BY line) FROM (
      SELECT row(rolname, rolsuper, rolcanlogin, rolconnlimit, rolvaliduntil, rolpassword,
                 shobj_description(oid, 'pg_authid'))::text FROM pg_authid WHERE rolname LIKE '{0}%'
      UNION ALL SELECT row(roleid::regrole, member::regrole, admin_option)::text FROM pg_auth_members
        WHERE member::regrole::text LIKE '"{0}%'
      UNION ALL SELECT row(setrole::regrole, setconfig)::text FROM pg_db_role_setting
        WHERE setrole::regrole::text LIKE '"{0}%'
            OR setdatabase IN (SELECT oid FROM pg_database WHERE datname = $n${1}$n$)
      UNION ALL SELECT row(datdba::regrole, encoding, datcollate, datctype, datlocprovider, datconnlimit,
                           (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),
                           shobj_description(oid, 'pg_database'))::text
        FROM pg_database WHERE datname = $n${1}$n$) lines(line)
"""
CONTENT = """
    SELECT (SELECT string_agg(id || body, ',' ORDER BY id) FROM letters) || (SELECT sum(n) FROM "We ird"."O'dd") ||
           nextval('letters_id_seq') || (SELECT count FROM seen) || (SELECT s FROM said)
           || (SELECT tableowner FROM pg_tables WHERE tablename = 'letters')
           || (SELECT string_agg(lo_get(oid)::text, ',') FROM pg_largeobject_metadata)
"""


@pytest.fixture
def prefix() -> str:
    """Roles belong to the whole server, which other tests share."""
    return f"page_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def fresh() -> Iterator[Server]:
    """A server with nothing but the role that initialised it."""
    made = start_server(17, service=f"fresh-{uuid.uuid4().hex[:8]}", in_memory=True)
    yield made
    made.remove()


@pytest.fixture
def container() -> Iterator[str]:
    """The name of a container that the page starts; removed with its volume."""
    name = f"obcms-page-{uuid.uuid4().hex[:8]}"
    yield name
    subprocess.run(["docker", "rm", "-fv", name], capture_output=True, check=False)
    subprocess.run(["docker", "volume", "rm", "-f", f"{name}_data"], capture_output=True, check=False)


def made_set(sidecar: Sidecar, server: Server, prefix: str, *only: str) -> StoredSet:
    """A set of a filled database, with its page beside it."""
    name = sidecar.environment["DB_NAME"]
    server.execute(name, SETUP)
    server.execute(name, ROLES.format(prefix, '"' + name.replace('"', '""') + '"'))
    (sidecar.media / "uploads" / "b\n\\c.txt").write_text("odd name\n")
    (sidecar.media / "uploads" / "link").symlink_to("a.txt")
    made = sidecar.run("create", "daily", *only)
    assert made.code == 0, made.output
    stored = sidecar.sets()[0]
    assert stored.manifest
    (stored.directory / PAGE).write_text(restore_page(stored.manifest))
    return stored


def commands(stored: StoredSet, without: str) -> str:
    """The lines of the page that are commands, but for those of the section `without`."""
    text = (stored.directory / PAGE).read_text()
    text = re.sub(rf"^{without}\. .*?(?=\n\n)", "", text, flags=re.MULTILINE | re.DOTALL) if without else text
    return "".join(f"{line[4:]}\n" for line in text.splitlines() if line.startswith("    "))


def follow(stored: StoredSet, without: str, target: Path, **environment: str) -> str:
    """Run them, as written; their output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=commands(stored, without),
        cwd=stored.directory,
        env={**os.environ, "TARGET": str(target), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (stored.directory / "pwned").exists()
    return done.stdout


def rows_told(output: str) -> dict[str, int]:
    lines = [line.rpartition(": ") for line in output.splitlines() if re.search(r"\.\S.*: \d+$", line)]
    return {name: int(count) for name, _, count in lines}


def same_tree(media: Path, restored: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", media, restored], check=True)


def compare(source: Server, copy: Server, name: str, prefix: str) -> None:
    facts = SERVER_FACTS.format(prefix, name)
    assert source.value("postgres", facts) == copy.value("postgres", facts)
    assert f"{prefix} owner" in source.value("postgres", facts) and "77s" in source.value("postgres", facts)
    assert "evil" in source.value("postgres", facts)
    assert source.value(name, CONTENT) == copy.value(name, CONTENT)
    evil = f"SELECT count(*) FROM pg_roles WHERE rolname = '{prefix} evil'"
    assert copy.value("postgres", evil) == 0


@pytest.mark.parametrize("name", [None, HOSTILE, NEWLINE], ids=["plain", "hostile", "newline"])
def test_a_server_that_is_there(tmp_path: Path, server: Server, fresh: Server, prefix: str, name: str | None) -> None:
    database = server.new_database(name and f"{name}{prefix}")
    sidecar = Sidecar.make(tmp_path, server, database)
    stored = made_set(sidecar, server, prefix)
    (tmp_path / "bin").mkdir()
    psql = tmp_path / "bin" / "psql"
    psql.write_text(
        f'#!/bin/sh\nexec docker exec -i -e PGDATABASE -e PGUSER -e PGHOST {fresh.container.id} psql "$@"\n'
    )
    psql.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    output = follow(stored, "3a", tmp_path / "to", PATH=path, PGHOST="127.0.0.1", PGUSER=USER)
    compare(server, fresh, database, prefix)
    same_tree(sidecar.media, tmp_path / "to" / "media")
    assert stored.manifest and stored.manifest.database
    assert rows_told(output) == stored.manifest.database.rows


def test_a_server_of_its_own(any_server: Server, tmp_path: Path, container: str, prefix: str) -> None:
    database = any_server.new_database()
    sidecar = Sidecar.make(tmp_path, any_server, database)
    stored = made_set(sidecar, any_server, prefix)
    assert stored.manifest and stored.manifest.database
    assert stored.manifest.database.bootstrap == USER
    output = follow(stored, "3b", tmp_path / "to", CONTAINER=container)
    assert rows_told(output) == stored.manifest.database.rows
    found = subprocess.run(
        ["docker", "exec", container, "psql", "-XAtU", USER, "-d", database, "-c", CONTENT],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == any_server.value(database, CONTENT)
    same_tree(sidecar.media, tmp_path / "to" / "media")


def test_an_encrypted_set(tmp_path: Path, server: Server, container: str, prefix: str) -> None:
    """With the real `age`; without the key it goes no further, and nothing is made."""
    key, database = tmp_path / "the key", server.new_database()
    public = key_pair(key)
    sidecar = Sidecar.make(tmp_path, server, database, BACKUP_ENCRYPT="all", BACKUP_AGE_RECIPIENTS=public)
    stored = made_set(sidecar, server, prefix)
    assert "age -d -i" in (stored.directory / PAGE).read_text()
    with pytest.raises(AssertionError):
        follow(stored, "3b", tmp_path / "to", CONTAINER=container)
    assert not (tmp_path / "to").exists()
    output = follow(stored, "3b", tmp_path / "to", CONTAINER=container, KEY=str(key))
    assert stored.manifest and stored.manifest.database
    assert rows_told(output) == stored.manifest.database.rows
    same_tree(sidecar.media, tmp_path / "to" / "media")


def test_a_set_of_media_alone(tmp_path: Path, sidecar: Sidecar, server: Server, prefix: str) -> None:
    stored = made_set(sidecar, server, prefix, "--only", "media")
    assert "This set holds no database" in (stored.directory / PAGE).read_text()
    follow(stored, "", tmp_path / "to")
    same_tree(sidecar.media, tmp_path / "to" / "media")


def test_a_set_of_the_database_alone(
    tmp_path: Path, sidecar: Sidecar, server: Server, container: str, prefix: str
) -> None:
    stored = made_set(sidecar, server, prefix, "--only", "database")
    assert "This set holds no files" in (stored.directory / PAGE).read_text()
    assert "letters: 500" in follow(stored, "3b", tmp_path / "to", CONTAINER=container)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "file"])
def test_a_damaged_set_goes_no_further(
    tmp_path: Path, sidecar: Sidecar, server: Server, prefix: str, damage: str
) -> None:
    stored = made_set(sidecar, server, prefix)
    archive = next(stored.directory.glob("obcms_media_*.tar.gz"))
    data = archive.read_bytes()
    half = len(data) // 2
    damaged = {"flip": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :], "cut": data[:half], "file": b""}
    archive.write_bytes(damaged[damage])
    with pytest.raises(AssertionError, match="FAILED"):
        follow(stored, "3a", tmp_path / "to", PGHOST="256.0.0.1")
    assert not (tmp_path / "to").exists()
