"""Exchange two databases: one takes the other's name, in one transaction. What is killed at any point did not happen.

Logins wait meanwhile (`login_lock`), and sessions are ended from beside. So connections are never forbidden to the live
database, nobody is told that it does not exist, and a kill leaves nothing to put right.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import psycopg
from psycopg import sql

from backup.errors import BackupError, RestoreFailed
from backup.formatting import listed, plural, printable
from backup.postgres import login_lock
from backup.postgres.admin import require_unheld, run_statements
from backup.postgres.server import Database, failing, maintenance, query_database, require_whole_name
from backup.postgres.session import APPLICATION, Login, cancelled, server_message

# For sessions that are slow to end; a storm of new ones cannot get past the lock.
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.01
# Between two tries: those who were let through get past.
_BETWEEN: Final = 0.05
# Autovacuum's own workers are ended by RENAME itself. Who is still logging in is let in first: a pooler that is refused
# a login keeps that answer for a while. The view would read pg_database, which is locked.
_ENDED: Final = """
    SELECT pid, coalesce(pg_get_userbyid(usesysid), backend_type, ''), coalesce(application_name, '')
      FROM pg_stat_get_activity(NULL)
     WHERE datid = ANY(%s::bigint[]::oid[]) AND coalesce(backend_type, '') <> 'autovacuum worker'
       AND (backend_type <> 'client backend' OR coalesce(state, 'starting') <> 'starting'
            OR backend_start < clock_timestamp() - interval '1s') IS NOT FALSE"""
_IN_THE_WAY: Final = (
    psycopg.errors.ObjectInUse,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
)
SwapState = Literal["before", "after", "neither"]


@dataclass(frozen=True)
class Exchange:
    """`other_oid` gets the name `live`; `live_oid`, which has it (None: no database has it), gets the name `kept`.

    `settings` are statements for a database called `live`, run on the new one in the same breath.
    """

    live: str
    live_oid: int | None
    other_oid: int
    kept: str
    settings: tuple[str, ...] = field(default=(), repr=False)


def swap_state(login: Login, wanted: Exchange) -> SwapState:
    """Whether the exchange has yet to happen, has happened, or neither: then somebody else has renamed or dropped."""
    with maintenance(login, "state", (wanted.live, wanted.kept)) as connection:
        return _state(connection, wanted)


def foresee(login: Login, wanted: Exchange) -> None:
    """RestoreFailed when it could not happen now. Nothing is touched."""
    with maintenance(login, "foresee", (wanted.live, wanted.kept)) as connection:
        if _state(connection, wanted) == "neither":
            raise _neither(connection, wanted)
        _both(connection, wanted)


def exchange_databases(
    login: Login,
    wanted: Exchange,
    *,
    step: Callable[[str], None] = lambda statement: None,
    patience: float = login_lock.PATIENCE,
) -> float:
    """Let it happen; the seconds in which the live name could not be entered. 0.0 when it had happened already.

    `patience` is for those who keep us from making logins wait. `step` is called before each statement of the
    transaction, with it. The new one takes from the one it replaces the connection limit, whether connections are
    allowed, and whether it is a template; connections to that one are forbidden from then on. RestoreFailed when it did
    not happen: then all is as it was, but that sessions were ended.
    """
    require_whole_name(wanted.live)
    require_whole_name(wanted.kept)
    with maintenance(login, "exchange", (wanted.live, wanted.kept)) as connection, failing(login, wanted.live):
        now = _state(connection, wanted)
        if now == "after":
            return 0.0
        if now == "neither":
            raise _neither(connection, wanted)
        other, live = _both(connection, wanted)
        ender = _Ender(login, [each for each in (live, other) if each])
        # Its own login would wait for what we hold.
        with ender.at_hand():
            waiting = login_lock.Waiting(connection, ender.oids, patience)
            return _until_done(connection, wanted, (other, live), ender, waiting, step)


def _until_done(
    connection: psycopg.Connection[Any],
    wanted: Exchange,
    both: tuple[Database, Database | None],
    ender: _Ender,
    waiting: login_lock.Waiting,
    step: Callable[[str], None],
) -> float:
    """Try until it has happened; the seconds since sessions were ended, or kept waiting, for the first time."""
    begun = time.monotonic()
    while True:
        try:
            with connection.transaction(), cancelled(connection):
                # Told is done: also where the server is set to answer before its disk has it.
                connection.execute("SET LOCAL synchronous_commit = on")
                waiting.begin(ender.ending if waiting.hindered else contextlib.nullcontext)
                connection.execute("SET LOCAL lock_timeout = '10s'")
                # Once both are renamed nobody is in them; later its aim could be somebody who has just come back.
                with ender.ending():
                    waiting.settle()
                    _each(connection, _renames(wanted, *both), step)
                _each(connection, _settings(wanted, *both), step)
            return time.monotonic() - min(waiting.since, ender.first)
        except login_lock.Again:
            pass
        except psycopg.errors.QueryCanceled as error:
            waiting.give_up(error)
        except _IN_THE_WAY as error:
            if ender.refused or time.monotonic() - begun > _PATIENCE:
                raise _in_use(ender.login, wanted, ender.refused, error) from None
        time.sleep(_BETWEEN)


def _both(connection: psycopg.Connection[Any], wanted: Exchange) -> tuple[Database, Database | None]:
    other = query_database(connection, oid=wanted.other_oid)
    live = query_database(connection, oid=wanted.live_oid) if wanted.live_oid else None
    if other is None:
        raise _neither(connection, wanted)
    if other.half_removed:
        raise RestoreFailed(
            f"database {printable(other.name)!r} is half removed, because a DROP DATABASE of it was interrupted, and"
            f" cannot become {printable(wanted.live)!r}; nothing was changed"
        )
    for each in filter(None, (other, live)):
        require_unheld(connection, each, rename=True)
    return other, live


def _each(connection: psycopg.Connection[Any], statements: Iterable[str], step: Callable[[str], None]) -> None:
    for statement in statements:
        step(statement)
        run_statements(connection, [statement])


def _renames(wanted: Exchange, other: Database, live: Database | None) -> Iterator[str]:
    if live is None:
        yield _rename(other.name, wanted.live)
    else:
        # The name that it is to have may be the one that the other has now.
        between = f"obcms_backup_{live.oid}" if other.name == wanted.kept else wanted.kept
        yield _rename(live.name, between)
        yield _rename(other.name, wanted.live)
        if between != wanted.kept:
            yield _rename(between, wanted.kept)


def _settings(wanted: Exchange, other: Database, live: Database | None) -> Iterator[str]:
    if live and live.half_removed:
        # Nobody can enter it, and nothing of it can be altered.
        live = None
    if live:
        yield _alter(wanted.kept, "ALLOW_CONNECTIONS", False)
    yield _alter(wanted.live, "ALLOW_CONNECTIONS", live.allow_connections if live else True)
    yield _alter(wanted.live, "CONNECTION LIMIT", live.connection_limit if live else -1)
    if live and live.template:
        # A template cannot be dropped.
        yield _alter(wanted.kept, "IS_TEMPLATE", False)
        yield _alter(wanted.live, "IS_TEMPLATE", True)
    if other.comment.startswith(APPLICATION):
        # Its mark says that it may be dropped.
        yield sql.SQL("COMMENT ON DATABASE {} IS NULL").format(sql.Identifier(wanted.live)).as_string()
    yield from wanted.settings


def _rename(old: str, new: str) -> str:
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)).as_string()


def _alter(name: str, option: str, value: bool | int) -> str:
    parts = sql.Identifier(name), sql.SQL(option), sql.Literal(value)
    return sql.SQL("ALTER DATABASE {} {} {}").format(*parts).as_string()


class _Ender:
    """Ends the sessions in databases, again and again, in a thread, while it is told to. `first` is when it began."""

    def __init__(self, login: Login, targets: Iterable[Database]) -> None:
        self.login, self._targets = login, list(targets)
        self.oids = [each.oid for each in self._targets]
        self._ready, self._told, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self.refused: dict[int, str] = {}
        self.first = math.inf

    @contextlib.contextmanager
    def at_hand(self) -> Iterator[None]:
        """In the body its connection is open."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            self._ready.wait()
            yield
        finally:
            self._stop.set()
            self._told.set()
            thread.join()

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """In the body sessions are being ended; behind it, none is."""
        self.first = min(self.first, time.monotonic())
        self._told.set()
        try:
            yield
        finally:
            with self._ending:
                self._told.clear()

    def _run(self) -> None:
        besides = [each.name for each in self._targets]
        # A session that could not be opened is no help; RENAME says who is in its way.
        with contextlib.suppress(BackupError):
            with maintenance(self.login, "exchange", besides) as connection:
                self._ready.set()
                while self._told.wait() and not self._stop.is_set():
                    with self._ending:
                        if self._told.is_set():
                            self._end(connection)
                    self._stop.wait(_PAUSE)
        self._ready.set()

    def _end(self, connection: psycopg.Connection[Any]) -> None:
        for pid, user, application in connection.execute(_ENDED, (self.oids,)).fetchall():
            try:
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            except psycopg.errors.InsufficientPrivilege:
                self.refused[pid] = f"{user} {application}".strip()


