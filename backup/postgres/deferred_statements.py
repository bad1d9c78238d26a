"""Statements that a new database is given once it has its name, kept in the database itself until then.

There they come and go with it: an exchange that did not happen leaves nothing, and no kill can lose or repeat them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import psycopg

from backup.postgres.session import Login, connected

SCHEMA: Final = "obcms_backup_deferred"
_MADE: Final = f"CREATE SCHEMA {SCHEMA} CREATE TABLE script (number bigint GENERATED ALWAYS AS IDENTITY, text bytea)"
_PIECE: Final = 1 << 20
# The last of the statements: from then on there are none.
DONE: Final = f"DROP SCHEMA {SCHEMA} CASCADE;\n".encode()


class Deferred:
    """Takes statements in any pieces. Nothing is made in the database before there are some."""

    def __init__(self, login: Login) -> None:
        self._login, self._waiting = login, bytearray()
        self._made = False

    def write(self, data: bytes) -> None:
        """Keep these, too."""
        self._waiting += data
        if len(self._waiting) >= _PIECE:
            self.close()

    def close(self) -> None:
        """Store what is not stored yet."""
        if not self._waiting:
            return
        with connected(self._login, "defer", limit=0) as connection:
            if not self._made:
                connection.execute(_MADE.encode())
                self._made = True
            connection.execute(f"INSERT INTO {SCHEMA}.script (text) VALUES (%b)".encode(), (bytes(self._waiting),))  # noqa: S608
        self._waiting.clear()


@contextlib.contextmanager
def deferred(login: Login) -> Iterator[Iterator[bytes] | None]:
    """What waits in the database, piece by piece; None when nothing does."""
    with connected(login, "deferred", limit=0) as connection:
        row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.script",)).fetchone()
        yield _pieces(connection) if row and row[0] else None


def _pieces(connection: psycopg.Connection[Any]) -> Iterator[bytes]:
    # Each by itself: a transaction over all would keep the schema from being dropped.
    query, last = f"SELECT number, text FROM {SCHEMA}.script WHERE number > %s ORDER BY number LIMIT 1", 0  # noqa: S608
    while row := connection.execute(query.encode(), (last,)).fetchone():
        last, text = row
        yield bytes(text)
