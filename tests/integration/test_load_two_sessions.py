"""Indexes and constraints built over two sessions: all is there as dumped, and what fails on either fails the whole."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support import kitchen
from tests.support.database import Server
from tests.support.faults import nothing_left
from tests.support.sidecar import Result, Sidecar

# Two tables with an index each, so that there is work for both sessions; the bigger one's goes to the first.
TABLES = """
    CREATE FUNCTION slow(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN IF a % 20 = 0 THEN PERFORM pg_sleep(0.01); END IF; RETURN a; END $$;
    CREATE TABLE big (id int PRIMARY KEY, t text); CREATE TABLE small (id int PRIMARY KEY, big_id int, t text);
    INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 4000) i;
    INSERT INTO small SELECT i, i, 'x' FROM generate_series(1, 3900) i;
    CREATE INDEX big_slow ON big (slow(id)); CREATE INDEX small_slow ON small (slow(id));
    ALTER TABLE small ADD CONSTRAINT fk FOREIGN KEY (big_id) REFERENCES big;
"""
# What was right where it was dumped and fails where it is loaded: a function that refuses our sessions, a row that no
# check has seen.
BROKEN = {
    "an index of the bigger table": """
        CREATE FUNCTION broken(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$ BEGIN IF current_setting('application_name') LIKE 'obcms-backup%' THEN RAISE 'broken'; END IF;
             RETURN a; END $$;
        CREATE INDEX big_broken ON big (broken(id))""",
    "an index of the smaller table": """
        CREATE FUNCTION broken(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$ BEGIN IF current_setting('application_name') LIKE 'obcms-backup%' THEN RAISE 'broken'; END IF;
             RETURN a; END $$;
        CREATE INDEX small_broken ON small (broken(id))""",
    "a foreign key": """
        SET session_replication_role = replica; INSERT INTO small VALUES (99999, 99999, 'x')""",
    "a view's refresh at the end": """
        CREATE FUNCTION broken() RETURNS int LANGUAGE plpgsql AS
          $$ BEGIN IF current_setting('application_name') LIKE 'obcms-backup%' THEN RAISE 'broken'; END IF;
             RETURN 1; END $$;
        CREATE MATERIALIZED VIEW seen AS SELECT broken() AS a""",
}


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Sidecar:
    database = server.new_database()
    server.execute(database, TABLES)
    return always_two(Sidecar.make(tmp_path, server, database))


def always_two(sidecar: Sidecar) -> Sidecar:
    """The product's own command line, with a second session for however few rows."""
    path = sidecar.root.parent / "two.py"
    path.write_text(
        "import sys\nfrom backup.operations import load\nfrom backup.cli import main\n"
        "load.loading.__wrapped__.__kwdefaults__['least'] = 0\nsys.exit(main(sys.argv[1:]))\n"
    )
    sidecar.program = path
    return sidecar


def created(sidecar: Sidecar) -> None:
    result = sidecar.run("create", "daily", "--only", "database")
    assert result.code == 0, result.output


def restored(sidecar: Sidecar) -> Result:
    return sidecar.run("restore", sidecar.sets()[0].id, "--only", "database", "--force", "--no-safety")


def test_everything_a_database_can_hold_is_proven(any_server: Server, tmp_path: Path) -> None:
    database, prefix = any_server.new_database(), f"two{any_server.major}"
    kitchen.fill(any_server, database, prefix)
    try:
        sidecar = always_two(Sidecar.make(tmp_path, any_server, database))
        created(sidecar)
        result = sidecar.run("drill", "latest", "--json")
        assert result.code == 0 and result.json["proof"]["differences"] == [], result.output
        nothing_left(sidecar, any_server)
    finally:
        kitchen.drop(any_server, database, prefix)


def test_both_sessions_build_at_the_same_time(target: Sidecar, server: Server) -> None:
    created(target)
    most = 0
    with building(server, end=False) as seen:
        result = restored(target)
        most = max(seen, default=0)
    assert result.code == 0 and most == 2, result.output
    database = target.environment["DB_NAME"]
    names = server.value(
        database,
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'i'"
        " AND relnamespace = 'public'::regnamespace",
    )
    assert names == "big_pkey big_slow small_pkey small_slow"
    assert server.value(database, "SELECT convalidated FROM pg_constraint WHERE conname = 'fk'")


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_what_fails_on_either_session_fails_the_whole(target: Sidecar, server: Server, what: str) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, BROKEN[what])
    created(target)
    oid = server.value("postgres", f"SELECT oid FROM pg_database WHERE datname = '{database}'")
    result = target.run("drill", "latest")
    assert result.code == 41 and "does not load" in result.output, result.output
    nothing_left(target, server)
    result = restored(target)
    assert result.code != 0 and "does not load" in result.output, result.output
    assert server.value("postgres", f"SELECT oid FROM pg_database WHERE datname = '{database}'") == oid
    assert not [name for name in server.databases() if name.startswith(f"{database}__")]
    nothing_left(target, server)


@pytest.mark.parametrize("which", ["big_slow", "small_slow"])
def test_a_session_that_is_ended_fails_the_whole(target: Sidecar, server: Server, which: str) -> None:
    created(target)
    with building(server, end=True, which=which) as seen:
        result = restored(target)
    assert result.code != 0 and "does not load" in result.output and seen, result.output
    assert not [name for name in server.databases() if name.startswith(f"{target.environment['DB_NAME']}__")]
    nothing_left(target, server)


class building:  # noqa: N801 - reads as a sentence
    """Watches how many sessions build an index at once; ends the one that builds `which`."""

    def __init__(self, server: Server, *, end: bool, which: str = "") -> None:
        self._server, self._end, self._which = server, end, which
        self._done, self._seen = threading.Event(), [0]
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> list[int]:
        self._seen.clear()
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        query = (
            "FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
            " AND query LIKE '%%CREATE INDEX %%'"
        )
        with self._server.connect() as connection:
            while not self._done.wait(0.05):
                found = connection.execute(f"SELECT count(*) {query}".encode(), ()).fetchone()
                if found and found[0] and not self._end:
                    self._seen.append(found[0])
                if self._end:
                    ended = connection.execute(
                        f"SELECT pg_terminate_backend(pid) {query} AND query LIKE %s".encode(), (f"%{self._which}%",)
                    ).fetchall()
                    self._seen += [1] * len(ended)
