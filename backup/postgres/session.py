"""Sessions with a database server that cannot hang, and its errors in plain words."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from backup.errors import BackupError, ConfigError, DatabaseNotYet, DatabaseUnavailable
from backup.formatting import printable
from backup.postgres.client_errors import hint_for
from backup.postgres.session_settings import (
    EVENT_TRIGGERS,
    MOST_RIGHTS,
    PRIVILEGED,
    WHERE_ALLOWED,
    Standing,
    connection_options,
)

_CONNECT_TIMEOUT: Final = 10
# For all questions of one connection together; longer than the server's own limit of one.
_SILENCE: Final = 90.0
_LIMIT: Final = 60.0
# Work without a limit: so often the server is asked whether it answers at all, and so often in vain before we hang up.
_ASK: Final = 30.0
_UNANSWERED: Final = 3
APPLICATION: Final = "obcms-backup"
# Nobody else's functions and operators are taken for the server's.
SAFE_PATH: Final = "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)"
# What could not be known to be there, or to be allowed, before the session began.
_PIN: Final = """
    SELECT name, set_config(name, %s::jsonb ->> name, false) FROM pg_settings
     WHERE name = ANY(%s) AND (context = 'user' OR has_parameter_privilege(name, 'SET'))"""
_GRANTED: Final = "SELECT name FROM pg_settings WHERE name = ANY(%s) AND has_parameter_privilege(name, 'SET')"
# Seconds for which one is used again for other questions: the last of them is to have time, too.
_KEPT_FOR: Final = 15.0
# Sessions that have just ended are counted until their processes are gone: so long, in seconds, a full server is asked.
_FULL: Final = re.compile("too many c(lients|onnections)|connection slots are reserved")
_FULL_FOR: Final = 3.0
# Where a login was refused for what it brought along: before 17, and for all but superusers.
_BRINGING: Final[dict[tuple[str, int, str], Standing]] = {}
# The last one is what a load balancer in front of a server says while nobody listens behind it.
_NOT_YET: Final = (
    *("Connection refused", "timeout", "timed out", "No route", "starting up", "shutting down"),
    "server closed the connection unexpectedly",
)

# The server's own hint, whatever it is called in its language.
_ADVICE: Final = re.compile(r"^\w+\s?: [^\n]*DROP DATABASE[^\n]*$", re.MULTILINE)


@dataclass(frozen=True)
class Login:
    """Where a database is and how to enter it."""

    host: str
    port: int
    user: str
    name: str
    password: str = ""

    def conninfo(self, **extra: Any) -> str:
        """A connection string in which no name can act as an option; the password is left out."""
        if "\n" in self.password or "\0" in self.user + self.name + self.password:
            raise ConfigError("the database's password contains a newline, or a name a NUL byte, which clients refuse")
        return make_conninfo(
            host=self.host, port=self.port, user=self.user, dbname=self.name, connect_timeout=_CONNECT_TIMEOUT, **extra
        )

    def passfile(self) -> bytes:
        """The line of a PGPASSFILE, so that the password is in no argument and no environment."""
        escaped = self.password.replace("\\", "\\\\").replace(":", "\\:")
        return f"*:*:*:*:{escaped}\n".encode()


def name_only(name: str) -> str:
    """A database's name as a connection string, for options that would read `host=… dbname=…` in a name as one."""
    return make_conninfo(dbname=name)


