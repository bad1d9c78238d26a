"""The only module that speaks SQL itself (psycopg): identity, size and what a dump does not carry."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from backup.errors import BackupError, ConfigError, DatabaseNotYet, DatabaseUnavailable
from backup.stream.fifo import hint_for
from backup.text import printable

_CONNECT_TIMEOUT: Final = 10
# For all questions of one connection together; longer than the server's own limit of one.
_SILENCE: Final = 90.0
APPLICATION: Final = "obcms-backup"

_IDENTITY: Final = """
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
           d.oid::bigint AS oid, d.datname AS name, pg_database_size(d.oid) AS size, r.rolsuper AS superuser,
           (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           pg_backend_pid() AS backend
      FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user"""

# What pg_dump leaves out by design. Nothing may be missing without a word.
_NOT_CARRIED: Final = (
    (
        "rows of the foreign table {} (they live on another server)",
        # information_schema hides what the role has no right to
        "SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind = 'f' ORDER BY 1",
    ),
    (
        "the tablespace {} (its directory must exist on the server that the set is restored to)",
        "SELECT spcname FROM pg_tablespace WHERE oid > 16383 ORDER BY 1",
    ),
    (
        "the replication state of the subscription {} (restored disabled)",
        "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
        " WHERE datname = current_database() ORDER BY 1",
    ),
)

_SETTINGS: Final = r"""
    WITH me AS (SELECT * FROM pg_database WHERE datname = current_database())
    SELECT format('ALTER DATABASE %I OWNER TO %I;', datname, pg_get_userbyid(datdba)) FROM me
    UNION ALL
    SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s;', datname, datconnlimit) FROM me WHERE datconnlimit <> -1
    UNION ALL
    SELECT format('COMMENT ON DATABASE %I IS %L;', datname, shobj_description(oid, 'pg_database'))
      FROM me WHERE shobj_description(oid, 'pg_database') IS NOT NULL
    UNION ALL
    SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC;', datname) FROM me WHERE datacl IS NOT NULL
    UNION ALL
    SELECT format('GRANT %s ON DATABASE %I TO %s%s;', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
                  datname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
      FROM me, aclexplode(me.datacl) a GROUP BY datname, a.grantee, a.is_grantable
    UNION ALL
    SELECT format('ALTER %s SET %I TO %s;',
                  CASE s.setrole WHEN 0 THEN format('DATABASE %I', datname)
                                 ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(s.setrole), datname) END,
                  split_part(entry, '=', 1),
                  -- list settings are stored already quoted; quoting them again would make one name of them
                  CASE WHEN lower(split_part(entry, '=', 1)) IN (
                           'local_preload_libraries', 'search_path', 'session_preload_libraries',
                           'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
                       THEN coalesce(nullif(substr(entry, strpos(entry, '=') + 1), ''), '''''')
                       ELSE quote_literal(substr(entry, strpos(entry, '=') + 1)) END)
      FROM me JOIN pg_db_role_setting s ON s.setdatabase = me.oid, unnest(s.setconfig) entry"""


_NOT_YET: Final = ("Connection refused", "timeout", "timed out", "No route", "starting up", "shutting down")


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
            raise ConfigError("the database's password holds a newline, or a name a NUL byte; clients refuse that")
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


@dataclass(frozen=True)
class Facts:
    """What the server says of the database. `size` in bytes, `major` as in 17, `settings` as SQL statements."""

    name: str
    oid: int
    system_identifier: str
    server_version: str
    major: int
    size: int
    superuser: bool
    not_carried: tuple[str, ...]
    settings: tuple[str, ...]


def inspect(login: Login) -> Facts:
    """Ask the database what it is; DatabaseUnavailable or ConfigError (a pooler) when that is no use."""
    with _connected(login, "inspect") as connection:
        row = _one(connection, _IDENTITY)
        # A pooler answers for the server but hands out backend numbers of its own.
        if row["backend"] != connection.info.backend_pid:
            raise _pooler(login)
        missing = tuple(
            text.format(printable(str(name))) for text, query in _NOT_CARRIED for (name,) in connection.execute(query)
        )
        if not row["superuser"]:
            missing += (f"passwords of roles ({printable(login.user)} is not a superuser)",)
        settings = tuple(str(line) for (line,) in connection.execute(_SETTINGS))
        return Facts(
            name=row["name"],
            oid=row["oid"],
            system_identifier=row["system_identifier"],
            server_version=row["version"],
            major=row["number"] // 10000,
            size=row["size"],
            superuser=row["superuser"],
            not_carried=missing,
            settings=settings,
        )


def end_sessions(login: Login, application: str) -> int:
    """End the sessions that a dead run left on the server under `application`; how many there were."""
    with _connected(login, "sweep") as connection:
        return connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE starts_with(application_name, %s) AND pid <> pg_backend_pid()",
            (application,),
        ).rowcount


@contextlib.contextmanager
def _connected(login: Login, purpose: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that cannot hang: bounded connect, statements and silence."""
    conninfo = login.conninfo(
        application_name=f"{APPLICATION} {purpose}", keepalives_idle=10, tcp_user_timeout=15_000, client_encoding="utf8"
    )
    try:
        with (
            psycopg.connect(
                conninfo, password=login.password or None, autocommit=True, options="-c statement_timeout=60s"
            ) as connection,
            _patience(connection),
        ):
            yield connection
    except psycopg.Error as error:
        raise _translated(error, login) from None


@contextlib.contextmanager
def _patience(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Hang up on a server that says nothing more. The kernel of a paused one goes on answering keepalives."""

    def hang_up() -> None:
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_SILENCE, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _one(connection: psycopg.Connection[Any], query: str) -> dict[str, Any]:
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        row = cursor.execute(query).fetchone()
    if row is None:
        raise DatabaseUnavailable("the database does not know itself: pg_database has no row for it")
    return row


def _pooler(login: Login) -> ConfigError:
    return ConfigError(
        f"{login.host}:{login.port} is a connection pooler; a dump must come from PostgreSQL itself",
        "Set DB_HOST (or DB_SERVICE) to the database server and DB_PORT to its own port, usually 5432.",
    )


def _translated(error: psycopg.Error, login: Login) -> BackupError:
    said = printable(" ".join(str(error).split()))
    if "unsupported startup parameter" in said:  # PostgreSQL knows all that we send; pgbouncer knows few
        return _pooler(login)
    if login.password:
        said = said.replace(login.password, "***")
    hint = hint_for(said)
    kind = DatabaseUnavailable
    if any(words in said for words in _NOT_YET):
        kind = DatabaseNotYet
        hint = "Is the database running, and is the backup service on its network? `docker compose ps` tells."
        if login.host in ("localhost", "127.0.0.1", "::1"):
            hint = f"DB_HOST={login.host} is this container itself: unset it, or name the database's service."
    elif "does not exist" in said:
        hint = "Set DB_NAME and DB_USER of the backup service to what the database has."
    elif "no password supplied" in said:
        hint = "Set DB_PASSWORD or DB_PASSWORD_FILE of the backup service."
    where = f"database {printable(login.name)!r} at {login.host}:{login.port}"
    return kind(f"{where} cannot be used: {said}. Nothing was changed", hint)
