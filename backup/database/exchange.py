"""Exchange two databases: one takes the other's name, in one transaction. What is killed at any point did not happen.

While RENAME waits for the sessions in a database to end, it holds the lock that new ones need; they are ended from
beside it. So connections are never forbidden to the live database, and a kill leaves nothing to put right.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import psycopg
from psycopg import sql

from backup.database.admin import held, run
from backup.database.server import Database, checked, failing, look, maintenance
from backup.database.session import APPLICATION, Login, cancelled
from backup.errors import BackupError, RestoreFailed
from backup.text import plural, printable

# For sessions that are slow to end; a storm of new ones cannot get past the lock.
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.02
_PASSING: Final = f"{APPLICATION} exchange"
Names = Literal["before", "after", "neither"]


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


def state(login: Login, wanted: Exchange) -> Names:
    """Whether the exchange has yet to happen, has happened, or neither: then somebody else has renamed or dropped."""
    with maintenance(login, "state", (wanted.live, wanted.kept)) as connection:
        return _state(connection, wanted)


def exchange(login: Login, wanted: Exchange, *, step: Callable[[str], None] = lambda statement: None) -> float:
    """Let it happen; the seconds in which the live name could not be entered. 0.0 when it had happened already.

    `step` is called before each statement of the transaction, with it. The new one takes the connection limit and
    whether connections are allowed from the one it replaces; connections to that one are forbidden from then on.
    RestoreFailed when it did not happen: then all is as it was, but that sessions were ended.
    """
    checked(wanted.live)
    checked(wanted.kept)
    with maintenance(login, "exchange", (wanted.live, wanted.kept)) as connection, failing(login, wanted.live):
        now = _state(connection, wanted)
        if now == "after":
            return 0.0
        if now == "neither":
            raise _neither(connection, wanted)
        other, live = _both(connection, wanted)
        begun = time.monotonic()
        while True:
            ender = _Ender(login, [each for each in (live, other) if each])
            try:
                with connection.transaction(), cancelled(connection):
                    connection.execute("SET LOCAL lock_timeout = '10s'")
                    # Told is done: also where the server is set to answer before its disk has it.
                    connection.execute("SET LOCAL synchronous_commit = on")
                    # Once both are renamed nobody is in them; later its aim could be somebody who has just come back.
                    with ender.running():
                        _each(connection, _renames(wanted, other, live), step)
                    _each(connection, _settings(wanted, other, live), step)
                return time.monotonic() - ender.first
            except (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable) as error:
                if ender.refused or time.monotonic() - begun > _PATIENCE:
                    raise _in_use(login, wanted, ender.refused, error) from None


def _both(connection: psycopg.Connection[Any], wanted: Exchange) -> tuple[Database, Database | None]:
    other = look(connection, oid=wanted.other_oid)
    live = look(connection, oid=wanted.live_oid) if wanted.live_oid else None
    if other is None:
        raise _neither(connection, wanted)
    for each in filter(None, (other, live)):
        held(connection, each, rename=True)
    return other, live


def _each(connection: psycopg.Connection[Any], statements: Iterable[str], step: Callable[[str], None]) -> None:
    for statement in statements:
        step(statement)
        run(connection, [statement])


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
    if live:
        yield _allow(wanted.kept, False)
    yield _allow(wanted.live, live.allow_connections if live else True)
    limit = live.connection_limit if live else -1
    yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(sql.Identifier(wanted.live), limit).as_string()
    if other.comment.startswith(APPLICATION):
        # Its mark says that it may be dropped.
        yield sql.SQL("COMMENT ON DATABASE {} IS NULL").format(sql.Identifier(wanted.live)).as_string()
    yield from wanted.settings


def _rename(old: str, new: str) -> str:
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)).as_string()


def _allow(name: str, allowed: bool) -> str:
    return sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), allowed).as_string()


class _Ender:
    """Ends the sessions in databases, again and again, in a thread, until it is stopped. `first` is when it began."""

    def __init__(self, login: Login, targets: Iterable[Database]) -> None:
        self._login, self._targets = login, list(targets)
        self._stop = threading.Event()
        self._ready = threading.Event()
        self.refused: dict[int, str] = {}
        self.first = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """In the body sessions are being ended."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            self._ready.wait()
            self.first = time.monotonic()
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        besides = [each.name for each in self._targets]
        # A session that could not be opened is no help; RENAME says who is in its way.
        with contextlib.suppress(BackupError):
            with maintenance(self._login, "exchange", besides) as connection:
                self._ready.set()
                while not self._stop.wait(_PAUSE):
                    self._end(connection)
        self._ready.set()

    def _end(self, connection: psycopg.Connection[Any]) -> None:
        # Autovacuum's own workers are ended by RENAME itself.
        found = connection.execute(
            "SELECT pid, coalesce(usename, backend_type, ''), coalesce(application_name, '') FROM pg_stat_activity"
            " WHERE datid = ANY(%s::bigint[]::oid[]) AND coalesce(backend_type, '') <> 'autovacuum worker'",
            ([each.oid for each in self._targets],),
        ).fetchall()
        for pid, user, application in found:
            try:
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            except psycopg.errors.InsufficientPrivilege:
                self.refused[pid] = f"{user} {application}".strip()


def _state(connection: psycopg.Connection[Any], wanted: Exchange) -> Names:
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
        who = ", ".join(sorted({printable(name) for name in refused.values()})[:5])
        return RestoreFailed(
            f"{printable(login.user)} may not end {plural(len(refused), 'session')} of others in"
            f" {printable(wanted.live)!r} ({who}); the database is as it was",
            f"Stop what is connected, or as a superuser: GRANT pg_signal_backend TO {printable(login.user)}"
            " (sessions of superusers can be ended by superusers only).",
        )
    return RestoreFailed(
        f"sessions in {printable(wanted.live)!r} did not end within {_PATIENCE:.0f} s, although the server was asked to"
        f" end them: {printable(' '.join(str(error).split()))}; the database is as it was",
        "Stop what is connected to it (`restore` lists who), then run this again.",
    )