@contextlib.contextmanager
def connected(login: Login, purpose: str, *, limit: float = _LIMIT) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit that cannot hang: bounded connect, and `limit` seconds for each statement.

    `limit` 0 is for work that may take hours, as long as the server answers others meanwhile; the server ends the work
    when we are gone. A signal's exception in the body ends the running statement on the server too.
    """
    own = {"statement_timeout": f"{limit:.0f}s", **({} if limit else {"client_connection_check_interval": "5s"})}
    try:
        with (
            _entered(login, purpose, own) as connection,
            _patience(connection, limit) if limit else _company(connection, login),
            cancelled(connection),
        ):
            _pin(connection, login)
            yield connection
    except psycopg.Error as error:
        raise database_error(error, login) from None


class _Kept(NamedTuple):
    """A session that nobody uses, what ends it, and until when it may be used again."""

    connection: psycopg.Connection[Any]
    end: contextlib.ExitStack
    until: float


class _Keeper:
    """Sessions that nobody uses, one for each login. Any thread may put and take them."""

    def __init__(self) -> None:
        self._free: dict[Login, _Kept] | None = {}
        self._lock = threading.Lock()

    def put(self, login: Login, kept: _Kept) -> None:
        """Keep it, or end it where there is one."""
        with self._lock:
            if self._free is not None and self._free.setdefault(login, kept) is kept:
                return
        kept.end.close()

    def take(self, login: Login, purpose: str) -> _Kept | None:
        """One of that login that is there and answers."""
        with self._lock:
            found = self._free.pop(login, None) if self._free else None
        if found and _answers(found, purpose):
            return found
        if found:
            found.end.close()
        return None

    def close(self) -> None:
        """End all of them; none is kept from now on."""
        with self._lock:
            left, self._free = self._free or {}, None
        for each in left.values():
            each.end.close()


_keeper: _Keeper | None = None


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """In the body, what is asked by `asking` one after another shares sessions. To enter one takes 15 ms of CPU."""
    global _keeper  # noqa: PLW0603 - of the process, whose threads share them
    if _keeper:
        yield
        return
    _keeper = mine = _Keeper()
    try:
        yield
    finally:
        _keeper = None
        mine.close()


@contextlib.contextmanager
def asking(login: Login, purpose: str) -> Iterator[psycopg.Connection[Any]]:
    """As `connected`, for questions that leave the session as it was: within `keeping` it serves the next ones, too."""
    keeper = _keeper
    found = keeper.take(login, purpose) if keeper else None
    if found is None:
        end, until = contextlib.ExitStack(), time.monotonic() + _KEPT_FOR
        found = _Kept(end.enter_context(connected(login, purpose)), end, until)
    with found.end as end:
        yield found.connection
        if keeper:
            keeper.put(login, found._replace(end=end.pop_all()))


def _answers(kept: _Kept, purpose: str) -> bool:
    """Whether it may be used again, for this purpose."""
    if time.monotonic() > kept.until:
        return False
    slow = threading.Timer(_CONNECT_TIMEOUT, hang_up, [kept.connection])
    slow.daemon = True
    slow.start()
    try:
        named = "SELECT pg_catalog.set_config('application_name', %s, false)"
        kept.connection.execute(named, (f"{APPLICATION} {purpose}",))
    except psycopg.Error:
        return False
    finally:
        slow.cancel()
    return True


def _entered(login: Login, purpose: str, own: Mapping[str, str]) -> psycopg.Connection[Any]:
    """A session with our settings: as many as the server knows, and lets the role say, when it begins."""
    there, until = (login.host, login.port, login.user), time.monotonic() + _FULL_FOR
    while True:
        bring = _BRINGING.get(there, MOST_RIGHTS)
        conninfo = login.conninfo(
            application_name=f"{APPLICATION} {purpose}",
            keepalives_idle=10,
            tcp_user_timeout=15_000,
            client_encoding="utf8",
            options=f"{bring.options} {connection_options(own)}",
        )
        try:
            return psycopg.connect(conninfo, password=login.password or None, autocommit=True)
        except psycopg.OperationalError as error:
            if _FULL.search(str(error)) and time.monotonic() < until:
                time.sleep(0.05)
                continue
            less = bring.less(str(error))
            if less is None:
                raise
            _BRINGING[there] = less


def standing(connection: psycopg.Connection[Any]) -> Standing:
    """What client programs of the same login may bring along."""
    granted = frozenset(name for (name,) in connection.execute(_GRANTED, (list(PRIVILEGED),)))
    return Standing(connection.info.server_version // 10_000, granted)


def _pin(connection: psycopg.Connection[Any], login: Login) -> None:
    connection.execute(SAFE_PATH)
    done = connection.execute(_PIN, (json.dumps(dict(WHERE_ALLOWED)), list(WHERE_ALLOWED))).fetchall()
    if any(name == EVENT_TRIGGERS for name, _ in done):
        # It is a newer server meanwhile, or the role may do more.
        _BRINGING.pop((login.host, login.port, login.user), None)


@contextlib.contextmanager
def cancelled(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """End what the server still does for us when a signal's exception takes us away from it."""
    try:
        yield
    except BaseException as error:
        # psycopg does this for KeyboardInterrupt alone.
        if not isinstance(error, Exception):
            with contextlib.suppress(psycopg.Error):
                if connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                    connection.cancel_safe(timeout=5.0)
            connection.close()
        raise


