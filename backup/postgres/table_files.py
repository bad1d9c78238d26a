"""Which table each file of a server holds the rows of."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.model.deletion import TableFile
from backup.postgres.server import databases
from backup.postgres.session import Login, connected

# TOAST tables hold parts of rows: they have no name here.
_FILES: Final = """
    SELECT pg_relation_filenode(c.oid)::bigint,
           CASE WHEN c.relkind = 't' THEN '' ELSE format('%I.%I', n.nspname, c.relname) END
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't' AND pg_relation_filenode(c.oid) IS NOT NULL"""


def table_files(login: Login) -> dict[TableFile, str]:
    """The tables of all databases, by their files: schema and table, with the database before them if it is not that
    of `login`; empty for TOAST. A database that cannot be entered has none."""
    found: dict[TableFile, str] = {}
    for number, name in databases(login).items():
        try:
            with connected(replace(login, name=name), "tables") as connection:
                for file, table in connection.execute(_FILES):
                    found[TableFile(number, file)] = f"{name}: {table}" if table and name != login.name else table
        except BackupError as error:
            logger.debug("{} was not asked for its tables: {}", name, error.message)
    return found
