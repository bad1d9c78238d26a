"""What a database holds, counted, and its statistics made new. Both may take long; a signal ends them on the server."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from backup.database.session import Login, connected, translated
from backup.errors import IntegrityError
from backup.text import printable

_BATCH: Final = 100
_GLANCE: Final = 0.1
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


@contextlib.contextmanager
def analyzing(login: Login) -> Iterator[list[str]]:
    """Make the statistics of all tables, which no dump carries, beside what the body does. Any length of time.

    Afterwards the list has the server's words if it did not go well. What takes us away from the body ends it.
    """
    failed: list[str] = []
    with connected(login, "analyze", limit=0) as connection:

        def work() -> None:
            try:
                connection.execute("ANALYZE")
            except psycopg.Error as error:
                failed.append(translated(error, login).message)

        thread = threading.Thread(target=work, name="analyze", daemon=True)
        thread.start()
        try:
            yield failed
            # In here, so that what takes us away from the waiting ends it on the server, too.
            _wait(thread)
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=5.0)
            raise
        finally:
            # A connection must not be closed under a thread that uses it.
            _wait(thread)


def _wait(thread: threading.Thread) -> None:
    while thread.is_alive():
        thread.join(_GLANCE)


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
