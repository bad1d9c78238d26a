"""How a server stands before a restore: whether anything lives on it, what its roles are, what hangs on a database."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backup.errors import BackupError
from backup.postgres.inspect import VALUE
from backup.postgres.server import databases, maintenance
from backup.postgres.session import Login, connected

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
    with maintenance(login, "roles") as connection:
        connection.execute("SET timezone = 'UTC'")
        return "\n".join(str(line) for (line,) in connection.execute(_ROLES.encode()))


def replication(login: Login, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The logical slots and the subscriptions of the database `name`, which stay with it when it is renamed."""
    with maintenance(login, "replication") as connection:
        slots = connection.execute(_SLOTS.encode(), (name,)).fetchall()
        subscriptions = connection.execute(_SUBSCRIPTIONS.encode(), (name,)).fetchall()
    return tuple(slot for (slot,) in slots), tuple(each for (each,) in subscriptions)
