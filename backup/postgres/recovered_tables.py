"""What the tables of a recovered server lack, and what is made anew of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backup.errors import BackupError
from backup.formatting import listed, printable
from backup.logging import logger
from backup.postgres.session import Login, connected

# Those of extensions are not in a dump either.
_UNLOGGED: Final = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'u'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.deptype = 'e') ORDER BY 1"""


def make_maps(login: Login) -> None:
    """Make the maps of visible rows, in each database of a recovered server that lets anybody in.

    Combined bases come without them. That is always right, only slow, until a VACUUM has read each table: so where it
    fails that is told in the log alone.
    """
    with connected(login, "maps") as connection:
        (owner,) = connection.execute("SELECT rolname::text FROM pg_roles WHERE oid = 10").fetchall()[0]
        names = [name for (name,) in connection.execute("SELECT datname::text FROM pg_database WHERE datallowconn")]
    for name in names:
        try:
            with connected(replace(login, name=name, user=owner), "maps", limit=0) as connection:
                # Of a prepared transaction that holds a table there is no end.
                connection.execute("SET lock_timeout = '60s'")
                connection.execute("VACUUM (INDEX_CLEANUP OFF, TRUNCATE OFF)")
        except BackupError as error:
            logger.warning("{}: VACUUM it once, so that scans of indexes are fast: {}", printable(name), error.message)


def unlogged_tables(login: Login) -> list[str]:
    """The tables that a recovered database has without their rows."""
    with connected(login, "unlogged tables") as connection:
        return [name for (name,) in connection.execute(_UNLOGGED)]


def unlogged(login: Login) -> str:
    """What to say of those tables; empty for none."""
    if not (names := unlogged_tables(login)):
        return ""
    return (
        f"the unlogged tables {listed(names)} are empty, because their rows are not in the WAL. An ordinary set has"
        " them: `extract` takes a table out of it"
    )
