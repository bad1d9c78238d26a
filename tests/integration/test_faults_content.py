"""What a role may not see, and what a dump does not hold: the run fails, or the manifest says what is missing."""

from __future__ import annotations

import gzip

import pytest
from psycopg import sql

from tests.support.database import Server
from tests.support.faults import failed, judge, nothing_left
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")


@pytest.fixture
def role(server: Server, sidecar: Sidecar) -> dict[str, str]:
    """The settings of a role that owns the database and is no superuser."""
    name = f"owner_{sidecar.environment['DB_NAME']}"
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(name)))
    server.execute(sidecar.environment["DB_NAME"], f"ALTER DATABASE {sidecar.environment['DB_NAME']} OWNER TO {name}")
    return {"DB_USER": name, "DB_PASSWORD": "secret"}


def run(server: Server, sidecar: Sidecar, statements: str) -> None:
    server.execute(sidecar.environment["DB_NAME"], statements)


def not_carried(sidecar: Sidecar) -> str:
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    return "; ".join(manifest.database.not_carried)


def test_an_owner_who_is_no_superuser_can_back_up(server: Server, sidecar: Sidecar, role: dict[str, str]) -> None:
    run(server, sidecar, f"CREATE TABLE mine AS SELECT 1 AS a; ALTER TABLE mine OWNER TO {role['DB_USER']}")
    result = sidecar.run(*CREATE, **role)
    assert result.code == 0, result.output
    assert f"passwords of roles ({role['DB_USER']} is not a superuser)" in not_carried(sidecar)
    assert "passwords of roles" in sidecar.run("show", "latest").output
    assert len(judge(sidecar.root)) == 1


def test_rows_behind_a_policy(server: Server, sidecar: Sidecar, role: dict[str, str]) -> None:
    run(
        server,
        sidecar,
        f"CREATE TABLE guarded AS SELECT generate_series(1, 10) AS i; ALTER TABLE guarded OWNER TO {role['DB_USER']};"
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON guarded USING (i < 3)",
    )
    failed(sidecar, sidecar.run(*CREATE, **role), 20, "row-level security", "guarded", "BYPASSRLS")
    assert sidecar.files() == {}
    nothing_left(sidecar, server)
    run(server, sidecar, f"ALTER ROLE {role['DB_USER']} BYPASSRLS")
    result = sidecar.run(*CREATE, **role)
    assert result.code == 0, result.output
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database and manifest.database.rows["public.guarded"] == 10


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE secret AS SELECT 1 AS a",
        "CREATE SCHEMA secret; CREATE TABLE secret.t ()",
        "CREATE SEQUENCE secret",
        "CREATE MATERIALIZED VIEW secret AS SELECT 1 AS a; CREATE TABLE t ()",
    ],
)
def test_something_that_the_role_may_not_read(
    server: Server, sidecar: Sidecar, role: dict[str, str], statements: str
) -> None:
    run(server, sidecar, statements)
    result = sidecar.run(*CREATE, **role)
    failed(sidecar, result, 20, "permission denied", "owner of everything")
    assert sidecar.files() == {}
    nothing_left(sidecar, server)


def test_a_large_object_that_the_role_may_not_read(server: Server, sidecar: Sidecar, role: dict[str, str]) -> None:
    run(server, sidecar, "SELECT lo_from_bytea(0, 'secret')")
    failed(sidecar, sidecar.run(*CREATE, **role), 20, "large object", "permission denied")
    assert sidecar.files() == {}


def test_a_foreign_table_is_named(server: Server, sidecar: Sidecar) -> None:
    run(
        server,
        sidecar,
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER elsewhere FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE far (a int) SERVER elsewhere;"
        'CREATE FOREIGN TABLE "far \x1b[2J" (a int) SERVER elsewhere',
    )
    assert sidecar.run(*CREATE).code == 0
    said = not_carried(sidecar)
    assert "rows of the foreign table public.far " in said and r"far \x1b[2J" in said
    assert "public.far" in sidecar.run("show", "latest").output
    dump = gzip.decompress(next((sidecar.root / "daily").glob("*_backup_*")).read_bytes())
    assert b"CREATE FOREIGN TABLE public.far" in dump


def test_a_foreign_table_that_the_role_may_not_read_is_still_named(
    server: Server, sidecar: Sidecar, role: dict[str, str]
) -> None:
    """information_schema hides what one has no right to; the catalogue does not."""
    run(
        server,
        sidecar,
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER elsewhere FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE far (a int) SERVER elsewhere",
    )
    assert sidecar.run(*CREATE, **role).code == 0
    assert "public.far" in not_carried(sidecar)


def test_rows_of_an_unlogged_table_and_of_partitions_are_there(server: Server, sidecar: Sidecar) -> None:
    run(
        server,
        sidecar,
        "CREATE UNLOGGED TABLE quick AS SELECT i FROM generate_series(1, 7) i;"
        "CREATE TABLE parts (i int) PARTITION BY RANGE (i); CREATE TABLE part PARTITION OF parts DEFAULT;"
        "INSERT INTO parts SELECT generate_series(1, 9); CREATE TABLE old (i int); CREATE TABLE heir () INHERITS (old);"
        "INSERT INTO old VALUES (1); INSERT INTO heir VALUES (2), (3)",
    )
    assert sidecar.run(*CREATE).code == 0
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    counted = {"public.quick": 7, "public.part": 9, "public.old": 1, "public.heir": 2}
    assert manifest.database.rows == counted


def test_an_empty_database_is_a_good_set_of_nothing(server: Server, sidecar: Sidecar) -> None:
    assert sidecar.run(*CREATE).code == 0
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database and manifest.database.rows == {} and len(judge(sidecar.root)) == 1


def test_much_on_stderr_is_drained_and_bounded(server: Server, sidecar: Sidecar) -> None:
    """Circular foreign keys make pg_dump warn at length; a message of a megabyte is cut."""
    run(
        server,
        sidecar,
        "DO $$ BEGIN FOR i IN 1..400 LOOP"
        " EXECUTE format('CREATE TABLE a%s (i int PRIMARY KEY, r int REFERENCES a%s)', i, i); END LOOP; END $$",
    )
    result = sidecar.run(*CREATE)
    assert result.code == 0 and len(result.output) < 4000, result.output[:500]
