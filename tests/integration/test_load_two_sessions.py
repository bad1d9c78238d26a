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
# An index that may be built before the last row, slowly, and a table whose rows come in slowly meanwhile.
EARLY = """
    CREATE FUNCTION slow_cmp(a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN IF a % 20 = 0 THEN PERFORM pg_sleep(0.01); END IF; RETURN btint4cmp(a, b); END $$;
    CREATE OPERATOR CLASS slow_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
      OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 slow_cmp(int, int);
    CREATE TABLE early (id int); INSERT INTO early SELECT generate_series(1, 8000);
    CREATE INDEX early_slow ON early (id slow_ops);
    CREATE TABLE late (id int, t text);
    INSERT INTO late SELECT i, repeat(md5(i::text), 40) FROM generate_series(1, 8000) i;
    ALTER TABLE late ADD CHECK (public.slow(id) > 0);
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
    "an index while rows come in": """
        CREATE FUNCTION broken_cmp(a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$ BEGIN IF current_setting('application_name') LIKE 'obcms-backup%' THEN RAISE 'broken'; END IF;
             RETURN btint4cmp(a, b); END $$;
        CREATE OPERATOR CLASS broken_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
          OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 broken_cmp(int, int);
        CREATE INDEX big_broken ON big (id broken_ops)""",
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
    """The product's own command line, with a second session for however few rows, and what it does always foreseen."""
    path = sidecar.root.parent / "two.py"
    path.write_text(
        "import sys\nfrom backup.operations import foresee, load\nfrom backup.cli import main\n"
        "for each in (load.loading, foresee.foreseeing):\n    each.__wrapped__.__kwdefaults__['least'] = 0\n"
        "foresee._known = lambda reading: reading.result()\nsys.exit(main(sys.argv[1:]))\n"
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


def test_an_index_is_built_while_rows_of_another_table_come_in(target: Sidecar, server: Server) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, EARLY)
    created(target)
    with building(server, end=False, beside="COPY public.late ") as seen:
        result = restored(target)
    assert result.code == 0 and 1 in seen, result.output
    assert server.value(database, "SELECT count(*) FROM pg_index WHERE indexrelid = 'early_slow'::regclass") == 1


def test_a_drill_foresees_what_it_can_build_early(target: Sidecar, server: Server) -> None:
    server.execute(target.environment["DB_NAME"], "DROP INDEX big_slow, small_slow")
    server.execute(target.environment["DB_NAME"], EARLY)
    created(target)
    result = target.run("drill", "latest", "--json")
    # The index sleeps for four seconds, and so do the rows behind it.
    assert result.code == 0 and result.json["proof"]["seconds"]["load"] < 7, result.output


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


@pytest.mark.parametrize("which", ["big_slow", "small_slow", "early_slow"])
def test_a_session_that_is_ended_fails_the_whole(target: Sidecar, server: Server, which: str) -> None:
    server.execute(target.environment["DB_NAME"], EARLY if which == "early_slow" else "SELECT 1")
    created(target)
    with building(server, end=True, which=which) as seen:
        result = restored(target)
    assert result.code != 0 and "does not load" in result.output and seen, result.output
    assert not [name for name in server.databases() if name.startswith(f"{target.environment['DB_NAME']}__")]
    nothing_left(target, server)


# A definition that quotes a dump: where it seems that rows have ended, no statement has.
QUOTING = r"""
    CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 20000) i;
    CREATE FUNCTION quoting() RETURNS text LANGUAGE sql AS $x$ SELECT $q$
--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.t (id, v) FROM stdin;
\.


--
-- Data for Name: u; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.u (id, v) FROM stdin;
\.

$q$ $x$;
"""


def test_nothing_is_put_into_a_definition_that_quotes_a_dump(target: Sidecar, server: Server) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, QUOTING)
    body = server.value(database, "SELECT prosrc FROM pg_proc WHERE proname = 'quoting'")
    created(target)
    result = target.run("drill", "latest")
    assert result.code == 0 and "proven" in result.output, result.output
    result = restored(target)
    assert result.code == 0, result.output
    assert server.value(database, "SELECT prosrc FROM pg_proc WHERE proname = 'quoting'") == body


