"""Dumps loaded by several sessions: all is there as dumped, and what fails on any of them fails the whole."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import sample_schema
from tests.support.database import Server, start_server
from tests.support.faults import helpers, nothing_left, seeded
from tests.support.sidecar import Result, Sidecar

KILLS = int(os.environ.get("KILLS", "1"))
# What loads do in one session until another is at work as well, and what waits to be ended: no time of theirs is known.
# Whoever is at work has a lock of its session, which is seen from then on.
MEETING = """
    CREATE FUNCTION ours() RETURNS bool LANGUAGE sql AS
      $$ SELECT current_setting('application_name') LIKE 'obcms-backup%' AND current_query() NOT LIKE 'ANALYZE%' $$;
    CREATE FUNCTION beside(seconds float) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
      PERFORM pg_try_advisory_lock(42, pg_backend_pid());
      FOR i IN 0 .. seconds * 50 LOOP
        IF (SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE locktype = 'advisory' AND classid = 42 AND datname = current_database()) > 1 THEN RETURN true; END IF;
        PERFORM pg_sleep(0.02);
      END LOOP;
      RETURN false; END $$;
    CREATE FUNCTION meets(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      IF a = 1 AND public.ours() AND NOT public.beside(60) THEN RAISE 'nobody is at work beside this'; END IF;
      RETURN a; END $$;
    CREATE FUNCTION stays(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      IF a = 1 AND public.ours() THEN PERFORM pg_sleep(60); END IF;
      RETURN a; END $$;
"""
# Two tables with an index each, so that there is work for both sessions; the bigger one's goes to the first.
TABLES = """
    CREATE TABLE big (id int PRIMARY KEY, t text); CREATE TABLE small (id int PRIMARY KEY, big_id int, t text);
    INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 4000) i;
    INSERT INTO small SELECT i, i, 'x' FROM generate_series(1, 3900) i;
    ALTER TABLE small ADD CONSTRAINT fk FOREIGN KEY (big_id) REFERENCES big;
"""
# One table has more than its share of the rows, so its parts go to several sessions.
PARTED = """
    CREATE TABLE kind (name text); INSERT INTO kind VALUES ('old');
    CREATE TABLE rows (id int PRIMARY KEY, t text);
    INSERT INTO rows SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 20000) i;
    CREATE TABLE other (id int PRIMARY KEY, rows_id int REFERENCES rows ON DELETE CASCADE, t text);
    INSERT INTO other SELECT i, i, md5(i::text) FROM generate_series(1, 20000) i;
    CREATE INDEX ON rows (t); CREATE INDEX ON other (t);
"""
HALVED = "UPDATE kind SET name = 'new'; DELETE FROM rows WHERE id % 2 = 0"
CONTENT = """
    SELECT (SELECT name FROM kind), (SELECT count(*) FROM rows), (SELECT sum(length(t)) FROM rows),
           (SELECT count(*) FROM other), (SELECT count(*) FROM pg_index), (SELECT count(*) FROM pg_constraint)
