"""Both ways to the database keep one contract, on every supported server."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.errors import LoadFailed
from backup.model.run import new_run_id
from backup.postgres.psql import confined
from tests.support.database import Server
from tests.support.faults import eventually
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

ROLE = """
    CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT pg_monitor TO {role};
    ALTER DATABASE {database} SET search_path TO "$user", public, "with space";
    ALTER DATABASE {database} SET work_mem TO '7MB';
    ALTER ROLE {role} IN DATABASE {database} SET statement_timeout TO '5s';
    ALTER DATABASE {database} CONNECTION LIMIT 77; COMMENT ON DATABASE {database} IS 'it''s ours';
    GRANT CONNECT ON DATABASE {database} TO {role} WITH GRANT OPTION;
"""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path, any_server: Server) -> tuple[Sidecar, Server, str]:
    database = any_server.new_database()
    sidecar = Sidecar.make(tmp_path, any_server, database)
    return WAYS[request.param](sidecar, any_server), any_server, database


def test_a_set_is_made_and_says_what_it_holds_and_loads_with_plain_tools(way: tuple[Sidecar, Server, str]) -> None:
    sidecar, server, database = way
    role = f"role_{database}"
    server.execute(database, SCHEMA)
    server.execute(database, ROLE.format(role=role, database=database))
    result = sidecar.run("create", "daily")
    assert result.code == 0, result.output
    assert sidecar.spooled() == []
    eventually(lambda: not server.sessions())
    says_what_it_holds(sidecar, server)
    plain = {
        what: gzip.decompress(next((sidecar.root / "daily").glob(f"obcms_{what}_*.sql.gz")).read_bytes())
        for what in ("backup", "roles")
    }
    the_dump_restores_to_the_same_rows(server, database, plain["backup"])
    roles_and_database_settings_are_kept(server, database, role, plain["roles"].decode())


def test_a_psql_that_has_entered_has_no_password_beside_it_and_obeys_no_command(
    any_server: Server, tmp_path: Path
) -> None:
    sidecar = Sidecar.make(tmp_path, any_server, any_server.new_database())
    clients, run = sidecar.app().source().clients, new_run_id(datetime.now(UTC))
    arguments = ("--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")

    def secrets() -> list[str]:
        return [name for name in sidecar.spooled() if name.endswith("pass")]

    for own, command in ((b"", b"\\echo x\n"), (b"\\restrict abc\n\\unrestrict abc\n", b"\\echo x\n")):
        with clients.talk(arguments, run) as psql:
            assert secrets()
            psql.enter()
            assert psql.version // 10_000 == any_server.major and not secrets()
            psql.load.write(own + confined(psql.version) + b"SELECT 1;\n")
            with pytest.raises(LoadFailed, match="backslash commands are restricted"):
                psql.load.finish(command)


def test_a_client_may_be_started_before_it_is_known_what_it_is_to_do(any_server: Server, tmp_path: Path) -> None:
    """One that was, one more than were, and one that nobody wants: all say the same, and none is left."""
    database = any_server.new_database()
    sidecar = Sidecar.make(tmp_path, any_server, database)
    source, run = sidecar.app().source(), new_run_id(datetime.now(UTC))
    source.inspect()
    clients = source.clients
    arguments = ("--no-psqlrc", "--tuples-only", "--no-align", "--command=SELECT $$it's$$, current_catalog")
    for count in (1, 3):
        with clients.ahead(run, count):
            for _ in range(2):
                with clients.run("psql", arguments, run) as output:
                    assert b"".join(output.chunks()) == f"it's|{database}\n".encode()
        assert sidecar.spooled() == [] and clients.sweep() == 0


def says_what_it_holds(sidecar: Sidecar, server: Server) -> None:
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    rows = {"public.people": 5000, 'public."odd ""n"" x"': 3, "public.nothing": 0, "public.empty": 0}
    assert manifest.database.rows == rows
    assert manifest.database.large_objects == 1
    assert manifest.database.client_version.startswith(f"{server.major}.")
    assert manifest.database.system_identifier == server.value(
        "postgres", "SELECT system_identifier::text FROM pg_control_system()"
    )


def the_dump_restores_to_the_same_rows(server: Server, database: str, dump: bytes) -> None:
    target = server.new_database()
    server.load(target, dump)
    for query in ("SELECT count(*) FROM people", "SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM people p"):
        assert server.value(target, query) == server.value(database, query)
    assert (
        server.value(target, "SELECT convert_from(lo_get(oid), 'utf8') FROM pg_largeobject_metadata") == "large object"
    )


def roles_and_database_settings_are_kept(server: Server, database: str, role: str, text: str) -> None:
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
