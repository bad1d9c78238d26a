"""What a database holds, counted, and its statistics made new. Both may take long; a signal ends them on the server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from backup.database.session import Login, connected
from backup.errors import IntegrityError
from backup.text import printable

_BATCH: Final = 100
_PART: Final = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
# As a dump writes it: names that need quotes are in quotes.
_TABLE: Final = re.compile(rf"{_PART}(?:\.{_PART})?")


def count_rows(login: Login, tables: Iterable[str]) -> dict[str, int]:
    """The rows of each of `tables`, written as in a dump (`public."Odd"`). A table that is not there is left out."""
    wanted = [_checked(table) for table in tables]
    with connected(login, "count", limit=0) as connection:
        # A policy would hide rows without a word.
        connection.execute("SET row_security = off")
        there = [table for table in wanted if _exists(connection, table)]
        found: dict[str, int] = {}
        for start in range(0, len(there), _BATCH):
            batch = there[start : start + _BATCH]
            counts = connection.execute(_counting(batch)).fetchall()
            found.update((batch[number], count) for number, count in counts)
    return found


def count_large_objects(login: Login) -> int:
    """How many large objects there are."""
    with connected(login, "count", limit=0) as connection:
        row = connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone()
    return int(row[0]) if row else 0


def analyze(login: Login) -> None:
    """Make the statistics of all tables, which no dump carries. Any length of time."""
    with connected(login, "analyze", limit=0) as connection:
        connection.execute("ANALYZE")


def _checked(table: str) -> str:
    if not _TABLE.fullmatch(table):
        raise IntegrityError(f"{printable(table)!r} is no table's name as a dump writes it", "Is the manifest damaged?")
    return table


def _exists(connection: psycopg.Connection[Any], table: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone()
    return bool(row and row[0])


def _counting(tables: Sequence[str]) -> sql.SQL:
    counts = (f"SELECT {number}, count(*) FROM ONLY {table}" for number, table in enumerate(tables))  # noqa: S608 - checked
    return sql.SQL(" UNION ALL ".join(counts))
