"""The planner's statistics of PostgreSQL 18: they come back as they were, are no content, and fail no load."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_load_sessions import several
from tests.support.database import Server, start_server
from tests.support.keys import key_pair
from tests.support.sidecar import Sidecar

SCRIPT = """
    CREATE TABLE "odd ""name'; --" (id serial PRIMARY KEY, "co'l" text, j jsonb, arr int[], d date, m money);
    INSERT INTO "odd ""name'; --" ("co'l", j, arr, d, m)
      SELECT md5(i::text), jsonb_build_object('k', i % 10), ARRAY[i % 5, i % 7], '2020-01-01'::date + i % 90, i % 3
        FROM generate_series(1, 5000) i;
    CREATE INDEX "ix'e" ON "odd ""name'; --" (lower("co'l"), id);
    CREATE TABLE parts (id int, t text) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE high PARTITION OF parts FOR VALUES FROM (100) TO (100000);
    INSERT INTO parts SELECT i, 'x' || i % 9 FROM generate_series(1, 3000) i;
    CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
    INSERT INTO child SELECT generate_series(1, 500); INSERT INTO parent SELECT generate_series(1, 50);
    CREATE TABLE lines (x text); ALTER TABLE lines ALTER x SET STATISTICS 50;
    INSERT INTO lines SELECT E'a\\nb\\\\c''d' || i % 3 || E'\\nCOPY x FROM stdin;\\n\\\\.\\n-- Name: y; Type: TABLE;'
      || E' Schema: public; Owner: o\\n' FROM generate_series(1, 1000) i;
    CREATE MATERIALIZED VIEW counted AS SELECT t, count(*) FROM parts GROUP BY t;
    CREATE SCHEMA apart; CREATE TABLE apart.empty_one (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL);
    CREATE TABLE apart.full_one (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL);
    INSERT INTO apart.full_one SELECT generate_series(1, 200);
    ANALYZE;
