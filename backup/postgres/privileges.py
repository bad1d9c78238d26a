"""What a login may do, which of the data it cannot read, and what the server takes for the time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from backup.errors import DatabaseUnavailable
from backup.postgres.login_lock import may_wait
from backup.postgres.server import maintenance
from backup.postgres.session import Login, connected

_ROLE: Final = """
    SELECT rolname, rolsuper, rolcreatedb, rolcreaterole, pg_has_role(oid, 'pg_signal_backend', 'USAGE')
      FROM pg_roles WHERE rolname = current_user"""
_EXTENSIONS: Final = """
    SELECT extname FROM pg_extension e
      LEFT JOIN pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
     WHERE NOT coalesce(v.trusted, false) ORDER BY 1"""
# A dump holds no tables of extensions.
_TABLES: Final = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.deptype = 'e')
       AND {} ORDER BY 1"""
_UNREADABLE: Final = "c.relkind IN ('r', 'p', 'm', 'S') AND NOT has_table_privilege(c.oid, 'SELECT')"
_HIDDEN: Final = "c.relkind IN ('r', 'p') AND row_security_active(c.oid)"


@dataclass(frozen=True)
class DatabaseRights:
    """`role` is whose rights count: the login's own, or what a setting (ALTER ROLE … SET role) puts in its place.

    `untrusted` are extensions that only a superuser may create, `unreadable` and `hidden` tables.
    `keep_logins`: it may keep logins waiting while databases change places. `ahead` is by how much the server's clock
    is ahead of ours.
    """

    role: str
    superuser: bool
    create_databases: bool
    create_roles: bool
    end_sessions: bool
    keep_logins: bool
    untrusted: tuple[str, ...]
    unreadable: tuple[str, ...]
    hidden: tuple[str, ...]
    ahead: timedelta


def rights(login: Login) -> DatabaseRights:
    """Ask the server; DatabaseUnavailable when it does not answer."""
    keep_logins = False
    with contextlib.suppress(DatabaseUnavailable), maintenance(login, "rights") as connection:
        keep_logins = may_wait(connection)
    with connected(login, "rights") as connection:
        role, superuser, databases, roles, signals = connection.execute(_ROLE).fetchall()[0]
        return DatabaseRights(
            role=role,
            superuser=superuser,
            create_databases=databases,
            create_roles=roles,
            end_sessions=signals,
            keep_logins=keep_logins,
            untrusted=_names(connection, _EXTENSIONS),
            unreadable=_names(connection, _TABLES.format(_UNREADABLE)),
            hidden=_names(connection, _TABLES.format(_HIDDEN)),
            ahead=_ahead(connection),
        )


def _names(connection: psycopg.Connection[Any], query: str) -> tuple[str, ...]:
    return tuple(str(name) for (name,) in connection.execute(query.encode()))


def _ahead(connection: psycopg.Connection[Any]) -> timedelta:
    before = datetime.now(UTC)
    (seconds,) = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchall()[0]
    after = datetime.now(UTC)
    return datetime.fromtimestamp(seconds, UTC) - (before + (after - before) / 2)
