"""Whole databases: create, drop, settings. All through another database of the server, by oid and by mark."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, Final

import psycopg
from psycopg import sql

from backup.database.server import Database, checked, failing, look, maintenance
from backup.database.session import Login, translated
from backup.errors import BackupError, ConfigError, RestoreFailed
from backup.manifest import Locale
from backup.text import plural, printable

_NOT_DROPPED: Final = (
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.ObjectInUse,
    psycopg.errors.InsufficientPrivilege,
)
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


def create(login: Login, name: str, like: Locale | None, marker: str) -> int:
    """Make an empty database and mark it as ours by the comment `marker`; its oid. Any length of time.

    Its connection limit is the mark from the first moment, before there can be a comment. ConfigError when this
    server lacks the locale, RestoreFailed when the name is taken.
    """
    checked(name)
    identifier = sql.Identifier(name)
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {} CONNECTION LIMIT {}").format(
        identifier, _locale(like), _signature(marker)
    )
    with maintenance(login, "create", (name,), limit=0) as connection:
        try:
            connection.execute(statement)
        except psycopg.Error as error:
            raise _not_created(error, login, name, like) from None
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(identifier, marker))
        made = look(connection, name=name)
    if made is None:
        raise RestoreFailed(f"database {printable(name)!r} was created and is gone; somebody dropped it")
    return made.oid


def is_marked(database: Database, marker: str) -> bool:
    """Whether `create` made it with this marker, also when it was killed before the comment."""
    return database.comment == marker or (not database.comment and database.connection_limit == _signature(marker))


def drop_marked(login: Login, name: str, marker: str) -> bool:
    """Drop the database `name` that `create` made with this `marker`; False when there is none, or it is not that."""
    with maintenance(login, "drop", (name,), limit=0) as connection:
        found = look(connection, name=name)
        if found is None or not is_marked(found, marker):
            return False
        _drop(connection, found)
        return True


def drop(login: Login, oid: int, name: str) -> bool:
    """Drop the database that was recorded with this oid and this name; False when it is gone.

    RestoreFailed when the oid has another name now, or is the one that `login` names: then it is not ours to drop.
    """
    with maintenance(login, "drop", (name,), limit=0) as connection:
        found = look(connection, oid=oid)
        if found is None:
            return False
        if found.name != name or found.name == login.name:
            raise RestoreFailed(
                f"database {oid} is called {printable(found.name)!r}, not {printable(name)!r}, or is in use under that"
                " name; it was not dropped",
                "`psql -l` shows all databases. Drop it by hand if it is not needed.",
            )
        _drop(connection, found)
        return True


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


def apply(login: Login, name: str, statements: Iterable[str], *, rehearse: bool = False) -> None:
    """Run `statements` (of `settings_for` or `Roles`) on the database `name`, all or none; `rehearse`: none.

    RestoreFailed with what the server said.
    """
    with maintenance(login, "settings", (name,)) as connection, failing(login, name):
        with connection.transaction(force_rollback=rehearse):
            run(connection, statements)


def run(connection: psycopg.Connection[Any], statements: Iterable[str]) -> None:
    """Run ready-made statements; no name in them is taken for a placeholder."""
    for statement in statements:
        # Made by the server's own format(), or let through by Roles.
        connection.execute(sql.SQL(statement))


def held(connection: psycopg.Connection[Any], database: Database, *, rename: bool = False) -> None:
    """RestoreFailed when something in the database keeps it from being dropped (or renamed)."""
    for what, query in (_PREPARED,) if rename else _HOLDERS:
        names = [
            printable(str(name)) for (name,) in connection.execute(query, {"name": database.name, "oid": database.oid})
        ]
        if names:
            raise RestoreFailed(
                f"database {printable(database.name)!r} has {plural(len(names), what)}: {', '.join(names[:5])};"
                f" it cannot be {'renamed' if rename else 'dropped'}, and is as it was",
                "Connect to it and end them: COMMIT PREPARED or ROLLBACK PREPARED, pg_drop_replication_slot,"
                " DROP SUBSCRIPTION. Then run this again.",
            )


def _drop(connection: psycopg.Connection[Any], database: Database) -> None:
    held(connection, database)
    try:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))
    except (psycopg.errors.ObjectInUse, psycopg.errors.InsufficientPrivilege) as error:
        raise RestoreFailed(
            f"database {printable(database.name)!r} cannot be dropped: {printable(' '.join(str(error).split()))};"
            " it is as it was",
            "It takes its owner or a superuser, and pg_signal_backend to end sessions of others.",
        ) from None


def _signature(marker: str) -> int:
    """A connection limit that nobody sets by hand."""
    return 1_000_000_000 + zlib.crc32(marker.encode()) % 1_000_000_000


def _locale(like: Locale | None) -> sql.Composable:
    return sql.SQL(like.clause(lambda text: sql.Literal(text).as_string(None)) if like else "")


def _not_created(error: psycopg.Error, login: Login, name: str, like: Locale | None) -> BackupError:
    said = printable(" ".join(str(error).split()))
    if isinstance(error, psycopg.errors.DuplicateDatabase):
        return RestoreFailed(
            f"a database {printable(name)!r} is there already, and is not ours to replace; nothing was changed",
            "`psql -l` shows it. Drop or rename it by hand if it is not needed.",
        )
    # Wrong names of locales and encodings have no class of their own; what has one is something else.
    own = psycopg.ProgrammingError | psycopg.DataError | psycopg.NotSupportedError | psycopg.InternalError
    if like is None or not isinstance(error, own):
        return translated(error, login)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return RestoreFailed(
            f"{printable(login.user)} may not create databases: {said}. Nothing was changed",
            f"As a superuser: ALTER ROLE {printable(login.user)} CREATEDB.",
        )
    names = ", ".join(printable(part) for part in (like.collate, like.ctype, like.locale) if part)
    return ConfigError(
        f"this server cannot make a database of encoding {printable(like.encoding)} with the locale {names}"
        f" ({like.provider_name}): {said}. Nothing was changed",
        "Use a server that has this locale: the image that the set was taken from (`list` shows it), or install the"
        " locale in the server's image and restart it.",
    )