"""
KINDS = ", ".join(f"stakind{n}, stanumbers{n}::text, stavalues{n}::text" for n in range(1, 6))
STATISTICS = f"""
    SELECT format('%I.%I', relnamespace::regnamespace, relname), staattnum, stainherit, stanullfrac, stawidth,
           stadistinct, {KINDS}
      FROM pg_statistic JOIN pg_class c ON c.oid = starelid WHERE c.oid >= 16384 ORDER BY 1, 2, 3"""
# A table whose statistics came with the dump alone.
ANALYZED = "SELECT count(*) FROM pg_stat_user_tables WHERE analyze_count > 0 AND relname <> 'missing'"


@pytest.fixture(scope="module")
def still() -> Iterator[Server]:
    """A server that analyzes nothing by itself."""
    server = start_server(18, "still", in_memory=True, command=["-c", "autovacuum=off"])
    yield server
    server.remove()


def statistics(server: Server, database: str) -> list[Any]:
    with server.connect(database) as connection:
        return connection.execute(STATISTICS.encode()).fetchall()


def stored(sidecar: Sidecar) -> str:
    (made,) = sidecar.catalog.sets()
    return gzip.decompress((made.directory / made.manifest.artifacts[0].file).read_bytes()).decode()


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_restore_brings_them_back_and_analyzes_nothing(still: Server, tmp_path: Path, jobs: int) -> None:
    database = still.new_database()
    still.execute(database, SCRIPT)
    before = statistics(still, database)
    assert len(before) == 20 and len({each[0] for each in before}) == 10
    sidecar = several(Sidecar.make(tmp_path, still, database), jobs)
    assert (done := sidecar.run("create", "daily", "--only", "database")).code == 0, done.output
    dump = stored(sidecar)
    assert dump.count("pg_catalog.pg_restore_relation_stats(") > 8
    # As another one's restore by hand.
    by_hand = still.new_database()
    still.load(by_hand, dump.encode())
    assert statistics(still, by_hand) == before
    assert (done := sidecar.run("restore", "latest", "--force", "--no-safety")).code == 0, done.output
    assert statistics(still, database) == before
    assert still.value(database, ANALYZED) == 0
    assert (done := sidecar.run("drill", "latest")).code == 0, done.output
    assert "equal" in done.output and "statistics" not in done.output, done.output


def test_what_the_dump_has_no_statistics_of_is_analyzed(still: Server, tmp_path: Path) -> None:
    database = still.new_database()
    still.execute(
        database,
        SCRIPT
        + """
        CREATE TABLE never AS SELECT generate_series(1, 100) AS i;
        CREATE TABLE more AS SELECT generate_series(1, 100) AS i; ANALYZE more; ALTER TABLE more ADD j int DEFAULT 1;
        CREATE TABLE wide AS SELECT i, i AS j FROM generate_series(1, 100) i;
        CREATE STATISTICS both_of_it ON i, j FROM wide; ANALYZE wide;
        CREATE TABLE keyed AS SELECT generate_series(1, 100) AS i; ANALYZE keyed; CREATE INDEX ON keyed ((i % 7));
        CREATE TABLE split (i int) PARTITION BY LIST (i); CREATE TABLE one PARTITION OF split FOR VALUES IN (1);
        INSERT INTO split VALUES (1); ANALYZE one;
        """,
    )
    sidecar = Sidecar.make(tmp_path, still, database)
    assert (done := sidecar.run("create", "daily", "--only", "database")).code == 0, done.output
    assert (done := sidecar.run("restore", "latest", "--force", "--no-safety")).code == 0, done.output
    with still.connect(database) as connection:
        query = "SELECT relname FROM pg_stat_user_tables WHERE analyze_count > 0 ORDER BY 1"
        analyzed = [name for (name,) in connection.execute(query)]
        assert analyzed == ["keyed", "more", "never", "split", "wide"]
        extended = "SELECT count(*) FROM pg_statistic_ext_data"
        assert connection.execute(extended).fetchone() == (1,)
        missing = "SELECT count(*) FROM pg_statistic WHERE starelid = 'split'::regclass AND stainherit"
        assert connection.execute(missing).fetchone() == (1,)


def test_a_refused_one_fails_no_load_and_is_made(still: Server, tmp_path: Path) -> None:
    """The values are read as the column's type reads them: here a domain whose check is later another one's."""
    database = still.new_database()
    still.execute(
        database,
        """
        CREATE TABLE allowed (a int); INSERT INTO allowed VALUES (1), (2);
        CREATE FUNCTION fits(a int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
          IF current_query() LIKE '%pg_restore' || '_attribute_stats%' THEN RAISE 'not from statistics'; END IF;
          RETURN true; END $$;
        CREATE DOMAIN few AS int CHECK (public.fits(VALUE));
        CREATE TABLE used (f few); INSERT INTO used SELECT i % 2 FROM generate_series(1, 100) i; ANALYZE;
        """,
    )
    sidecar = Sidecar.make(tmp_path, still, database)
    assert (done := sidecar.run("create", "daily", "--only", "database")).code == 0, done.output
    assert (done := sidecar.run("restore", "latest", "--force", "--no-safety")).code == 0, done.output
    assert "the statistics of public.used were left out: not from statistics" in done.output
    analyzed = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = %s"
    assert still.value(database, analyzed.replace("%s", "'used'")) == 1
    assert still.value(database, analyzed.replace("%s", "'allowed'")) == 0
    assert (done := sidecar.run("drill", "latest")).code == 0, done.output
    assert "the statistics of public.used were left out" in done.output


def test_other_statistics_are_no_other_definitions_and_no_other_content(still: Server, tmp_path: Path) -> None:
    database = still.new_database()
    still.execute(database, SCRIPT)
    recipient = key_pair(tmp_path / "key")
    sidecar = Sidecar.make(tmp_path, still, database, BACKUP_AGE_RECIPIENTS=recipient)
    first = sidecar.run("create", "daily", "--only", "database")
    still.execute(database, "UPDATE apart.full_one SET a = 7; ANALYZE")
    second = sidecar.run("create", "manual", "--only", "database", BACKUP_ENCRYPT="all")
    assert (first.code, second.code) == (0, 0), first.output + second.output
    parts = [each.manifest.database for each in sidecar.catalog.sets()]
    assert len({part.definitions for part in parts if part}) == 1
    # That one is loaded from its beginning to its end.
    key = {"BACKUP_AGE_IDENTITY_FILE": str(tmp_path / "key")}
    assert (done := sidecar.run("drill", "latest", **key)).code == 0, done.output
    assert "equal" in done.output and "statistics" not in done.output, done.output


def test_no_superuser_is_needed(still: Server, tmp_path: Path) -> None:
    database = still.new_database()
    user = f"owner_of_{database}"
    still.execute(
        database,
        f"CREATE ROLE {user} LOGIN CREATEDB PASSWORD 'x'; GRANT pg_signal_backend TO {user};"
        f"CREATE ROLE {user}_too; GRANT {user}_too TO {user}; ALTER DATABASE {database} OWNER TO {user};"
        f"ALTER SCHEMA public OWNER TO {user}; CREATE SCHEMA theirs AUTHORIZATION {user}_too;"
        f"SET ROLE {user}; CREATE TABLE t AS SELECT generate_series(1, 100) AS i; ANALYZE t; SET ROLE {user}_too;"
        f"CREATE TABLE theirs.t AS SELECT generate_series(1, 100) AS i; ANALYZE theirs.t;",
    )
    before = statistics(still, database)
    assert len(before) == 2
    sidecar = Sidecar.make(tmp_path, still, database, DB_USER=user, DB_PASSWORD="x")
    assert (done := sidecar.run("create", "daily", "--only", "database")).code == 0, done.output
    assert (done := sidecar.run("restore", "latest", "--force", "--no-safety")).code == 0, done.output
    assert statistics(still, database) == before and still.value(database, ANALYZED) == 0


def test_a_table_is_taken_out_without_them(still: Server, tmp_path: Path) -> None:
    database = still.new_database()
    still.execute(database, SCRIPT)
    sidecar = Sidecar.make(tmp_path, still, database)
    assert sidecar.run("create", "daily", "--only", "database").code == 0
    done = sidecar.run("extract", "latest", "--table", "lines")
    assert done.code == 0 and "pg_restore" not in done.output and "CREATE TABLE public.lines" in done.output


def test_older_servers_have_none(servers: Callable[[int], Server], tmp_path: Path) -> None:
    database = servers(17).new_database()
    servers(17).execute(database, "CREATE TABLE t AS SELECT generate_series(1, 100) AS i; ANALYZE t")
    sidecar = Sidecar.make(tmp_path, servers(17), database)
    assert sidecar.run("create", "daily", "--only", "database").code == 0
    assert not re.search("statistics|_stats", stored(sidecar).replace("statistics = ", ""), re.IGNORECASE)
    assert sidecar.run("restore", "latest", "--force", "--no-safety").code == 0
    assert servers(17).value(database, "SELECT count(*) FROM pg_stats WHERE tablename = 't'") == 1