"""
MEET = "CREATE INDEX big_slow ON big (meets(id)); CREATE INDEX small_slow ON small (meets(id));"
STAY = MEET.replace("meets", "stays")


def early(index: str = "PERFORM public.meets(1)", last: str = "") -> str:
    """An index that may be built before the last row, and a table whose rows come in slowly until that is begun.

    `index` is done by its build, `last` by a row behind. More rows than any buffer holds are still to be sent by then.
    A cast checks them: of a function in a check, it is known that it may need other rows.
    """
    return f"""
    CREATE FUNCTION early_cmp(a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN IF 7 IN (a, b) AND public.ours() THEN {index}; END IF; RETURN btint4cmp(a, b); END $$;
    CREATE OPERATOR CLASS early_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
      OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 early_cmp(int, int);
    CREATE TABLE early (id int); INSERT INTO early SELECT generate_series(1, 100);
    CREATE INDEX early_slow ON early (id early_ops);
    CREATE TYPE come AS (a bool);
    CREATE FUNCTION comes(a int) RETURNS come LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
      IF a % 200 = 0 AND a <= 6000 AND public.ours() AND NOT public.beside(1.5) AND a = 6000 THEN
        RAISE 'nobody is at work beside the rows'; END IF;
      IF a = 6001 AND public.ours() THEN {last or "NULL"}; END IF;
      RETURN ROW(true); END $$;
    CREATE CAST (int AS come) WITH FUNCTION comes(int);
    CREATE TABLE late (id int, t text);
    INSERT INTO late SELECT i, repeat(md5(i::text), 40) FROM generate_series(1, 12000) i;
    ALTER TABLE late ADD CHECK (id::come IS NOT NULL);
    """


# What was right where it was dumped and fails where it is loaded: a function that refuses our sessions, a row that no
# check has seen.
BROKEN = {
    "an index of the bigger table": """
        CREATE FUNCTION broken(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$ BEGIN IF public.ours() THEN PERFORM public.beside(60); RAISE 'broken'; END IF; RETURN a; END $$;
        CREATE INDEX big_broken ON big (broken(id))""",
    "an index of the smaller table": """
        CREATE FUNCTION broken(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$ BEGIN IF public.ours() THEN PERFORM public.beside(60); RAISE 'broken'; END IF; RETURN a; END $$;
        CREATE INDEX small_broken ON small (broken(id))""",
    "an index while rows come in": """
        CREATE FUNCTION broken_cmp(a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$ BEGIN IF public.ours() THEN RAISE 'broken'; END IF; RETURN btint4cmp(a, b); END $$;
        CREATE OPERATOR CLASS broken_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
          OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 broken_cmp(int, int);
        CREATE INDEX big_broken ON big (id broken_ops)""",
    "a foreign key": """
        SET session_replication_role = replica; INSERT INTO small VALUES (99999, 99999, 'x')""",
}


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Sidecar:
    database = server.new_database()
    server.execute(database, MEETING + TABLES)
    return several(Sidecar.make(tmp_path, server, database))


def several(sidecar: Sidecar, jobs: int = 2, size: int = 32 << 20) -> Sidecar:
    """The product's own command line, with sessions for however few rows, each table in parts of `size` bytes."""
    path = sidecar.root.parent / "several.py"
    path.write_text(
        "import sys\nfrom backup.cli import main\nfrom backup.operations import load\n"
        "from backup.postgres.dump.contents import Cutter\n"
        "load.loading.__wrapped__.__kwdefaults__['least'] = 0\nload.sessions_at_once.__defaults__ = (0,)\n"
        f"Cutter.__init__.__defaults__ = (1, {size})\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    sidecar.program = path
    sidecar.environment["BACKUP_LOAD_JOBS"] = str(jobs)
    return sidecar


def created(sidecar: Sidecar) -> None:
    result = sidecar.run("create", "daily", "--only", "database")
    assert result.code == 0, result.output


def restored(sidecar: Sidecar) -> Result:
    return sidecar.run("restore", sidecar.sets()[0].id, "--only", "database", "--force", "--no-safety")


def test_everything_a_database_can_hold_is_proven(any_server: Server, tmp_path: Path) -> None:
    """By one session, as a database of this size is loaded, and by several, which share the rows of large tables."""
    database, prefix = any_server.new_database(), f"many{any_server.major}"
    sample_schema.fill(any_server, database, prefix)
    try:
        sidecar = Sidecar.make(tmp_path, any_server, database)
        created(sidecar)
        for jobs in (1, 2, 4):
            result = sidecar.run("drill", "latest", "--json")
            assert result.code == 0 and result.json["proof"]["differences"] == [], result.output
            nothing_left(sidecar, any_server)
            several(sidecar, jobs, 4096)
            created(sidecar)
    finally:
        sample_schema.drop(any_server, database, prefix)


def test_both_sessions_build_at_the_same_time(target: Sidecar, server: Server) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, MEET)
    created(target)
    result = restored(target)
    assert result.code == 0, result.output
    names = server.value(
        database,
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'i'"
        " AND relnamespace = 'public'::regnamespace",
    )
    assert names == "big_pkey big_slow small_pkey small_slow"
    assert server.value(database, "SELECT convalidated FROM pg_constraint WHERE conname = 'fk'")


def test_an_index_is_built_while_rows_of_another_table_come_in(target: Sidecar, server: Server) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, early())
    created(target)
    for command in ("drill", "restore"):
        result = tried(target, command)
        assert result.code == 0, result.output
    assert server.value(database, "SELECT count(*) FROM pg_index WHERE indexrelid = 'early_slow'::regclass") == 1


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_what_fails_on_either_session_fails_the_whole(target: Sidecar, server: Server, what: str) -> None:
    database = target.environment["DB_NAME"]
    server.execute(database, BROKEN[what] + (";" + MEET if "table" in what else ""))
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


@pytest.mark.parametrize("which", [("big_slow", "small_slow"), ("early_slow",)], ids=" ".join)
def test_a_session_that_is_ended_fails_the_whole(target: Sidecar, server: Server, which: tuple[str, ...]) -> None:
    server.execute(target.environment["DB_NAME"], STAY if len(which) > 1 else early("PERFORM pg_sleep(60)"))
    created(target)
    for index in which:
        with ending(server, index) as done:
            result = restored(target)
        assert result.code != 0 and "does not load" in result.output and done, result.output
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


# While the other is at work for longer than that: on an index, before a view is filled; on rows.
WAITING = {
    "first": early("PERFORM public.meets(1), pg_sleep(2)") + "CREATE MATERIALIZED VIEW seen AS SELECT 1 AS a",
    "second": early(last="PERFORM pg_sleep(2)"),
}


@pytest.mark.parametrize("session", WAITING)
def test_either_session_may_wait_longer_than_the_server_lets_others(
    target: Sidecar, server: Server, session: str
) -> None:
    database = target.environment["DB_NAME"]
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


def test_a_session_that_cannot_be_started_is_done_without(target: Sidecar, server: Server) -> None:
    """Nor any ahead of time."""
    created(target)
    broken(
        target,
        "from backup.docker.engine import Engine\nfrom backup.errors import EngineError\nstart = Engine.start_helper\n"
        "def failing(self, beside, program, arguments, *rest):\n"
        "    if program == 'sh' or any('.2.fifo' in each for each in arguments):\n"
        "        raise EngineError('the engine is full')\n"
        "    return start(self, beside, program, arguments, *rest)\nEngine.start_helper = failing\n",
    )
    for command in ("restore", "drill"):
        result = tried(target, command)
        assert result.code == 0 and "with a session less: the engine is full" in result.output, result.output
        nothing_left(target, server)


# Sessions that were in each other's way; rows that are right only behind those of another table, as the dump has them.
IN_ORDER = {
    "a deadlock": """
        CREATE FUNCTION locked(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
          IF a = 1 AND public.ours() AND public.beside(3) THEN RAISE 'locked' USING ERRCODE = '40P01'; END IF;
          RETURN a; END $$;
        CREATE INDEX big_slow ON big (locked(id));
        CREATE INDEX small_slow ON small (locked(id));""",
    "rows": """
        CREATE TYPE known AS (a bool);
        CREATE FUNCTION known(a int) RETURNS known LANGUAGE sql IMMUTABLE AS
          $$ SELECT ROW(true)::public.known FROM public.big WHERE id = a $$;
        CREATE CAST (int AS known) WITH FUNCTION known(int);
        INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(4001, 4002) i;
        -- What comes first is begun as soon as there is a session; of what waits meanwhile, the heaviest.
        CREATE TABLE ahead AS SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i;
        CREATE TABLE last (id int CHECK (id::known IS NOT NULL), t text);
        INSERT INTO last VALUES (4002, repeat('x', 1000000));""",
}


@pytest.mark.parametrize("what", IN_ORDER)
def test_what_fails_only_beside_others_is_loaded_in_order(target: Sidecar, server: Server, what: str) -> None:
    server.execute(target.environment["DB_NAME"], IN_ORDER[what])
    created(target)
    result = target.run("drill", "latest")
    assert result.code == 0 and "loaded at a second attempt, with one session" in result.output, result.output
    result = restored(target)
    assert result.code == 0, result.output
    nothing_left(target, server)


CHANGED = """
    CREATE TABLE kept (id int, v text); CREATE TABLE looked (id int, n text);
    INSERT INTO kept SELECT i, 'as it was' FROM generate_series(1, 3000) i;
    CREATE FUNCTION of_kept(a int) RETURNS text LANGUAGE sql IMMUTABLE AS
      $$ SELECT v FROM public.kept WHERE id = a $$;
    ALTER TABLE looked ADD g text GENERATED ALWAYS AS (CASE WHEN id > 0 THEN of_kept(id) END) STORED;
    INSERT INTO looked SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i;
    CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v = 'changed'; RETURN NEW; END $$;
    CREATE TRIGGER t BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION change();
"""


def test_neither_triggers_nor_the_order_of_tables_change_what_is_loaded(tmp_path: Path, server: Server) -> None:
    """Where nothing but triggers comes behind the rows, and a column's function needs those of another table."""
    database = server.new_database()
    server.execute(database, CHANGED)
    sidecar = several(Sidecar.make(tmp_path, server, database))
    created(sidecar)
    result = restored(sidecar)
    assert result.code == 0, result.output
    assert server.value(database, "SELECT count(*) FROM kept WHERE v = 'as it was'") == 3000
    assert server.value(database, "SELECT count(*) FROM looked WHERE g = 'as it was'") == 1000


def test_a_drill_that_finds_damaged_contents_says_so_of_the_set(target: Sidecar, server: Server) -> None:
    created(target)
    (contents,) = target.root.glob("daily/*.contents.gz")
    contents.chmod(0o600)
    data = bytearray(contents.read_bytes())
    data[len(data) // 2] ^= 1
    contents.write_bytes(data)
    result = target.run("drill", "latest")
    assert result.code == 40 and "contents.gz" in result.output, result.output
    assert not target.sets()[0].good


def test_rows_that_have_changed_since_they_were_verified_are_not_loaded(target: Sidecar, server: Server) -> None:
    created(target)
    broken(
        target,
        "from backup.errors import IntegrityError\nread = load.read_part\n"
        "def changed(stored, part, progress):\n"
        "    for piece in read(stored, part, progress):\n        yield piece\n"
        "    if part.table:\n        raise IntegrityError('changed')\n"
        "load.read_part = changed\n",
    )
    result = restored(target)
    assert result.code == 50 and "nothing was restored, all is as before: changed" in result.output, result.output
    assert not [name for name in server.databases() if name.startswith(f"{target.environment['DB_NAME']}__")]
    nothing_left(target, server)


# What ends a restore while the helpers of its sessions wait to be told what they run.
ENDS = {
    "refused": ("raise BackupError('the disk is full')", 50),
    "told to end": ("os.kill(os.getpid(), signal.SIGTERM)", 143),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
}


@pytest.mark.parametrize("end", ENDS)
def test_helpers_that_wait_end_with_the_load(target: Sidecar, server: Server, end: str) -> None:
    """Before what was begun is rolled back, which may take long; a killed one's are swept by whoever does that."""
    created(target)
    how, code = ENDS[end]
    broken(
        target,
        "import os, signal, threading\nfrom backup.errors import BackupError\n"
        "from backup.operations.restore import build, commit_rollback\nfrom backup.postgres import waiting_helpers\n"
        "there, start, back = threading.Semaphore(0), waiting_helpers._WaitingHelper.start, commit_rollback.back\n"
        "def started(place, start_helper):\n    start(place, start_helper)\n    there.release()\n"
        "waiting_helpers._WaitingHelper.start = started\n"
        "def ending(*rest):\n    there.acquire() and there.acquire()\n"
        f"    print('both wait', flush=True)\n    {how}\n"
        "build.create_database = ending\n"
        "spool = os.environ['BACKUP_SPOOL_DIR']\n"
        "def backwards(work):\n    print('left:', os.listdir(spool), flush=True)\n    back(work)\n"
        "commit_rollback.back = backwards\n",
    )
    result = restored(target)
    assert result.code == code and "both wait" in result.output, result.output
    if end == "killed":
        assert len(helpers(target)) == len(target.spooled()) == 2
        assert target.run("restore", "--rollback").code == 0
    else:
        assert "left: []" in result.output, result.output
    nothing_left(target, server)


def test_a_signal_while_the_second_session_starts_leaves_nothing(target: Sidecar, server: Server) -> None:
    server.execute(target.environment["DB_NAME"], early())
    created(target)
    broken(
        target,
        "import os, signal, time\nfrom backup.operations import load_sessions\n"
        "class Pool(load_sessions.ThreadPoolExecutor):\n    def submit(self, work, *rest):\n"
        "        found = super().submit(work, *rest)\n        if work is not int:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n            time.sleep(0.01)\n        return found\n"
        "load_sessions.ThreadPoolExecutor = Pool\n",
    )
    for command in ("restore", "drill"):
        result = tried(target, command)
        assert result.code == 143, result.output
        nothing_left(target, server)


def test_killed_at_any_moment_of_a_load_what_is_live_is_whole(tmp_path: Path, server: Server) -> None:
    """SIGKILL while several sessions load; either command ends it. KILLS=50 tries longer."""
    moments, database = seeded(), server.new_database()
    server.execute(database, PARTED)
    old = content(server, database)
    sidecar = several(Sidecar.make(tmp_path, server, database), 4, 1 << 18)
    created(sidecar)
    server.execute(database, HALVED)
    new = content(server, database)
    began = time.monotonic()
    assert restored(sidecar).code == 0
    whole = time.monotonic() - began
    assert content(server, database) == old
    assert sidecar.run("undo", "--force").code == 0
    steps = []
    for number in range(KILLS):
        with sidecar.start("restore", "latest", "--only", "database", "--force", "--no-safety") as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait((number + moments.random()) / KILLS * whole)
            process.kill()
            process.communicate(timeout=30)
        journal = sidecar.root / "state" / "restore.json"
        steps.append(json.loads(journal.read_text())["step"] if journal.exists() else "none")
        if journal.exists():
            assert content(server, database) in (old, new)
            ended = sidecar.run("restore", moments.choice(["--resume", "--rollback"]))
            assert ended.code == 0, ended.output
        found = content(server, database)
        assert found in (old, new), steps
        if found == old:
            assert sidecar.run("undo", "--force").code == 0
    print(steps)
    created(sidecar)
    nothing_left(sidecar, server)
    assert [name for name in server.databases() if name.startswith(f"{database}__")] == kept(sidecar)


def content(server: Server, database: str) -> object:
    with server.connect(database) as connection:
        return connection.execute(CONTENT).fetchone()


def kept(sidecar: Sidecar) -> list[str]:
    """The database that is kept for undo."""
    path = sidecar.root / "state" / "undo.json"
    return [json.loads(path.read_text())["database"]["kept"]] if path.exists() else []


def tried(sidecar: Sidecar, command: str) -> Result:
    return restored(sidecar) if command == "restore" else sidecar.run(command, "latest")


def broken(sidecar: Sidecar, how: str) -> None:
    text = sidecar.program.read_text()
    sidecar.program.write_text(text.replace("sys.exit(", f"{how}sys.exit("))


@contextlib.contextmanager
def ending(server: Server, index: str) -> Iterator[list[int]]:
    """Ends each session that builds this index; the list has something when one was ended."""
    done, ended = threading.Event(), []

    def watch() -> None:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s"
        with server.connect() as connection:
            while not done.wait(0.05):
                ended.extend(connection.execute(query, (f"CREATE INDEX {index} %",)).fetchall())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield ended
    finally:
        done.set()
        thread.join()


def test_a_server_with_hardly_a_connection_left_loads_with_fewer_sessions(tmp_path: Path) -> None:
    """Three are left, eight are wanted. How many sessions meet a full server is chance; that it loads is not."""
    server = start_server(17, "crowded", in_memory=True, command=["-c", "max_connections=12"])
    try:
        database = server.new_database()
        server.execute(database, TABLES)
        sidecar = several(Sidecar.make(tmp_path, server, database), 8, 4096)
        created(sidecar)
        with contextlib.ExitStack() as stack:
            for _ in range(9):
                stack.enter_context(server.connect(database))
            result = restored(sidecar)
        assert result.code == 0, result.output
        assert [server.value(database, f"SELECT count(*) FROM {table}") for table in ("big", "small")] == [4000, 3900]
        nothing_left(sidecar, server)
    finally:
        server.remove()
