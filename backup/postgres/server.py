"""What a server says of its databases, sessions, roles and extensions, asked through another database of it.

Before a restore, too: whether anything lives on it, what its roles are, what hangs on a database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from backup.errors import BackupError, DatabaseUnavailable, RestoreFailed
from backup.formatting import printable
from backup.model.manifest import Locale
from backup.postgres import session
from backup.postgres.session import Login, asking, connected, database_error, server_message
from backup.postgres.session_settings import Standing

LONGEST_NAME: Final = 63
# How the server marks a database that a DROP has begun to remove: nothing but another DROP is possible then.
INVALID: Final = -2
_MAINTENANCE: Final = ("postgres", "template1")
# A database's locale, under the names that Locale has for it.
LOCALE: Final = """pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collate, d.datctype AS ctype,
           d.datlocprovider::text AS provider,
           -- named daticulocale before 17
           coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', '') AS locale,
           coalesce(to_jsonb(d)->>'daticurules', '') AS rules"""
_DATABASE: Final = f"""
    SELECT d.oid::bigint AS oid, datname AS name, pg_get_userbyid(datdba) AS owner,
           CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) ELSE 0 END AS size,
           datallowconn AS allow_connections, datconnlimit AS connection_limit, datistemplate AS template,
           (SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace) AS tablespace,
           coalesce(shobj_description(d.oid, 'pg_database'), '') AS comment,
           {LOCALE}
      FROM pg_database d WHERE {{}}"""  # noqa: S608 - constants
# The value of a setting as it is stored. Lists are stored already quoted; quoting them again would make one name of
# them. An empty name among them, as in search_path = '', the server stores as it does not read it.
VALUE: Final = r"""
    CASE WHEN lower(split_part(entry, '=', 1)) IN (
             'local_preload_libraries', 'search_path', 'session_preload_libraries',
             'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
         THEN coalesce((SELECT string_agg(coalesce(nullif(name[1], '""'), ''''''), ', ' ORDER BY place)
                          FROM regexp_matches(substr(entry, strpos(entry, '=') + 1), '"(?:[^"]|"")*"|[^",\s]+', 'g')
                               WITH ORDINALITY AS names (name, place)), '''''')
         ELSE quote_literal(substr(entry, strpos(entry, '=') + 1)) END"""
# What initdb and extensions make is no content.
_CONTENT: Final = """
    SELECT EXISTS (SELECT FROM pg_largeobject_metadata)
        OR EXISTS (SELECT FROM (SELECT 'pg_class'::regclass AS kind, oid FROM pg_class
                                UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
                                UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type) o
                    WHERE oid >= 16384
                      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.kind AND d.objid = o.oid
                                      AND d.deptype IN ('e', 'i'))
                      AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                                       WHERE o.kind = 'pg_class'::regclass AND c.oid = o.oid AND nspname ~ '^pg_'))"""
_ROLES: Final = r"""
    SELECT format('CREATE ROLE %I;', rolname) FROM pg_roles WHERE rolname !~ '^pg_'
    UNION ALL
    SELECT format('ALTER ROLE %I WITH %s%s%s;', rolname, concat_ws(' ',
               CASE WHEN rolsuper THEN '' ELSE 'NO' END || 'SUPERUSER',
               CASE WHEN rolinherit THEN '' ELSE 'NO' END || 'INHERIT',
               CASE WHEN rolcreaterole THEN '' ELSE 'NO' END || 'CREATEROLE',
               CASE WHEN rolcreatedb THEN '' ELSE 'NO' END || 'CREATEDB',
               CASE WHEN rolcanlogin THEN '' ELSE 'NO' END || 'LOGIN',
               CASE WHEN rolreplication THEN '' ELSE 'NO' END || 'REPLICATION',
               CASE WHEN rolbypassrls THEN '' ELSE 'NO' END || 'BYPASSRLS'),
               ' CONNECTION LIMIT ' || rolconnlimit, ' VALID UNTIL ' || quote_literal(rolvaliduntil))
      FROM pg_roles WHERE rolname !~ '^pg_'
    UNION ALL
    SELECT format('ALTER ROLE %I SET %I TO %s;', rolname, split_part(entry, '=', 1), {value})
      FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) entry
     WHERE s.setdatabase = 0 AND rolname !~ '^pg_'
    UNION ALL
    SELECT format('GRANT %I TO %I;', pg_get_userbyid(roleid), pg_get_userbyid(member)) FROM pg_auth_members
    UNION ALL
    SELECT format('COMMENT ON ROLE %I IS %L;', rolname, shobj_description(oid, 'pg_authid'))
      FROM pg_roles WHERE rolname !~ '^pg_' AND shobj_description(oid, 'pg_authid') IS NOT NULL
