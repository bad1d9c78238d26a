"""Both ways to the database keep one contract, on every supported server."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.sidecar import Sidecar

WAYS: dict[str, Callable[[Sidecar, Server], Sidecar]] = {
    "helper": lambda sidecar, server: sidecar,
    "network": lambda sidecar, server: sidecar.network(server),
}
SCHEMA = r"""
    CREATE TABLE people (id serial PRIMARY KEY, name text, doc jsonb);
    INSERT INTO people (name, doc) SELECT 'n' || i, jsonb_build_object('i', i) FROM generate_series(1, 5000) i;
    CREATE TABLE "odd ""n"" x" (a text); INSERT INTO "odd ""n"" x" VALUES (E'\\.'), (E'tab\there'), (NULL);
    CREATE TABLE nothing (); CREATE TABLE empty (a int); SELECT lo_from_bytea(0, 'large object');
"""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path, any_server: Server) -> tuple[Sidecar, Server, str]:
    database = any_server.new_database()
    sidecar = Sidecar.make(tmp_path, any_server, database)
    return WAYS[request.param](sidecar, any_server), any_server, database


def test_a_set_is_made_and_says_what_it_holds(way: tuple[Sidecar, Server, str]) -> None:
    sidecar, server, database = way
    server.execute(database, SCHEMA)
    result = sidecar.run("create", "daily")
    assert result.code == 0, result.output
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    rows = {"public.people": 5000, 'public."odd ""n"" x"': 3, "public.nothing": 0, "public.empty": 0}
    assert manifest.database.rows == rows
    assert manifest.database.large_objects == 1
    assert manifest.database.client_version.startswith(f"{server.major}.")
    assert manifest.database.system_identifier == server.value(
        "postgres", "SELECT system_identifier::text FROM pg_control_system()"
    )
    assert sidecar.spooled() == [] and not server.sessions()


def test_the_dump_restores_to_the_same_rows_with_plain_tools(way: tuple[Sidecar, Server, str]) -> None:
    sidecar, server, database = way
    server.execute(database, SCHEMA)
    assert sidecar.run("create", "daily").code == 0
    (dump,) = (sidecar.root / "daily").glob("obcms_backup_*.sql.gz")
    target = server.new_database()
    archive = gzip.decompress(dump.read_bytes())
    server.load(target, archive)
    for query in ("SELECT count(*) FROM people", "SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM people p"):
        assert server.value(target, query) == server.value(database, query)
    assert (
        server.value(target, "SELECT convert_from(lo_get(oid), 'utf8') FROM pg_largeobject_metadata") == "large object"
    )


def test_a_wrong_password_is_a_clear_failure(way: tuple[Sidecar, Server, str]) -> None:
    sidecar, _, _ = way
    result = sidecar.run("create", "daily", DB_PASSWORD="canary-wrong")
    assert result.code == 20 and "password authentication failed" in result.output
    assert "DB_PASSWORD" in result.output and "canary-wrong" not in result.output
    assert sidecar.files() == {} and sidecar.spooled() == []


def test_a_missing_database_is_a_clear_failure(way: tuple[Sidecar, Server, str]) -> None:
    sidecar, _, _ = way
    result = sidecar.run("create", "daily", DB_NAME="nothere")
    assert result.code == 20 and "does not exist" in result.output and "DB_NAME" in result.output
    assert sidecar.runs()[0].outcome == "failed"


def test_roles_and_database_settings_are_kept(way: tuple[Sidecar, Server, str]) -> None:
    sidecar, server, database = way
    role = f"role_{database}"
    server.execute(
        database,
        f"""CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT pg_monitor TO {role};
        ALTER DATABASE {database} SET search_path TO "$user", public, "with space";
        ALTER DATABASE {database} SET work_mem TO '7MB';
        ALTER ROLE {role} IN DATABASE {database} SET statement_timeout TO '5s';
        ALTER DATABASE {database} CONNECTION LIMIT 77; COMMENT ON DATABASE {database} IS 'it''s ours';
        GRANT CONNECT ON DATABASE {database} TO {role} WITH GRANT OPTION;""",
    )
    assert sidecar.run("create", "daily").code == 0
    (roles,) = (sidecar.root / "daily").glob("obcms_roles_*.sql.gz")
    text = gzip.decompress(roles.read_bytes()).decode()
    for line in (
        f"CREATE ROLE {role};",
        f"GRANT pg_monitor TO {role}",
        f'ALTER DATABASE {database} SET search_path TO "$user", public, "with space";',
        f"ALTER DATABASE {database} SET work_mem TO '7MB';",
        f"ALTER ROLE {role} IN DATABASE {database} SET statement_timeout TO '5s';",
        f"ALTER DATABASE {database} CONNECTION LIMIT 77;",
        f"COMMENT ON DATABASE {database} IS 'it''s ours';",
        f"GRANT CONNECT ON DATABASE {database} TO {role} WITH GRANT OPTION;",
    ):
        assert line in text
    server.load(database, text[text.index("-- Settings of the database itself") :].encode())
