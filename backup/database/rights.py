"""What a login may do, which of the data it cannot read, and what the server takes for the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from backup.database.session import Login, connected

_LISTED: Final = 6
_ROLE: Final = """
    SELECT rolsuper, rolcreatedb, rolcreaterole, pg_has_role(oid, 'pg_signal_backend', 'USAGE')
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
       AND {} ORDER BY 1 LIMIT {}"""
_UNREADABLE: Final = "c.relkind IN ('r', 'p', 'm', 'S') AND NOT has_table_privilege(c.oid, 'SELECT')"
_HIDDEN: Final = "c.relkind IN ('r', 'p') AND row_security_active(c.oid)"


@dataclass(frozen=True)
class DatabaseRights:
    """`untrusted` are extensions that only a superuser may create, `unreadable` and `hidden` tables (six at most).

    `ahead` is by how much the server's clock is ahead of ours.
    """

    superuser: bool
    create_databases: bool
    create_roles: bool
    end_sessions: bool
    untrusted: tuple[str, ...]
    unreadable: tuple[str, ...]
    hidden: tuple[str, ...]
    ahead: timedelta


def rights(login: Login) -> DatabaseRights:
    """Ask the server; DatabaseUnavailable when it does not answer."""
    with connected(login, "rights") as connection:
        superuser, databases, roles, signals = connection.execute(_ROLE).fetchall()[0]
        return DatabaseRights(
            superuser=superuser,
            create_databases=databases,
            create_roles=roles,
            end_sessions=signals,
            untrusted=_names(connection, _EXTENSIONS),
            unreadable=_names(connection, _TABLES.format(_UNREADABLE, _LISTED)),
            hidden=_names(connection, _TABLES.format(_HIDDEN, _LISTED)),
            ahead=_ahead(connection),
        )


def _names(connection: psycopg.Connection[Any], query: str) -> tuple[str, ...]:
    return tuple(str(name) for (name,) in connection.execute(query.encode()))


def _ahead(connection: psycopg.Connection[Any]) -> timedelta:
    before = datetime.now(UTC)
    (seconds,) = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchall()[0]
    after = datetime.now(UTC)
    return datetime.fromtimestamp(seconds, UTC) - (before + (after - before) / 2)
