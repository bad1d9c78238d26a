"""What is done to whole databases, on every supported server: all or nothing, and never to somebody else's."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backup.errors import BackupError, ConfigError, DropDelayed, IntegrityError, Interrupted, RestoreFailed
from backup.model.manifest import Locale
from backup.postgres import admin, deferred_statements, role_states, row_counts, server, session, swap
from backup.postgres.inspect import inspect, settings_for
from backup.postgres.roles import Roles
from backup.postgres.session import Login
from backup.postgres.swap import Exchange
from tests.support.database import PASSWORD, USER, Server, start_server
from tests.support.faults import eventually
from tests.support.sidecar import Sidecar

MARK = "obcms-backup 0123456789ab 20250101T000000Z-abcdef restore"
_numbers = itertools.count()
HOSTILE = ['li"ve\n; DROP', "a--b%s{}%(x)s", "é" * 31 + "x", "' || 'x", "$$\\", "ALL", "postgres template1"]


def name(text: str) -> sql.Identifier:
    return sql.Identifier(text)


class Site:
    """A live database and a new one beside it, each with a table that says which one it is."""

    def __init__(self, on: Server, live: str = "", new: str = "", kept: str = "") -> None:
        number = next(_numbers)
        self.server = on
        self.live, self.new, self.kept = live or f"live{number}", new or f"new{number}", kept or f"kept{number}"
        self.login = Login(on.address, 5432, USER, self.live, PASSWORD)
        on.new_database(self.live)
        self.fill(self.live, "old")
        self.live_oid = self.oid(self.live)
        self.new_oid = admin.create_database(self.login, self.new, inspect(self.login).locale, MARK)
        self.fill(self.new, "new")
        self.wanted = Exchange(self.live, self.live_oid, self.new_oid, self.kept)

    def fill(self, database: str, what: str) -> None:
        self.server.execute(database, f"CREATE TABLE which AS SELECT '{what}' AS what, i FROM generate_series(1,9) i")

    def oid(self, database: str) -> int:
        found = server.find_database(self.login, database)
        assert found
        return found.oid

    def what(self, database: str) -> str:
        with self.server.connect(database) as connection:
            row = connection.execute("SELECT min(what), count(*) FROM which").fetchone()
        assert row and row[1] == 9
        return str(row[0])

    def remove(self) -> None:
        with self.server.connect() as connection:
            for each in (self.live, self.new, self.kept):
                with contextlib.suppress(psycopg.errors.InvalidCatalogName):
                    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name(each)))


@pytest.fixture
def site(any_server: Server) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(*names: str) -> Site:
        made.append(Site(any_server, *names))
        return made[-1]

    yield make
    for each in made:
        each.remove()


def row(on: Server, database: str) -> tuple[Any, ...]:
    """All that belongs to a database and is not in it, but for its oid and name."""
    with on.connect() as connection:
        found = connection.execute(
            "SELECT pg_get_userbyid(datdba), encoding, datcollate, datctype, datlocprovider, datallowconn,"
            " datconnlimit, shobj_description(d.oid, 'pg_database'),"
            " (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),"
            " (SELECT array_agg((setrole::regrole, setconfig)::text ORDER BY setrole) FROM pg_db_role_setting"
            "  WHERE setdatabase = d.oid), datistemplate FROM pg_database d WHERE datname = %s",
            (database,),
        ).fetchone()
    assert found
    return tuple(found)


def test_two_databases_change_places_and_back_and_again(site: Callable[..., Site]) -> None:
    at = site()
    assert swap.swap_state(at.login, at.wanted) == "before"
    assert 0 < swap.exchange_databases(at.login, at.wanted) < 20
    assert swap.swap_state(at.login, at.wanted) == "after" and swap.exchange_databases(at.login, at.wanted) == 0
    assert at.what(at.live) == "new" and at.oid(at.kept) == at.live_oid
    for _ in range(2):
        undo = Exchange(at.live, at.new_oid, at.live_oid, at.kept)
        redo = Exchange(at.live, at.live_oid, at.new_oid, at.kept)
        for wanted, what in ((undo, "old"), (redo, "new")):
            assert swap.swap_state(at.login, wanted) == "before"
            assert swap.exchange_databases(at.login, wanted) < 2 and at.what(at.live) == what
            with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
                at.server.connect(at.kept)


def half_removed(on: Server, database: str) -> None:
    """As a DROP DATABASE leaves it that was interrupted."""
    on.execute("postgres", f"UPDATE pg_database SET datconnlimit = {server.INVALID} WHERE datname = '{database}'")


@pytest.mark.one_version
def test_what_is_half_removed_becomes_nothing_and_can_be_replaced(site: Callable[..., Site]) -> None:
    at, other = site(), site()
    half_removed(at.server, at.new)
    for tried in (swap.foresee, swap.exchange_databases):
        with pytest.raises(RestoreFailed, match=f"{at.new}' is half removed"):
            tried(at.login, at.wanted)
    assert at.what(at.live) == "old" and swap.swap_state(at.login, at.wanted) == "before"
    half_removed(other.server, other.live)
    with pytest.raises(BackupError, match="cannot connect to invalid database") as caught:
        inspect(other.login)
    assert "half removed" in caught.value.hint and "Use DROP" not in caught.value.message + caught.value.hint
    swap.exchange_databases(other.login, other.wanted)
    assert other.what(other.live) == "new" and row(other.server, other.live)[5:7] == (True, -1)
    assert admin.drop(other.login, other.live_oid, other.kept)
    assert admin.drop_marked(at.login, at.new, MARK)


def test_a_drop_that_the_server_lets_wait_is_left_for_the_next_time(site: Callable[..., Site]) -> None:
    stamp = f"2025{next(_numbers):010}"
    at = site("", "", f"half__before_{stamp}")
    ours = replace(at.login, name="half")
    foreign, whole = f"other__before_{stamp}", f"half__restore_{stamp}"
    swap.exchange_databases(at.login, at.wanted)
    for each in (foreign, whole):
        at.server.new_database(each)
    half_removed(at.server, foreign)
    with at.server.standing_backup() as called:
        told = (
            f"within 1 s, because .* stalled base backup: {called} of {USER} .* half removed, and the next run drops it"
        )
        with pytest.raises(DropDelayed, match=told) as caught:
            admin.drop(ours, at.live_oid, at.kept, patience=1)
        assert "SELECT pg_terminate_backend(" in caught.value.hint
        with pytest.raises(DropDelayed, match=told):
            admin.drop_remains(ours, patience=1)
    assert admin.drop_remains(ours) == [at.kept] and admin.drop_remains(ours) == []
    assert {foreign, whole} < set(at.server.databases())
    for each in (foreign, whole):
        at.server.execute("postgres", f"DROP DATABASE {each}")


def test_a_database_that_was_not_there_gets_its_name(site: Callable[..., Site]) -> None:
    at = site()
    at.server.execute("postgres", f"DROP DATABASE {at.live}")
    wanted = Exchange(at.live, None, at.new_oid, at.kept)
    assert swap.swap_state(at.login, wanted) == "before"
    swap.exchange_databases(at.login, wanted)
    assert swap.swap_state(at.login, wanted) == "after" and at.what(at.live) == "new"
    assert row(at.server, at.live)[5:8] == (True, -1, None)


def test_what_belongs_to_the_database_goes_with_it(site: Callable[..., Site]) -> None:
    at = site()
    role = f"Role {next(_numbers)}"
    at.server.execute(
        "postgres",
        f"""CREATE ROLE "{role}"; ALTER DATABASE {at.live} OWNER TO "{role}"; GRANT "{role}" TO {USER};
        ALTER DATABASE {at.live} IS_TEMPLATE true;
        ALTER DATABASE {at.live} SET search_path TO "$user", 'public', 'with space';
        ALTER DATABASE {at.live} SET obcms.x TO 'it''s \\ {{}} %s'; ALTER DATABASE {at.live} CONNECTION LIMIT 77;
        ALTER ROLE "{role}" IN DATABASE {at.live} SET work_mem TO '7MB';
        COMMENT ON DATABASE {at.live} IS E'it''s "ours" %s\\n{{}}'; REVOKE TEMPORARY ON DATABASE {at.live} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {at.live} TO pg_monitor WITH GRANT OPTION;""",
    )
    before = row(at.server, at.live)
    settings = settings_for(at.login, at.live)
    assert admin.refused_statements(at.login, at.new, settings_for(at.login, at.new), lambda *_: False) == {}
    assert row(at.server, at.new)[7] == MARK and row(at.server, at.new)[9] is None
    swap.exchange_databases(at.login, replace(at.wanted, settings=settings))
    assert row(at.server, at.live) == before
    swap.exchange_databases(at.login, Exchange(at.live, at.new_oid, at.live_oid, at.kept))
    assert row(at.server, at.live) == before
    at.server.execute("postgres", f"ALTER DATABASE {at.kept} IS_TEMPLATE true")
    assert admin.drop(at.login, at.new_oid, at.kept), "what is kept can always be dropped"
    at.server.execute("postgres", f"ALTER DATABASE {at.live} IS_TEMPLATE false")


def test_a_setting_that_fails_leaves_all_as_it_was(site: Callable[..., Site]) -> None:
    at = site()
    before = row(at.server, at.live), row(at.server, at.new)
    broken = replace(at.wanted, settings=(f"ALTER DATABASE {at.live} OWNER TO nobody_at_all;",))
    with pytest.raises(RestoreFailed, match="nobody_at_all.*as it was"):
        swap.exchange_databases(at.login, broken)
    assert (row(at.server, at.live), row(at.server, at.new)) == before and at.what(at.live) == "old"


def test_what_the_server_refuses_is_found_out_and_nothing_of_the_trial_stays(site: Callable[..., Site]) -> None:
    at = site()
    before = row(at.server, at.new)
    trial = [
        f"ALTER DATABASE {at.new} CONNECTION LIMIT 3;",
        f"ALTER DATABASE {at.new} SET timezone TO 'No/Where';",
        f"ALTER DATABASE {at.new} SET no_such_parameter TO '1';",
        f"ALTER DATABASE {at.new} SET work_mem TO '3MB';",
        f"ALTER DATABASE {at.new} OWNER TO nobody_at_all;",
    ]
    found = admin.refused_statements(at.login, at.new, trial, lambda number, _: number > 0)
    assert set(found) == {1, 2, 4} and "No/Where" in found[1] and "nobody_at_all" in found[4]
    with pytest.raises(RestoreFailed, match="nobody_at_all.*as it was"):
        admin.refused_statements(at.login, at.new, trial, lambda number, _: number < 4)
    assert row(at.server, at.new) == before


def test_what_waits_in_a_database_comes_out_as_it_went_in_until_it_is_done(site: Callable[..., Site]) -> None:
    at = site()
    kept = deferred_statements.Deferred(at.login)
    kept.close()
    with deferred_statements.deferred(at.login) as pieces:
        assert pieces is None
    text = bytes(range(256)) * 9000
    for start in range(0, len(text), 70_000):
        kept.write(text[start : start + 70_000])
    kept.close()
    with deferred_statements.deferred(at.login) as pieces:
        assert pieces is not None and b"".join(pieces) == text
    at.server.execute(at.live, deferred_statements.DONE.decode())
    with deferred_statements.deferred(at.login) as pieces:
        assert pieces is None


def test_a_database_is_empty_until_somebody_puts_something_in(any_server: Server) -> None:
    database = any_server.new_database()
    login = Login(any_server.address, 5432, USER, database, PASSWORD)
    any_server.execute(database, "CREATE EXTENSION hstore; CREATE EXTENSION pg_stat_statements; CREATE SCHEMA app")
    assert server.is_empty(login) and not server.is_new(login), "others live on this server"
    for thing in ("TABLE t (a int)", "TYPE kind AS ENUM ('a')", "FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"):
        any_server.execute(database, f"CREATE {thing}")
        assert not server.is_empty(login), thing
        any_server.execute(database, f"DROP {thing.partition(' (')[0].partition(' AS')[0].partition(' RETURNS')[0]}")
    assert server.is_empty(login)
    any_server.execute(database, "SELECT lo_from_bytea(0, 'x')")
    assert not server.is_empty(login)
    assert not server.is_empty(replace(login, name="not_there"))


@pytest.mark.one_version
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names(site: Callable[..., Site], hostile: str) -> None:
    at = site(hostile, server.fitting_name(hostile, "__restore_1"), server.fitting_name(hostile, "__before_1"))
    assert at.login.name == inspect(at.login).name
    swap.exchange_databases(at.login, replace(at.wanted, settings=settings_for(at.login, at.live)))
    assert at.what(hostile) == "new"
    swap.exchange_databases(at.login, Exchange(at.live, at.new_oid, at.live_oid, at.kept))
    assert at.what(hostile) == "old" and admin.drop(at.login, at.new_oid, at.kept)
    assert admin.drop(at.login, at.new_oid, at.kept) is False and at.what(hostile) == "old"


def test_a_storm_of_sessions_sees_the_old_or_the_new_and_never_a_mixture(site: Callable[..., Site]) -> None:
    at = site()
    stop, seen, odd = threading.Event(), list[tuple[float, str]](), list[str]()

    def storm() -> None:
        while not stop.is_set():
            try:
                with at.server.connect(at.live) as connection:
                    for _ in range(3):
                        found = connection.execute("SELECT min(what), max(what), count(*) FROM which").fetchone()
                        assert found
                        if found[0] != found[1] or found[2] != 9:
                            odd.append(str(found))
                        seen.append((time.monotonic(), found[0]))
            except psycopg.OperationalError:
                pass

    crowd = [threading.Thread(target=storm) for _ in range(8)]
    idle = [at.server.connect(at.live) for _ in range(20)]
    [each.start() for each in crowd]
    time.sleep(0.5)
    try:
        window = swap.exchange_databases(at.login, at.wanted)
        ended = time.monotonic()
        time.sleep(0.5)
    finally:
        stop.set()
        [each.join() for each in crowd]
    [each.close() for each in idle]
    assert not odd and window < 20
    assert {what for when, what in seen if when < ended - window - 0.05} == {"old"}
    assert {what for when, what in seen if when > ended + 0.05} == {"new"}


@pytest.mark.one_version
def test_what_is_raised_between_two_statements_leaves_all_as_it_was(site: Callable[..., Site]) -> None:
    at = site()
    statements: list[str] = []
    before = row(at.server, at.live), row(at.server, at.new)

    def stopping(at_number: int) -> Callable[[str], None]:
        count = itertools.count()

        def step(statement: str) -> None:
            statements.append(statement)
            if next(count) == at_number:
                raise Interrupted(signal.SIGTERM)

        return step

    for number in range(6):
        with pytest.raises(Interrupted):
            swap.exchange_databases(at.login, at.wanted, step=stopping(number))
        assert swap.swap_state(at.login, at.wanted) == "before"
        assert (row(at.server, at.live), row(at.server, at.new)) == before and at.what(at.live) == "old"
    swap.exchange_databases(at.login, at.wanted)
    assert at.what(at.live) == "new"


@contextlib.contextmanager
def interrupted(after: float) -> Iterator[None]:
    """The body is told to end, and ends. A signal that came later, after a failure, would end the worker unheard."""

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.one_version
def test_a_signal_while_a_rename_waits_leaves_all_as_it_was(
    site: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    at = site()
    role = f"waits{next(_numbers)}"
    at.server.execute(
        "postgres",
        f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'x'; GRANT {role} TO {USER};"
        f"ALTER DATABASE {at.live} OWNER TO {role}; ALTER DATABASE {at.new} OWNER TO {role};",
    )

    with at.server.connect(at.live) as superuser:
        # Its session cannot be ended by the owner: RENAME waits five seconds for it.
        superuser.execute("SELECT 1")
        with interrupted(1.0):
            swap.exchange_databases(replace(at.login, user=role, password="x"), at.wanted)
        assert at.what(at.live) == "old", "and its lock is free again"
    assert swap.swap_state(at.login, at.wanted) == "before"
    eventually(lambda: not exchange_sessions(at.server))
    assert not caplog.records, "no rollback was tried over a connection that was busy"


KILLED = """
import sys; from backup.postgres import swap; from backup.postgres.session import Login
host, user, password, live, live_oid, new_oid, kept = sys.argv[1:]
login = Login(host, 5432, user, live, password)
print('ready', flush=True)
swap.exchange_databases(login, swap.Exchange(live, int(live_oid), int(new_oid), kept))
"""


@pytest.mark.one_version
def test_a_kill_at_any_moment_leaves_one_whole_database_of_the_name(site: Callable[..., Site]) -> None:
    at, seen = site(), set[str]()
    oids, what = [at.live_oid, at.new_oid], {at.live_oid: "old", at.new_oid: "new"}
    # Until both outcomes were seen; a third one is never.
    for _ in range(30):
        idle = [at.server.connect(at.live) for _ in range(5)]
        arguments = [at.login.host, USER, PASSWORD, at.live, str(oids[0]), str(oids[1]), at.kept]
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        with child:
            assert child.stdout and child.stdout.readline()
            time.sleep(random.uniform(0, 0.25))
            child.kill()
        [each.close() for each in idle]
        wanted = Exchange(at.live, oids[0], oids[1], at.kept)
        deadline = time.monotonic() + 10
        while exchange_sessions(at.server) and time.monotonic() < deadline:
            time.sleep(0.05)
        found = swap.swap_state(at.login, wanted)
        seen.add(found)
        assert at.what(at.live) == what[oids[0] if found == "before" else oids[1]]
        swap.exchange_databases(at.login, wanted)
        assert at.what(at.live) == what[oids[1]]
        oids.reverse()
        if len(seen) == 2:
            break
    assert seen == {"before", "after"}


def exchange_sessions(on: Server) -> list[str]:
    return [each for each in on.sessions() if each.endswith(" exchange")]


@pytest.mark.one_version
def test_sessions_that_cannot_be_ended_leave_all_as_it_was(site: Callable[..., Site]) -> None:
    at = site()
    role = f"owner{next(_numbers)}"
    at.server.execute(
        "postgres",
        f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'x'; GRANT {role} TO {USER};"
        f"ALTER DATABASE {at.live} OWNER TO {role}; ALTER DATABASE {at.new} OWNER TO {role};",
    )
    login = replace(at.login, user=role, password="x")
    before = row(at.server, at.live)
    with at.server.connect(at.live) as superuser:
        superuser.execute("SET application_name = 'somebody'")
        began = time.monotonic()
        with pytest.raises(
            RestoreFailed, match=f"{role} may not end [12] sessions? .*; the database is as it was"
        ) as caught:
            swap.exchange_databases(login, at.wanted)
        assert "pg_signal_backend" in caught.value.hint and time.monotonic() - began < 60
        assert row(at.server, at.live) == before and superuser.execute("SELECT 1").fetchone()
    with psycopg.connect(login.conninfo(), password="x"):
        assert swap.exchange_databases(login, at.wanted) < 20
    assert at.what(at.live) == "new"
    scratch = admin.create_database(login, f"{role}_scratch", inspect(login).locale, MARK)
    assert admin.drop(login, scratch, f"{role}_scratch")


def test_limits_of_a_role_end_no_session_of_ours(any_server: Server) -> None:
    role = f"hurried{next(_numbers)}"
    limits = ["idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout"]
    limits += ["transaction_timeout"] if any_server.major >= 17 else []
    settings = "".join(f"ALTER ROLE {role} SET {limit} = '300ms';" for limit in limits)
    any_server.execute("postgres", f"CREATE ROLE {role} LOGIN PASSWORD 'x'; {settings}")
    login = Login(any_server.address, 5432, role, "postgres", "x")
    for limit in (0, 60):
        with session.connected(login, "test", limit=limit) as connection:
            assert connection.execute("SELECT 7 FROM pg_sleep(0.6)").fetchone() == (7,)
            time.sleep(0.6)
            with connection.transaction():
                connection.execute("SELECT 1")
                time.sleep(0.6)
                assert connection.execute("SELECT 8").fetchone() == (8,)


def test_a_role_that_may_not_create_says_so(any_server: Server) -> None:
    role = f"poor{next(_numbers)}"
    any_server.execute("postgres", f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    login = Login(any_server.address, 5432, role, "postgres", "x")
    with pytest.raises(RestoreFailed, match="may not create databases") as caught:
        admin.create_database(login, f"{role}_x", Locale(encoding="UTF8", collate="C", ctype="C"), MARK)
    assert "CREATEDB" in caught.value.hint


@pytest.mark.one_version
def test_somebody_elses_renaming_is_never_built_upon(site: Callable[..., Site]) -> None:
    at = site()
    at.server.execute("postgres", f"ALTER DATABASE {at.new} RENAME TO {at.kept}_else")
    assert swap.swap_state(at.login, at.wanted) == "before", "the new one is known by its oid"
    at.server.execute("postgres", f"ALTER DATABASE {at.live} RENAME TO {at.kept}")
    assert swap.swap_state(at.login, at.wanted) == "neither"
    with pytest.raises(RestoreFailed, match=str(at.new_oid)):
        swap.exchange_databases(at.login, at.wanted)
    at.server.execute("postgres", f"ALTER DATABASE {at.kept}_else RENAME TO {at.new}")


def test_prepared_transactions_and_active_slots_are_named() -> None:
    on = start_server(
        17, "prepared", in_memory=True, command=["-c", "max_prepared_transactions=5", "-c", "wal_level=logical"]
    )
    try:
        at = Site(on)
        on.execute(at.live, "BEGIN; CREATE TABLE t (a int); PREPARE TRANSACTION E'p\n1'")
        with pytest.raises(RestoreFailed, match=r"1 prepared transaction: p\\n1; it cannot be renamed.*as it was"):
            swap.exchange_databases(at.login, at.wanted)
        on.execute(at.live, "ROLLBACK PREPARED E'p\n1'")
        on.execute(at.live, "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
        assert swap.exchange_databases(at.login, at.wanted) < 20
        on.execute("postgres", f"ALTER DATABASE {at.kept} ALLOW_CONNECTIONS true")
        receive = ["pg_recvlogical", "-U", USER, "-d", at.kept, "--slot=slot", "--start", "--file=/dev/null"]
        on.container.exec_run([*receive, "-o", "proto_version=1", "-o", "publication_names=p"], detach=True)
        deadline = time.monotonic() + 10
        while not on.value("postgres", "SELECT active FROM pg_replication_slots") and time.monotonic() < deadline:
            time.sleep(0.1)
        with pytest.raises(RestoreFailed, match="1 active replication slot: slot; it cannot be dropped"):
            admin.drop(at.login, at.live_oid, at.kept)
        # The slot stays with the database it is of, and its reader does not keep that from being exchanged.
        assert swap.exchange_databases(at.login, Exchange(at.live, at.new_oid, at.live_oid, at.kept)) < 20
    finally:
        on.remove()


def test_a_subscription_is_named(site: Callable[..., Site]) -> None:
    at = site()
    with at.server.connect(at.new) as connection:
        connection.execute("CREATE SUBSCRIPTION s1 CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)")
    with pytest.raises(RestoreFailed, match="1 subscription: s1; it cannot be dropped"):
        admin.drop(at.login, at.new_oid, at.new)
    at.server.execute(at.new, "ALTER SUBSCRIPTION s1 SET (slot_name = NONE)")
    at.server.execute(at.new, "DROP SUBSCRIPTION s1")
    assert admin.drop(at.login, at.new_oid, at.new)


@pytest.mark.one_version
def test_only_what_is_marked_is_dropped(site: Callable[..., Site]) -> None:
    at = site()
    assert admin.drop_marked(at.login, at.live, MARK) is False
    assert admin.drop_marked(at.login, at.new, MARK + "x") is False
    with at.server.connect() as connection:
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS 'mine'").format(name(at.new)))
    assert admin.drop_marked(at.login, at.new, MARK) is False, "somebody has made it theirs"
    with at.server.connect() as connection:
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(name(at.new)))
    assert admin.drop_marked(at.login, at.new, MARK), "killed before the comment: its limit is the mark"
    assert admin.drop_marked(at.login, at.new, MARK) is False
    with pytest.raises(RestoreFailed, match="was not dropped"):
        admin.drop(at.login, at.live_oid, at.live)
    with pytest.raises(RestoreFailed, match="was not dropped"):
        admin.drop(at.login, at.live_oid, at.new)
    assert at.what(at.live) == "old"


@pytest.mark.one_version
def test_what_was_swapped_in_can_no_longer_be_dropped_by_its_mark(site: Callable[..., Site]) -> None:
    at = site()
    swap.exchange_databases(at.login, at.wanted)
    for each in (at.live, at.kept):
        assert admin.drop_marked(at.login, each, MARK) is False
    assert at.what(at.live) == "new"


def test_a_database_with_sessions_is_dropped(site: Callable[..., Site]) -> None:
    at = site()
    with at.server.connect(at.new) as connection:
        assert admin.drop_marked(at.login, at.new, MARK)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


@pytest.mark.one_version
def test_a_name_that_is_taken_is_left_alone(site: Callable[..., Site]) -> None:
    at = site()
    with pytest.raises(RestoreFailed, match="is there already"):
        admin.create_database(at.login, at.live, None, MARK)
    with pytest.raises(ValueError, match="63 bytes"):
        admin.create_database(at.login, "é" * 32, None, MARK)
    assert at.what(at.live) == "old"


LOCALES = [
    Locale(encoding="UTF8", collate="xx_YY.utf8", ctype="C"),
    Locale(encoding="UTF8", collate="C", ctype="C", provider="i", locale="xx@@foo=,"),
    Locale(encoding="LATIN1", collate="en_US.utf8", ctype="en_US.utf8"),
    Locale(encoding="KLINGON", collate="C", ctype="C"),
    Locale(encoding="UTF8", collate="C", ctype="C", provider="b", locale="no_NO"),
]


@pytest.mark.parametrize("locale", LOCALES, ids=lambda each: f"{each.provider}-{each.encoding}-{each.collate}")
def test_a_locale_that_the_server_lacks_is_named(any_server: Server, locale: Locale) -> None:
    login = Login(any_server.address, 5432, USER, "postgres", PASSWORD)
    with pytest.raises(ConfigError, match="cannot make a database of encoding") as caught:
        admin.create_database(login, f"x{next(_numbers)}", locale, MARK)
    assert (locale.locale or locale.collate) in caught.value.message and "locale" in caught.value.hint


def test_a_database_is_made_like_another(any_server: Server) -> None:
    kinds = [
        "LOCALE_PROVIDER icu ICU_LOCALE 'de' LOCALE 'C'",
        "ENCODING 'LATIN1' LOCALE 'C'",
        "ENCODING 'SQL_ASCII' LOCALE 'C'",
    ]
    if any_server.major >= 17:
        kinds += ["LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'de_DE.utf8'"]
        kinds += ["LOCALE_PROVIDER icu ICU_LOCALE 'en' ICU_RULES '&a < ''b''' LOCALE 'C'"]
    for kind in kinds:
        one, two = f"like{next(_numbers)}", f"like{next(_numbers)}"
        any_server.execute("postgres", f"CREATE DATABASE {one} TEMPLATE template0 {kind}")
        login = Login(any_server.address, 5432, USER, one, PASSWORD)
        facts = inspect(login)
        admin.create_database(login, two, facts.locale, MARK)
        found = server.find_database(login, two)
        assert found and found.locale == facts.locale == inspect(replace(login, name=two)).locale
        assert facts.bootstrap == USER
        any_server.execute("postgres", f"DROP DATABASE {one}")
        assert admin.drop_marked(login, two, MARK) is (one == login.name)


def test_a_database_is_made_in_its_tablespace_if_it_may_be(any_server: Server) -> None:
    role, made = f"place{next(_numbers)}", [f"in{next(_numbers)}" for _ in range(3)]
    with any_server.connect() as connection:
        connection.execute(f"SET allow_in_place_tablespaces = on; CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'x'")
        connection.execute(f"CREATE TABLESPACE {role} LOCATION ''")
    login = Login(any_server.address, 5432, USER, "postgres", PASSWORD)
    other = replace(login, user=role, password="x")
    places = []
    for database, who, place in zip(made, (login, other, other), (role, role, "pg_default"), strict=True):
        admin.create_database(who, database, None, MARK, place)
        found = server.find_database(login, database)
        assert found
        places.append(found.tablespace)
        assert admin.drop_marked(login, database, MARK)
    assert places == [role, "pg_default", "pg_default"]
    any_server.execute("postgres", f"DROP TABLESPACE {role}")


def test_rows_are_counted_by_the_names_of_the_dump(site: Callable[..., Site]) -> None:
    at = site()
    at.server.execute(
        at.live,
        """CREATE TABLE "odd ""n"".{} %s" (a int); INSERT INTO "odd ""n"".{} %s" VALUES (1), (2);
        CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent); INSERT INTO child VALUES (1);
        SELECT lo_from_bytea(0, 'x');""",
    )
    odd = 'public."odd ""n"".{} %s"'
    tables = [odd, "public.parent", "public.child", "public.gone", "nowhere.x", *["public.which"] * 150]
    found, objects = row_counts.count_rows(at.login, tables)
    assert found == {odd: 2, "public.parent": 0, "public.child": 1, "public.which": 9} and objects == 1
    with pytest.raises(IntegrityError):
        row_counts.count_rows(at.login, ["pg_class; DROP TABLE which"])


@pytest.mark.one_version
@pytest.mark.parametrize("busy", [0.0, 30.0])
def test_a_signal_ends_the_work_on_the_server_too(site: Callable[..., Site], busy: float) -> None:
    at = site()
    at.server.execute(
        at.live,
        f"""CREATE TABLE slow AS SELECT generate_series(1, 1000) a;
        CREATE FUNCTION nap(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
            IF current_setting('statement_timeout') <> '0' THEN RAISE 'limited'; END IF;
            PERFORM pg_sleep(0.2); RETURN $1; END $$;
        CREATE STATISTICS st ON (nap(a)) FROM slow; ALTER DATABASE {at.live} SET statement_timeout = '1s'""",
    )

    started = time.monotonic()
    with interrupted(2.0), row_counts.analyzing(at.login):
        time.sleep(busy)
    assert 1.5 < time.monotonic() - started < 60, "and the statement timeout of the database does not apply"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and at.server.sessions():
        time.sleep(0.05)
    assert not [each for each in at.server.sessions() if "analyze" in each]


def test_the_server_says_what_a_plan_needs(site: Callable[..., Site]) -> None:
    at = site()
    with at.server.connect(at.live) as one, at.server.connect(at.live):
        one.execute("SET application_name = 'the app'")
        found = {each.application: each for each in server.sessions(at.login, at.live)}
    assert found["the app"].count == 1 and found["the app"].user == USER and found["the app"].address
    assert server.roles(at.login)[USER] is True and server.roles(at.login)["pg_monitor"] is False
    assert server.extensions_available(at.login)["plpgsql"] == "1.0"
    assert server.databases(at.login)[at.live_oid] == at.live
    database = server.find_database(at.login, at.live)
    assert database and database.size > 5_000_000 and database.owner == USER
    assert server.find_database(at.login, "not there") is None


def test_a_roles_file_brings_back_what_is_missing_and_changes_nothing_else(any_server: Server, tmp_path: Path) -> None:
    database = any_server.new_database()
    number = next(_numbers)
    odd, plain, boss = f"Odd{number} \"x\" 'y'\n; -- \\ $a$", f"plain{number}", f"boss{number}"
    quoted = odd.replace('"', '""')
    any_server.execute(
        database,
        f"""CREATE ROLE {plain} LOGIN PASSWORD 'a;''b'; CREATE ROLE "{quoted}" CREATEDB; CREATE ROLE {boss} CREATEROLE;
        COMMENT ON ROLE "{quoted}" IS E'x\\n\\\\restrict a\\n\\''; GRANT pg_monitor TO "{quoted}";
        ALTER ROLE "{quoted}" SET search_path TO 'a;', '"$user"'; GRANT {plain} TO {boss} WITH ADMIN OPTION;
        SET ROLE {boss}; GRANT {plain} TO "{quoted}"; RESET ROLE; GRANT SET ON PARAMETER work_mem TO "{quoted}";
        ALTER DATABASE {database} OWNER TO "{quoted}";
        ALTER ROLE {plain} IN DATABASE {database} SET work_mem = '7MB'""",
    )
    assert Sidecar.make(tmp_path, any_server, database).run("create", "daily").code == 0
    (file,) = (tmp_path).rglob("obcms_roles_*.sql.gz")
    roles = Roles.parse(gzip.decompress(file.read_bytes()).decode())
    login = Login(any_server.address, 5432, USER, database, PASSWORD)
    assert {odd, plain, boss, USER} <= set(roles.names) and roles.missing(server.roles(login)) == []
    assert role_states.differing(roles, Roles.parse(server.role_statements(login))) == {}

    def all_roles() -> list[str]:
        dumped = any_server.container.exec_run(["pg_dumpall", "-U", USER, "--roles-only"]).output.decode()
        return sorted(line for line in dumped.splitlines() if "restrict" not in line)

    before = all_roles()
    any_server.execute(
        database,
        f"""ALTER DATABASE {database} OWNER TO {USER}; REVOKE SET ON PARAMETER work_mem FROM "{quoted}";
        REVOKE {plain} FROM "{quoted}" GRANTED BY {boss}; DROP ROLE "{quoted}"; ALTER ROLE {plain} PASSWORD 'new'""",
    )
    changed = any_server.value("postgres", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{plain}'")
    assert roles.missing(server.roles(login)) == [odd]
    admin.apply_settings(login, database, roles.script(server.roles(login), USER))
    assert any_server.value("postgres", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{plain}'") == changed
    differing = set(before) ^ set(all_roles())
    # The password of one that exists is as it was now; who granted what to it could not be told.
    assert all(line.startswith((f"ALTER ROLE {plain} WITH", f"GRANT {plain} TO", "; -- ")) for line in differing), (
        differing
    )
    target = any_server.new_database()
    admin.apply_settings(login, target, roles.database_settings(database, target))
    assert row(any_server, target)[0] == odd and "7MB" in str(row(any_server, target)[9])


@pytest.mark.one_version
def test_no_database_to_work_from_is_a_clear_failure(any_server: Server) -> None:
    login = Login(any_server.address, 5432, USER, "x", "canary-wrong")
    with pytest.raises(BackupError, match="'postgres' at .*'template1' at") as caught:
        server.databases(login)
    assert "canary" not in caught.value.message
