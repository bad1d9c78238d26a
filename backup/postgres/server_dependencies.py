"""What a database needs of its server that its dump does not hold: libraries, versions of extensions, tablespaces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from backup.formatting import printable
from backup.model.manifest import Preload
from backup.postgres.server import maintenance
from backup.postgres.session import Login

# These cannot be created in a server that has not loaded their library when it started.
NEED_PRELOAD: Final = ("citus", "pg_cron", "pgaudit", "pglogical", "timescaledb")
# Extensions that can be in one database only, which a setting names, with the schema that is all theirs.
ONE_DATABASE: Final = {"pg_cron": ("cron.database_name", "cron")}

_LIBRARIES: Final = "SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'"
# Settings with a dot are those of libraries that are loaded. Not the ones that may hold a secret: they would have to
# be handed on where anybody can read them.
_SETTINGS: Final = """
    SELECT name, setting FROM pg_settings
     WHERE strpos(name, '.') > 0 AND setting IS DISTINCT FROM boot_val
       AND context <> 'internal' AND source NOT IN ('default', 'client', 'session')
       AND name !~ '(pass|secret|key|token|conninfo)' ORDER BY name"""
_VERSIONS: Final = """
    SELECT extname, extversion, EXISTS (SELECT FROM pg_available_extension_versions v
                                         WHERE v.name = extname AND v.version = extversion)
      FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"""
_TABLESPACES: Final = """
    SELECT DISTINCT spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
     WHERE spcname !~ '^pg_' AND c.relpersistence <> 't' ORDER BY 1"""
# As the view decides it; options that nobody has set are not shown either.
_HIDDEN: Final = """
    SELECT format('%s on the server %s', usename, m.srvname)
      FROM pg_user_mappings m JOIN pg_foreign_server s ON s.oid = m.srvid
     WHERE umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       AND NOT CASE WHEN umuser = 0 THEN pg_has_role(srvowner, 'USAGE')
                    ELSE usename = current_user AND (pg_has_role(srvowner, 'USAGE')
                                                     OR has_server_privilege(s.oid, 'USAGE')) END
     ORDER BY 1"""
# Objects of the database's own that are made of what such an extension brings.
_USERS: Final = """
    SELECT DISTINCT CASE WHEN u.classid = 'pg_rewrite'::regclass
                         THEN pg_describe_object('pg_class'::regclass, (SELECT ev_class FROM pg_rewrite r
                                                                        WHERE r.oid = u.objid), 0)
                         ELSE pg_describe_object(u.classid, u.objid, 0) END
      FROM pg_extension x
      JOIN pg_depend m ON m.refclassid = 'pg_extension'::regclass AND m.refobjid = x.oid AND m.deptype = 'e'
      JOIN pg_depend u ON u.refclassid = m.classid AND u.refobjid = m.objid AND u.deptype IN ('n', 'a')
     WHERE x.extname = %s
       AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = u.classid AND e.objid = u.objid AND e.deptype = 'e')
       AND NOT EXISTS (SELECT FROM pg_depend i JOIN pg_depend o ON o.classid = i.refclassid AND o.objid = i.refobjid
                       WHERE i.classid = u.classid AND i.objid = u.objid AND i.deptype IN ('i', 'a')
                         AND o.refclassid = 'pg_extension'::regclass AND o.refobjid = x.oid AND o.deptype = 'e')
     ORDER BY 1 LIMIT 10"""
_MADE_VERSIONS: Final = "SELECT name, version FROM pg_available_extension_versions WHERE name = ANY(%s)"
_NAMED_SETTINGS: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"


@dataclass(frozen=True)
class Dependencies:
    """`preload` is None where the login may not know. `gone` are extensions whose version nobody can install any more.

    `users` maps extensions that can be in one database only to what is built on them, `mappings` are user mappings
    whose options the login may not see.
    """

    preload: Preload | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mappings: tuple[str, ...] = ()

    def cautions(self, user: str) -> tuple[str, ...]:
        """What may keep a dump from loading elsewhere, each with its remedy."""
        found = [
            f"the extension {name} is of version {self.versions[name]}, which this server can no longer create: a"
            f" restore creates the version that is available then. ALTER EXTENSION {name} UPDATE makes them equal"
            for name in map(printable, self.gone)
        ]
        needing = [name for name in NEED_PRELOAD if name in self.versions]
        if self.preload is None and needing:
            found.append(
                f"{user} may not see which libraries the server preloads; only what {', '.join(needing)} must have is"
                f" taken for granted. As a superuser: GRANT pg_read_all_settings TO {printable(user)}"
            )
        found += [
            f"{', '.join(map(printable, names))} cannot be restored while {name} works in one database only, because"
            f" they are built on {name}. The set loads without them; create them by hand afterwards"
            for name, names in self.users.items()
            if names
        ]
        if self.mappings:
            found.append(
                f"the options of the user mapping for {', '.join(map(printable, self.mappings))}, such as its password,"
                f" are not in the dump, because {user} may not see them. Use a superuser for DB_USER, or ALTER USER"
                " MAPPING after a restore"
            )
        return tuple(found)

    @property
    def preloaded(self) -> Preload:
        """What a server must load for this database, as far as is known."""
        return self.preload or Preload(libraries=tuple(name for name in NEED_PRELOAD if name in self.versions))


def dependencies(connection: psycopg.Connection[Any]) -> Dependencies:
    """Ask the database of an open connection."""
    rows = connection.execute(_VERSIONS.encode()).fetchall()
    versions = {name: version for name, version, _ in rows}
    return Dependencies(
        preload=_preload(connection),
        versions=versions,
        gone=tuple(name for name, _, there in rows if not there),
        tablespaces=tuple(name for (name,) in connection.execute(_TABLESPACES.encode())),
        users={
            name: tuple(each for (each,) in connection.execute(_USERS.encode(), (name,)))
            for name in ONE_DATABASE
            if name in versions
        },
        mappings=tuple(name for (name,) in connection.execute(_HIDDEN.encode())),
    )


def _preload(connection: psycopg.Connection[Any]) -> Preload | None:
    row = connection.execute(_LIBRARIES.encode()).fetchone()
    if row is None:
        return None
    settings = dict(connection.execute(_SETTINGS.encode()).fetchall())
    return Preload(libraries=libraries(row[0]), settings=settings)


def libraries(setting: str) -> tuple[str, ...]:
    """The names in a list of libraries as the server shows it."""
    return tuple(name for part in setting.split(",") if (name := part.strip().strip('"')))


@dataclass(frozen=True)
class Capabilities:
    """What a server has of what sets need. `libraries` are those that it preloads, None where the login may not know.

    `defaults` maps extensions to the version that it makes, `versions` has those of the extensions asked for;
    `only` maps extensions that can be in one database alone to its name, as far as is known.
    """

    libraries: tuple[str, ...] | None
    tablespaces: frozenset[str]
    defaults: dict[str, str]
    versions: frozenset[tuple[str, str]]
    only: dict[str, str]


def capabilities(login: Login, extensions: Collection[str]) -> Capabilities:
    """Ask the server, through a database that nothing is done to."""
    with maintenance(login, "capabilities", asks=True) as connection:

        def rows(query: str, *values: Any) -> list[Any]:
            return connection.execute(query.encode(), values or None).fetchall()

        preload = rows(_LIBRARIES)
        settings = dict(rows(_NAMED_SETTINGS, [setting for setting, _ in ONE_DATABASE.values()]))
        return Capabilities(
            libraries=libraries(preload[0][0]) if preload else None,
            tablespaces=frozenset(name for (name,) in rows("SELECT spcname FROM pg_tablespace")),
            defaults=dict(rows("SELECT name, default_version FROM pg_available_extensions")),
            versions=frozenset(rows(_MADE_VERSIONS, list(extensions))),
            only={name: settings[setting] for name, (setting, _) in ONE_DATABASE.items() if setting in settings},
        )