""".replace("{value}", VALUE)
_SLOTS: Final = "SELECT slot_name FROM pg_replication_slots WHERE database = %s ORDER BY 1"
_SUBSCRIPTIONS: Final = """
    SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %s ORDER BY 1"""
_BUILT_IN: Final = ("postgres", "template0", "template1")


@dataclass(frozen=True)
class Database:
    """One database of the server. `size` in bytes, 0 when we may not know it; `connection_limit` -1 for none."""

    oid: int
    name: str
    owner: str
    size: int
    allow_connections: bool
    connection_limit: int
    locale: Locale
    comment: str
    template: bool
    tablespace: str

    @property
    def half_removed(self) -> bool:
        """Whether a DROP of it was interrupted, so that nothing but another DROP is possible."""
        return self.connection_limit == INVALID


@dataclass(frozen=True)
class Sessions:
    """Sessions in one database that are alike. What we may not know of others' is empty."""

    application: str
    user: str
    address: str
    count: int


@contextlib.contextmanager
def maintenance(
    login: Login, purpose: str, besides: Collection[str] = (), limit: float = 60.0, *, asks: bool = False
) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database that nothing is done to: `postgres`, else `template1`, none of `besides`.

    `asks`: as of `session.asking`.
    """
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        for name in (name for name in _MAINTENANCE if name not in besides):
            try:
                there = replace(login, name=name)
                # Nobody may make a database of a template in which somebody is.
                keep = asks and name == _MAINTENANCE[0]
                entered = asking(there, purpose) if keep else connected(there, purpose, limit=limit)
                connection = stack.enter_context(entered)
                break
            except DatabaseUnavailable as error:
                said.append(error.message)
        else:
            raise DatabaseUnavailable(
                f"no database to work from: {'; '.join(said)}",
                f"Grant CONNECT on the database `postgres` to {printable(login.user)}.",
            )
        yield connection


def standing(login: Login) -> Standing:
    """The server's version, and what the login may set there."""
    with maintenance(login, "version", asks=True) as connection:
        return session.standing(connection)


def bootstrap(login: Login) -> str:
    """The role that the server was initialised with."""
    with maintenance(login, "bootstrap", asks=True) as connection:
        return str(connection.execute("SELECT rolname FROM pg_roles WHERE oid = 10").fetchall()[0][0])


def identity(login: Login) -> tuple[str, str]:
    """The server's version, as in 17.11, and its system identifier; ConfigError for a pooler."""
    query = """SELECT current_setting('server_version'), system_identifier::text, pg_backend_pid()
                 FROM pg_control_system()"""
    with maintenance(login, "identity", asks=True) as connection:
        version, identifier, backend = connection.execute(query).fetchall()[0]
        # A pooler answers for the server but hands out backend numbers of its own.
        if backend != connection.info.backend_pid:
            raise session.pooler(login)
    return version, identifier


def server_version(login: Login) -> str:
    """The server's version, as in 17.11."""
    with maintenance(login, "version", asks=True) as connection:
        return str(connection.execute("SHOW server_version").fetchall()[0][0])


def is_at_work(login: Login, name: str, application: str, patience: float, locks: float = 0.0) -> bool:
    """Whether a session of `application` in the database `name` executes something, and waits for nobody.

    That is: neither for its client, which may be frozen, nor for a lock, unless it has done so for less than `locks`
    seconds. One between two statements is at work too, if it began or ended one within `patience` seconds.
    """
    query = """
        SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = %s AND application_name = %s
                       AND (state = 'active' AND coalesce(wait_event_type, '') NOT IN ('Lock', 'Client')
                            OR wait_event_type = 'Lock' AND state_change > clock_timestamp() - make_interval(secs => %s)
                            OR state_change > clock_timestamp() - make_interval(secs => %s)))"""
    with maintenance(login, "at work", asks=True) as connection:
        row = connection.execute(query, (name, application, locks, patience)).fetchone()
        return bool(row and row[0])


def databases(login: Login) -> dict[int, str]:
    """All databases of the server: their names by oid."""
    with maintenance(login, "databases", asks=True) as connection:
        return dict(connection.execute("SELECT oid::bigint, datname FROM pg_database").fetchall())


