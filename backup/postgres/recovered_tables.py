"""What the tables of a recovered server lack, and what must be mended in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backup.formatting import listed
from backup.postgres.session import Login, connected

# Those of extensions are not in a dump either.
_UNLOGGED: Final = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'u'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                       AND d.deptype = 'e') ORDER BY 1"""
# Where it is already, it may be in any schema.
_FIND: Final = """
    SELECT set_config('search_path', quote_ident(nspname), true)
      FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_visibility'"""
_CUT: Final = """
    SELECT pg_truncate_visibility_map(oid::regclass) FROM pg_class
     WHERE relkind IN ('r', 'm', 't') AND relpersistence <> 't'"""


def mend_maps(login: Login) -> None:
    """Make every map of visible rows anew, in each database of a recovered server. BackupError.

    Those of combined bases may tell of rows, or of pages that are still to come, that everybody sees them, though they
    were deleted: what clears a map is not always in the summaries of WAL. A scan of an index alone, or VACUUM, would
    believe it.
    """
    with connected(login, "maps") as connection:
        (owner,) = connection.execute("SELECT rolname::text FROM pg_roles WHERE oid = 10").fetchall()[0]
        names = [name for (name,) in connection.execute("SELECT datname::text FROM pg_database WHERE datallowconn")]
    for name in names:
        with connected(replace(login, name=name, user=owner), "maps", limit=0) as connection:
            # Of a prepared transaction that holds a table there is no end. What the database does with DDL is not ours.
            connection.execute("SET lock_timeout = '60s'; SET event_triggers = off")
            # Maps that are cut stay so; the extension leaves no trace.
            with connection.transaction(force_rollback=True):
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_visibility SCHEMA pg_catalog")
                connection.execute(_FIND)
                connection.execute(_CUT)
            connection.execute("VACUUM (DISABLE_PAGE_SKIPPING, INDEX_CLEANUP OFF, TRUNCATE OFF)")


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
