"""Whole databases: create, drop, settings. All through another database of the server, by oid and by mark."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from backup.errors import BackupError, ConfigError, DropDelayed, RestoreFailed
from backup.formatting import listed, plural, printable
from backup.logging import logger
from backup.model.manifest import Locale
from backup.postgres.server import (
    INVALID,
    Database,
    failing,
    fitting_name,
    maintenance,
    query_database,
    require_whole_name,
)
from backup.postgres.session import Login, database_error, server_message

_NOT_DROPPED: Final = (
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.ObjectInUse,
    psycopg.errors.InsufficientPrivilege,
)
# As long as one who makes a base backup takes nothing of it, the server lets DROP DATABASE wait for him: seconds until
# it is left for the next time, and those for what was left before.
PATIENCE: Final = 180.0
AGAIN: Final = 60.0
# For what is asked beside that.
_ELSE: Final = 60.0
_WAITED_FOR: Final = """
    SELECT pid, coalesce(application_name, ''), coalesce(usename, ''), coalesce(host(client_addr), '')
      FROM pg_stat_activity JOIN pg_stat_get_wal_senders() w USING (pid)
     -- of another's we may not know the state
     WHERE coalesce(w.state, 'backup') = 'backup' ORDER BY backend_start"""
# What restores call the databases that they make, or put out of the way, behind the live one's name.
_OF_RESTORES: Final = re.compile(r"__(?:restore|before)_[0-9]{14}\Z")
# That of the template: to ask for it would take a right to it.
_USUAL: Final = "pg_default"
# What makes DROP DATABASE fail, or RENAME.
_PREPARED: Final = ("prepared transaction", "SELECT gid FROM pg_prepared_xacts WHERE database = %(name)s")
_HOLDERS: Final = (
    _PREPARED,
    (
        "active replication slot",
        "SELECT slot_name FROM pg_replication_slots WHERE database = %(name)s AND active AND slot_type = 'logical'",
    ),
    ("subscription", "SELECT subname FROM pg_subscription WHERE subdbid = %(oid)s::bigint::oid"),
)


def create_database(login: Login, name: str, like: Locale | None, marker: str, tablespace: str = "") -> int:
    """Make an empty database and mark it as ours by the comment `marker`; its oid. Any length of time.

    `tablespace` is where it is to lie, if we may put it there; empty for the server's own choice.
    Its connection limit is the mark from the first moment, before there can be a comment. ConfigError when this
    server lacks the locale, RestoreFailed when the name is taken.
    """
    require_whole_name(name)
    identifier = sql.Identifier(name)
    with maintenance(login, "create", (name,), limit=0) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {} CONNECTION LIMIT {} {}").format(
            identifier, _locale(like), _signature(marker), _place(connection, tablespace)
        )
        try:
            connection.execute(statement)
        except psycopg.Error as error:
            raise _not_created(error, login, name, like) from None
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(identifier, marker))
        made = query_database(connection, name=name)
    if made is None:
        raise RestoreFailed(f"database {printable(name)!r} was created and is gone; somebody dropped it")
    return made.oid


def is_marked(database: Database, marker: str) -> bool:
    """Whether `create` made it with this marker, also when it was killed before the comment."""
    limits = _signature(marker), INVALID
    return database.comment == marker or (not database.comment and database.connection_limit in limits)


def drop_marked(login: Login, name: str, marker: str, *, patience: float = PATIENCE) -> bool:
    """Drop the database `name` that `create` made with this `marker`; False when there is none, or it is not that.

    DropDelayed as in `drop`.
    """
    with maintenance(login, "drop", (name,), limit=patience + _ELSE) as connection:
        found = query_database(connection, name=name)
        if found is None or not is_marked(found, marker):
            return False
        _drop(connection, found, patience)
        return True


def drop(login: Login, oid: int, name: str, *, patience: float = PATIENCE) -> bool:
    """Drop the database that was recorded with this oid and this name; False when it is gone.

    RestoreFailed when the oid has another name now, or is the one that `login` names: then it is not ours to drop.
    DropDelayed when the server lets it wait for more than `patience` seconds: it is half removed then.
    """
    with maintenance(login, "drop", (name,), limit=patience + _ELSE) as connection:
        found = query_database(connection, oid=oid)
        if found is None:
            return False
        if found.name != name or found.name == login.name:
            raise RestoreFailed(
                f"database {oid} is named {printable(found.name)!r}, not {printable(name)!r}, or is in use under"
                " that name; it was not dropped",
                "`psql -l` shows all databases. Drop it by hand if it is not needed.",
            )
        _drop(connection, found, patience)
        return True


def drop_remains(login: Login, *, patience: float = AGAIN) -> list[str]:
    """Drop what is half removed of databases that restores of the one of `login` made or kept; their names.

    DropDelayed as in `drop`.
    """
    query = "SELECT oid::bigint, datname FROM pg_database WHERE datconnlimit = %s"
    with maintenance(login, "remains") as connection:
        there = dict(connection.execute(query, (INVALID,)).fetchall())
    remains = {oid: name for oid, name in there.items() if _is_of_restore(name, login.name)}
    return [name for oid, name in remains.items() if drop(login, oid, name, patience=patience)]


def _is_of_restore(name: str, live: str) -> bool:
    found = _OF_RESTORES.search(name)
    return bool(found and name == fitting_name(live, found[0]))


def drop_roles(login: Login, names: Iterable[str]) -> list[str]:
    """Drop roles that own nothing and may do nothing to anything; the names of those that therefore stay."""
    left = []
    with maintenance(login, "roles") as connection:
        for name in names:
            try:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
            except _NOT_DROPPED:
                left.append(name)
    return left


def apply_settings(login: Login, name: str, statements: Iterable[str]) -> None:
    """Run `statements` (of `settings_for` or `Roles`) on the database `name`, all or none.

    RestoreFailed with what the server said.
    """
    with maintenance(login, "settings", (name,)) as connection, failing(login, name), connection.transaction():
        run_statements(connection, statements)


def refused_statements(
    login: Login, name: str, statements: Sequence[str], may: Callable[[int, str], bool]
) -> dict[int, str]:
    """Try statements on the database `name` and take all back: those that the server refuses, by number, and why.

    RestoreFailed for one of which that `may` not be, by its number and the SQLSTATE.
    """
    found = {}
    with maintenance(login, "settings", (name,)) as connection, failing(login, name):
        with connection.transaction(force_rollback=True):
            for number, statement in enumerate(statements):
                try:
                    with connection.transaction():
                        run_statements(connection, [statement])
                except psycopg.DatabaseError as error:
                    if isinstance(error, psycopg.OperationalError) or not may(number, error.sqlstate or ""):
                        raise
                    found[number] = " ".join(str(error).split())
    return found


def run_statements(connection: psycopg.Connection[Any], statements: Iterable[str]) -> None:
    """Run ready-made statements; no name in them is taken for a placeholder."""
    for statement in statements:
        # Made by the server's own format(), or let through by Roles.
        connection.execute(sql.SQL(statement))


def require_unheld(connection: psycopg.Connection[Any], database: Database, *, rename: bool = False) -> None:
    """RestoreFailed when something in the database keeps it from being dropped (or renamed)."""
    for what, query in (_PREPARED,) if rename else _HOLDERS:
        names = [str(name) for (name,) in connection.execute(query, {"name": database.name, "oid": database.oid})]
        if names:
            raise RestoreFailed(
                f"database {printable(database.name)!r} has {plural(len(names), what)}: {listed(names)};"
                f" it cannot be {'renamed' if rename else 'dropped'}, and is as it was",
                "Connect to it and end them: COMMIT PREPARED or ROLLBACK PREPARED, pg_drop_replication_slot,"
                " DROP SUBSCRIPTION. Then run this again.",
            )


def _drop(connection: psycopg.Connection[Any], database: Database, patience: float) -> None:
    require_unheld(connection, database)
    try:
        if database.template:
            connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(database.name)))
        connection.execute(sql.SQL("SET statement_timeout = {}").format(f"{patience:.0f}s"))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
    except psycopg.errors.QueryCanceled:
        connection.execute("RESET statement_timeout")
        raise _delayed(connection, database, patience) from None
    except (psycopg.errors.ObjectInUse, psycopg.errors.InsufficientPrivilege) as error:
        raise RestoreFailed(
            f"database {printable(database.name)!r} cannot be dropped: {server_message(error)}; it is as it was",
            "It takes its owner or a superuser, and pg_signal_backend to end sessions of others.",
        ) from None


def _delayed(connection: psycopg.Connection[Any], database: Database, patience: float) -> RestoreFailed:
    waited_for = connection.execute(_WAITED_FOR.encode()).fetchall()
    who = [
        " ".join(filter(None, (application, user and f"of {user}", address and f"from {address}", f"(pid {pid})")))
        for pid, application, user, address in waited_for
    ]
    now = query_database(connection, oid=database.oid)
    half = bool(now and now.half_removed)
    why = f"a stalled base backup: {listed(who)}" if who else "a session that it does not show"
    ends = "; ".join(f"SELECT pg_terminate_backend({pid})" for pid, *_ in waited_for[:1])
    return (DropDelayed if half else RestoreFailed)(
        f"database {printable(database.name)!r} could not be dropped within {patience:.0f} s, because the server"
        f" makes it wait for {why}; it is {'half removed, and the next run drops it' if half else 'as it was'}",
        f"If nobody needs it, end it on the server: {ends}." if ends else "The server's own log names its process.",
    )


def _signature(marker: str) -> int:
    """A connection limit that nobody sets by hand."""
    return 1_000_000_000 + zlib.crc32(marker.encode()) % 1_000_000_000


def _locale(like: Locale | None) -> sql.Composable:
    return sql.SQL(like.clause(lambda text: sql.Literal(text).as_string(None)) if like else "")


def _place(connection: psycopg.Connection[Any], tablespace: str) -> sql.Composable:
    if tablespace in ("", _USUAL):
        return sql.SQL("")
    query = "SELECT has_tablespace_privilege(spcname, 'CREATE') FROM pg_tablespace WHERE spcname = %s"
    if connection.execute(query, (tablespace,)).fetchone() != (True,):
        logger.warning("the tablespace {} may not be used, so the database is made in the default one", tablespace)
        return sql.SQL("")
    return sql.SQL("TABLESPACE {}").format(sql.Identifier(tablespace))


def _not_created(error: psycopg.Error, login: Login, name: str, like: Locale | None) -> BackupError:
    said = server_message(error)
    if isinstance(error, psycopg.errors.DuplicateDatabase):
        return RestoreFailed(
            f"a database {printable(name)!r} is there already, and is not ours to replace; nothing was changed",
            "`psql -l` shows it. Drop or rename it by hand if it is not needed.",
        )
    # Wrong names of locales and encodings have no class of their own; what has one is something else.
    own = psycopg.ProgrammingError | psycopg.DataError | psycopg.NotSupportedError | psycopg.InternalError
    if like is None or not isinstance(error, own):
        return database_error(error, login)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return RestoreFailed(
            f"{printable(login.user)} may not create databases: {said}. Nothing was changed",
            f"As a superuser: ALTER ROLE {printable(login.user)} CREATEDB. If it has that, a setting replaces it"
            " with another role, which `doctor` names.",
        )
    names = ", ".join(printable(part) for part in (like.collate, like.ctype, like.locale) if part)
    return ConfigError(
        f"this server cannot make a database of encoding {printable(like.encoding)} with the locale {names}"
        f" ({like.provider_name}): {said}. Nothing was changed",
        "Use a server that has this locale: the image that the set was taken from (`list` shows it), or install the"
        " locale in the server's image and restart it.",
    )