def find_database(login: Login, name: str = "", *, oid: int = 0) -> Database | None:
    """The database of that name, or that oid."""
    with maintenance(login, "find", asks=True) as connection:
        return query_database(connection, name=name, oid=oid)


def usable(found: Database | None) -> Database | None:
    """The database, unless it is half removed: then it is in the way, and all that was in it is gone."""
    return None if found and found.half_removed else found


def query_database(connection: psycopg.Connection[Any], *, name: str = "", oid: int = 0) -> Database | None:
    """One database by name or by oid, over an open connection."""
    by = sql.SQL("datname = %(name)s" if name else "d.oid = %(oid)s::bigint::oid")
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(sql.SQL(_DATABASE).format(by), {"name": name, "oid": oid}).fetchone()
    if row is None:
        return None
    locale = Locale.model_validate(row)
    return Database(locale=locale, **{key: row[key] for key in Database.__dataclass_fields__ if key != "locale"})


def fitting_name(name: str, suffix: str) -> str:
    """`name` and `suffix` as one name that the server does not cut: `name` loses what is too much at its end."""
    room = LONGEST_NAME - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix


def sessions(login: Login, name: str) -> tuple[Sessions, ...]:
    """Who is connected to the database `name`, but for ourselves."""
    with maintenance(login, "sessions", asks=True) as connection:
        rows = connection.execute(
            "SELECT coalesce(application_name, ''), coalesce(usename, ''), coalesce(host(client_addr), ''), count(*)"
            " FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
            " AND coalesce(backend_type, '') <> 'autovacuum worker' GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
            (name,),
        )
        return tuple(Sessions(*row) for row in rows)


def roles(login: Login) -> dict[str, bool]:
    """All roles of the server, and whether each is a superuser."""
    with maintenance(login, "roles", asks=True) as connection:
        return dict(connection.execute("SELECT rolname, rolsuper FROM pg_roles").fetchall())


def extensions_available(login: Login) -> dict[str, str]:
    """What `CREATE EXTENSION` can make on this server, with the version it makes."""
    with maintenance(login, "extensions", asks=True) as connection:
        return dict(connection.execute("SELECT name, default_version FROM pg_available_extensions").fetchall())


def is_empty(login: Login) -> bool:
    """Whether nobody has put anything into the database yet; not if that cannot be told."""
    try:
        with connected(login, "empty") as connection:
            row = connection.execute(_CONTENT.encode()).fetchone()
    except BackupError:
        return False
    return row == (False,)


def is_new(login: Login) -> bool:
    """Whether nothing lives on the server: no database but the one of `login` and those of initdb, all empty."""
    others = set(databases(login).values()) - {login.name, *_BUILT_IN}
    return not others and is_empty(replace(login, name="postgres"))


def role_statements(login: Login) -> str:
    """The server's roles as statements that would make them, as pg_dumpall writes them but for passwords."""
    with maintenance(login, "roles", asks=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        text = "\n".join(str(line) for (line,) in connection.execute(_ROLES.encode()))
        connection.execute("RESET timezone")
        return text


def replication(login: Login, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The logical slots and the subscriptions of the database `name`, which stay with it when it is renamed."""
    with maintenance(login, "replication", asks=True) as connection:
        slots = connection.execute(_SLOTS.encode(), (name,)).fetchall()
        subscriptions = connection.execute(_SUBSCRIPTIONS.encode(), (name,)).fetchall()
    return tuple(slot for (slot,) in slots), tuple(each for (each,) in subscriptions)


@contextlib.contextmanager
def failing(login: Login, name: str) -> Iterator[None]:
    """The server's refusal of a change to the database `name` as RestoreFailed."""
    try:
        yield
    except psycopg.Error as error:
        known = database_error(error, login)
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            raise known from None
        said = server_message(error)
        hint = known.hint
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint = f"Make {printable(login.user)} the owner of the database with CREATEDB, or a superuser."
        raise RestoreFailed(
            f"database {printable(name)!r} cannot be changed: {said}. It is as it was before", hint
        ) from None


def require_whole_name(name: str) -> None:
    """ValueError when the server would cut the name and take it for another."""
    if not 0 < len(name.encode()) <= LONGEST_NAME:
        raise ValueError(f"{name!r} is not a name of 1 to {LONGEST_NAME} bytes")