# While the other is at work for seconds: on an index that is built slowly, before a view is filled, or on slow rows.
WAITING = {
    "first": """DROP INDEX big_slow, small_slow, early_slow; INSERT INTO early SELECT generate_series(8001, 16000);
        CREATE INDEX early_slow ON early (id slow_ops); CREATE MATERIALIZED VIEW seen AS SELECT 1 AS a""",
    "second": "DROP INDEX early_slow; CREATE INDEX early_quick ON early (id)",
}


@pytest.mark.parametrize("session", WAITING)
def test_either_session_may_wait_longer_than_the_server_lets_others(
    target: Sidecar, server: Server, session: str
) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, EARLY)
    server.execute(database, WAITING[session])
    created(target)
    role = server.value(
        "postgres",
        f"SELECT rolname FROM pg_roles JOIN pg_database d ON datdba = pg_roles.oid WHERE datname = '{database}'",
    )
    server.execute("postgres", f"ALTER ROLE {role} SET idle_session_timeout = '1s'")
    try:
        result = restored(target)
    finally:
        server.execute("postgres", f"ALTER ROLE {role} RESET idle_session_timeout")
    assert result.code == 0, result.output


@pytest.mark.parametrize("command", ["restore", "drill"])
def test_a_second_session_that_cannot_be_started_is_named(target: Sidecar, server: Server, command: str) -> None:
    server.execute(target.environment["DB_NAME"], EARLY)
    created(target)
    broken(
        target,
        "from backup.engine import Engine\nfrom backup.errors import EngineError\nstart = Engine.start_helper\n"
        "def failing(self, beside, program, arguments, *rest):\n"
        "    if any('2.fifo' in each for each in arguments):\n        raise EngineError('the engine is full')\n"
        "    return start(self, beside, program, arguments, *rest)\nEngine.start_helper = failing\n",
    )
    result = tried(target, command)
    assert result.code == (50 if command == "restore" else 20) and "the engine is full" in result.output, result.output
    nothing_left(target, server)


@pytest.mark.parametrize("command", ["restore", "drill"])
def test_a_signal_while_the_second_session_starts_leaves_nothing(target: Sidecar, server: Server, command: str) -> None:
    server.execute(target.environment["DB_NAME"], EARLY)
    created(target)
    broken(
        target,
        "import os, signal, time\nfrom backup.operations import beside\n"
        "class Pool(beside.ThreadPoolExecutor):\n    def submit(self, work, *rest):\n"
        "        found = super().submit(work, *rest)\n        if work is not int:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n            time.sleep(0.01)\n        return found\n"
        "beside.ThreadPoolExecutor = Pool\n",
    )
    result = tried(target, command)
    assert result.code == 143, result.output
    nothing_left(target, server)


def tried(sidecar: Sidecar, command: str) -> Result:
    return restored(sidecar) if command == "restore" else sidecar.run(command, "latest")


def broken(sidecar: Sidecar, how: str) -> None:
    text = sidecar.program.read_text()
    sidecar.program.write_text(text.replace("sys.exit(", f"{how}sys.exit("))


class building:  # noqa: N801 - reads as a sentence
    """Watches how many sessions build an index at once, while one is at `beside`; ends the one that builds `which`."""

    def __init__(self, server: Server, *, end: bool, which: str = "", beside: str = "") -> None:
        self._server, self._end, self._which, self._beside = server, end, which, beside
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
            " AND query LIKE '%%CREATE INDEX %%' AND EXISTS (SELECT FROM pg_stat_activity b WHERE b.state = 'active'"
            f" AND b.pid <> pg_backend_pid() AND b.query LIKE '%%{self._beside}%%')"
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