def _state(connection: psycopg.Connection[Any], wanted: Exchange) -> SwapState:
    names: dict[int, str] = dict(connection.execute("SELECT oid::bigint, datname FROM pg_database").fetchall())
    other, holder = names.get(wanted.other_oid), next((o for o, n in names.items() if n == wanted.live), None)
    if other is None:
        return "neither"
    if other == wanted.live:
        # The one that was replaced may have been dropped since.
        return "after" if wanted.live_oid is None or names.get(wanted.live_oid) in (wanted.kept, None) else "neither"
    taken = next((oid for oid, name in names.items() if name == wanted.kept), None)
    return "before" if holder == wanted.live_oid and taken in (None, wanted.other_oid) else "neither"


def _neither(connection: psycopg.Connection[Any], wanted: Exchange) -> RestoreFailed:
    oids = [oid for oid in (wanted.live_oid, wanted.other_oid) if oid]
    found = connection.execute(
        "SELECT oid::bigint, datname FROM pg_database WHERE datname = ANY(%s) OR oid = ANY(%s::bigint[]::oid[])",
        ([wanted.live, wanted.kept], oids),
    ).fetchall()
    now = ", ".join(f"{oid} {printable(name)!r}" for oid, name in found) or "none of them"
    return RestoreFailed(
        f"databases were renamed or dropped meanwhile: {wanted.other_oid} was to become {printable(wanted.live)!r},"
        f" and {wanted.live_oid or 'none'} {printable(wanted.kept)!r}, but there are {now}. Nothing was changed",
        "`psql -l` shows all databases. Rename them back by hand (ALTER DATABASE … RENAME TO …), then run this again.",
    )


def _in_use(login: Login, wanted: Exchange, refused: dict[int, str], error: psycopg.Error) -> RestoreFailed:
    if refused:
        who = listed(sorted(set(refused.values())))
        return RestoreFailed(
            f"{printable(login.user)} may not end {plural(len(refused), 'session')} of others in"
            f" {printable(wanted.live)!r} ({who}); the database is as it was",
            f"Stop what is connected, or as a superuser: GRANT pg_signal_backend TO {printable(login.user)}"
            " (sessions of superusers can be ended by superusers only).",
        )
    return RestoreFailed(
        f"sessions in {printable(wanted.live)!r} did not end within {_PATIENCE:.0f} s, although the server was asked to"
        f" end them: {server_message(error)}; the database is as it was",
        "Stop what is connected to it (`restore` lists who), then run this again.",
    )