def hang_up(connection: psycopg.Connection[Any]) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _patience(connection: psycopg.Connection[Any], limit: float) -> Iterator[None]:
    """Hang up on a server that says nothing more. The kernel of a paused one goes on answering keepalives."""
    timer = threading.Timer(_SILENCE - _LIMIT + limit, hang_up, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _company(connection: psycopg.Connection[Any], login: Login) -> Iterator[None]:
    """Hang up on a server that is silent for others, too: one at work on a long statement still greets them."""
    over = threading.Event()

    def ask() -> None:
        unanswered = 0
        while not over.wait(_ASK):
            unanswered = 0 if _greets(login) else unanswered + 1
            if unanswered >= _UNANSWERED and not over.is_set():
                hang_up(connection)
                return

    threading.Thread(target=ask, name="company", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _greets(login: Login) -> bool:
    """Whether the server says anything to somebody who comes; a refusal is an answer, too."""
    try:
        with _entered(login, "greeting", {}):
            return True
    except psycopg.errors.ConnectionTimeout:
        return False
    except psycopg.Error:
        pass
    return True


def pooler(login: Login) -> ConfigError:
    return ConfigError(
        f"{login.host}:{login.port} is a connection pooler; a dump must come from PostgreSQL itself",
        "Set DB_HOST (or DB_SERVICE) to the database server and DB_PORT to its own port, usually 5432.",
    )


def server_message(error: psycopg.Error) -> str:
    """What the server said, in one line, without advice to drop a database: it may be the live one that it names."""
    return printable(" ".join(_ADVICE.sub("", str(error)).split()))


def database_error(error: psycopg.Error, login: Login) -> BackupError:
    said = server_message(error)
    if "unsupported startup parameter" in said:  # PostgreSQL knows all that we send; pgbouncer knows few
        return pooler(login)
    if login.password:
        said = said.replace(login.password, "***")
    hint = hint_for(said)
    kind = DatabaseUnavailable
    if any(words in said for words in _NOT_YET):
        kind = DatabaseNotYet
        hint = "Is the database running, and is the backup service on its network? `docker compose ps` shows it."
        if login.host in ("localhost", "127.0.0.1", "::1"):
            hint = f"DB_HOST={login.host} is this container itself: unset it, or name the database's service."
    elif "due to statement timeout" in said:
        # Our own, of `connected`.
        hint = "The server is busy, or a lock is held: see pg_stat_activity and pg_locks, and run it again."
    elif "invalid database" in said:
        hint = "A DROP DATABASE of it was interrupted: it is half removed. A restore puts a set in its place."
    elif "does not exist" in said:
        hint = "Set DB_NAME and DB_USER of the backup service to what the database has."
    elif "no password supplied" in said:
        hint = "Set DB_PASSWORD or DB_PASSWORD_FILE of the backup service."
    where = f"database {printable(login.name)!r} at {login.host}:{login.port}"
    return kind(f"{where} cannot be used: {said}. Nothing was changed", hint)
