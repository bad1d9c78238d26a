"""What a database says of itself: identity, size, locale, what a dump does not carry, and what the login may do."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from backup.errors import DatabaseUnavailable
from backup.formatting import printable
from backup.model.manifest import Locale
from backup.postgres.login_lock import can_wait
from backup.postgres.name_resolution import effective_path, find_early_reads, find_unresolved
from backup.postgres.server import LOCALE, VALUE, maintenance
from backup.postgres.server_dependencies import Dependencies, dependencies
from backup.postgres.session import Login, connected, pooler, standing
from backup.postgres.session_settings import EVENT_TRIGGERS, Standing

_IDENTITY: Final = f"""
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
           d.oid::bigint AS oid, d.datname AS name, pg_database_size(d.oid) AS size, r.rolsuper AS superuser,
           (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           pg_backend_pid() AS backend,
           {LOCALE},
           (SELECT rolname FROM pg_roles WHERE oid = 10) AS bootstrap
      FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user"""  # noqa: S608 - constants

# What pg_dump leaves out by design. Nothing may be missing without a word.
_NOT_CARRIED: Final = (
    (
        "rows of the foreign table {} (they live on another server)",
        # information_schema hides what the role has no right to
        "SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind = 'f' ORDER BY 1",
    ),
    (
        "the replication state of the subscription {} (restored disabled)",
        "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
        " WHERE datname = current_database() ORDER BY 1",
    ),
    (
        "the setting {} of all roles, which pg_dumpall leaves out (on a new server: ALTER ROLE ALL SET …)",
        "SELECT split_part(entry, '=', 1) FROM pg_db_role_setting, unnest(setconfig) entry"
        " WHERE setdatabase = 0 AND setrole = 0 ORDER BY 1",
    ),
)

_SETTINGS: Final = r"""
    WITH me AS (SELECT *, coalesce(%(target)s::text, datname) AS target
                  FROM pg_database WHERE datname = current_database())
    SELECT format('ALTER DATABASE %%I OWNER TO %%I;', target, pg_get_userbyid(datdba)) FROM me
    UNION ALL
    SELECT format('ALTER DATABASE %%I CONNECTION LIMIT %%s;', target, datconnlimit) FROM me WHERE datconnlimit <> -1
    UNION ALL
    SELECT format('COMMENT ON DATABASE %%I IS %%L;', target, shobj_description(oid, 'pg_database'))
      FROM me WHERE shobj_description(oid, 'pg_database') IS NOT NULL
    UNION ALL
    SELECT format('REVOKE ALL ON DATABASE %%I FROM PUBLIC;', target) FROM me WHERE datacl IS NOT NULL
    UNION ALL
    -- CREATE, CONNECT, TEMPORARY: an owner has them without a word, unless they were taken away.
    SELECT format('REVOKE ALL ON DATABASE %%I FROM %%I;', target, pg_get_userbyid(datdba)) FROM me
     WHERE datacl IS NOT NULL AND 3 > (SELECT count(*) FROM aclexplode(datacl) WHERE grantee = datdba)
    UNION ALL
    SELECT format('GRANT %%s ON DATABASE %%I TO %%s%%s;', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
                  target, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
      FROM me, aclexplode(me.datacl) a GROUP BY target, a.grantee, a.is_grantable
    UNION ALL
    SELECT format('ALTER %%s SET %%I TO %%s;',
                  CASE s.setrole WHEN 0 THEN format('DATABASE %%I', target)
                                 ELSE format('ROLE %%I IN DATABASE %%I', pg_get_userbyid(s.setrole), target) END,
                  split_part(entry, '=', 1),
                  {value})
      FROM me JOIN pg_db_role_setting s ON s.setdatabase = me.oid, unnest(s.setconfig) entry""".replace(
    "{value}", VALUE
)

# Those that act in a session as ours are.
_EVENT_TRIGGERS: Final = "SELECT evtname, evtevent FROM pg_event_trigger WHERE evtenabled IN ('O', 'A') ORDER BY 1"


# What a definition may need that it does not name. pg_settings does without what the login may not see.
_SURROUNDINGS: Final = """
    SELECT 'extension', extname::text, extversion FROM pg_extension
    UNION ALL SELECT 'tablespace', spcname::text, '' FROM pg_tablespace
    UNION ALL SELECT 'setting', name, setting FROM pg_settings
               WHERE name IN ('shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries')
    UNION ALL SELECT 'of a role', coalesce(rolname, '')::text, setconfig::text
                FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole
               WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    ORDER BY 1, 2, 3"""
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
class DatabaseFacts:
    """What the server says of the database. `size` in bytes, `major` as in 17, `settings` as SQL statements.

    `cautions`, `environment`, `search_path` and `found_by_path` as in DatabasePart. `granted`: what the login may set
    of that which superusers alone may. `dependencies`: what it needs that is not in its dump.
    """

    name: str
    oid: int
    system_identifier: str
    server_version: str
    major: int
    size: int
    superuser: bool
    not_carried: tuple[str, ...]
    settings: tuple[str, ...]
    locale: Locale
    bootstrap: str
    cautions: tuple[str, ...] = ()
    dependencies: Dependencies = Dependencies()
    environment: str = ""
    granted: frozenset[str] = frozenset()
    search_path: tuple[str, ...] = ()
    found_by_path: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def standing(self) -> Standing:
        """What client programs may bring along."""
        return Standing(self.major, self.granted)


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


def inspect(login: Login) -> DatabaseFacts:
    """Ask the database what it is; DatabaseUnavailable or ConfigError (a pooler) when that is no use."""
    with connected(login, "inspect") as connection:
        row = _one(connection, _IDENTITY)
        # A pooler answers for the server but hands out backend numbers of its own.
        if row["backend"] != connection.info.backend_pid:
            raise pooler(login)
        missing = tuple(
            text.format(printable(str(name))) for text, query in _NOT_CARRIED for (name,) in connection.execute(query)
        )
        if not row["superuser"]:
            missing += (f"passwords of roles ({printable(login.user)} is not a superuser)",)
        settings, needs = _settings(connection, None), dependencies(connection)
        granted, path = frozenset(standing(connection).granted), effective_path(connection)
        unresolved = tuple(find_unresolved(connection, path))
        cautions = (
            *_event_triggers(connection, row, granted, login),
            *(each.caution for each in unresolved),
            *find_early_reads(connection),
            *needs.cautions(login.user),
        )
        return DatabaseFacts(
            name=row["name"],
            oid=row["oid"],
            system_identifier=row["system_identifier"],
            server_version=row["version"],
            major=row["number"] // 10000,
            size=row["size"],
            superuser=row["superuser"],
            not_carried=missing,
            settings=settings,
            locale=Locale.model_validate(row),
            bootstrap=row["bootstrap"],
            environment=_environment(connection, row),
            cautions=cautions,
            granted=granted,
            search_path=path,
            found_by_path={each.function: each.names for each in unresolved},
            dependencies=needs,
        )


def _event_triggers(
    connection: psycopg.Connection[Any], row: dict[str, Any], granted: Collection[str], login: Login
) -> Iterator[str]:
    """What to say of event triggers to a login that may neither switch them off nor make them."""
    user = printable(login.user)
    found = [(printable(name), event) for name, event in connection.execute(_EVENT_TRIGGERS)]
    acting = [name for name, event in found if event == "login"]
    if acting and EVENT_TRIGGERS not in granted:
        yield (
            f"the event trigger {acting[0]} fires on every login, also on those of backups and restores: what it"
            f" writes is in the sets. As a superuser: GRANT SET ON PARAMETER event_triggers TO {user}"
        )
    if found and not row["superuser"]:
        yield (
            f"only a superuser can create event triggers, so a restore by {user} stops at {found[0][0]}. Use a"
            " superuser for DB_USER when you restore"
        )


def _environment(connection: psycopg.Connection[Any], identity: dict[str, Any]) -> str:
    """SHA-256 of what decides, beside its definitions, whether the database loads elsewhere."""
    found = [[identity[each] for each in ("version", *Locale.model_fields)], *connection.execute(_SURROUNDINGS)]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def settings_for(login: Login, target: str) -> tuple[str, ...]:
    """The database's owner, limits, comment, grants and settings as SQL statements for a database called `target`."""
    with connected(login, "settings") as connection:
        return _settings(connection, target)


def end_sessions(connection: psycopg.Connection[Any], application: str) -> int:
    """End the sessions that a dead run left on the server under `application`; how many there were."""
    return connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE starts_with(application_name, %s) AND pid <> pg_backend_pid()",
        (application,),
    ).rowcount


def _settings(connection: psycopg.Connection[Any], target: str | None) -> tuple[str, ...]:
    return tuple(str(line) for (line,) in connection.execute(_SETTINGS, {"target": target}))


def _one(connection: psycopg.Connection[Any], query: str) -> dict[str, Any]:
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        row = cursor.execute(query).fetchone()
    if row is None:
        raise DatabaseUnavailable("pg_database has no row for this database")
    return row


def login_rights(login: Login) -> DatabaseRights:
    """Ask the server; DatabaseUnavailable when it does not answer."""
    keep_logins = False
    with contextlib.suppress(DatabaseUnavailable), maintenance(login, "rights") as connection:
        keep_logins = can_wait(connection)
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
