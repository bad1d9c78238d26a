"""Keep the logins of a server waiting while a database changes its name.

A login looks the name up in pg_database, takes a lock on what it found, and looks again. One that comes between while
the name changes is told that the database does not exist, and a pooler keeps that answer for many seconds. With
pg_database locked, logins wait before they look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import psycopg

from backup.formatting import listed
from backup.logging import logger

# Logins to all databases of the server wait while we wait, so it is asked for in short tries.
_TRY: Final = "500ms"
PATIENCE: Final = 10.0
# The renames take moments. One that takes longer waits for somebody who waits for us without a lock that shows it:
# TimescaleDB asks its launcher, which reads pg_database.
_MOMENT: Final = "2s"
# Who has looked the name up and has no lock yet is nowhere to be seen, for some microseconds.
_UNSEEN: Final = 0.025
_SLOW: Final = 5.0
# Where logins do not wait, they come again and again.
_BRIEF: Final = 0.5
_GLANCE: Final = 0.002
# 17 is the first that knows the right.
_MAY: Final = """
    SELECT rolsuper OR CASE WHEN current_setting('server_version_num')::int >= 170000
                            THEN has_table_privilege('pg_catalog.pg_database', 'MAINTAIN') ELSE false END
      FROM pg_roles WHERE rolname = current_user"""
# So that of a login and us it is we who find the deadlock, and begin again.
_LOSE: Final = """
    SELECT set_config('deadlock_timeout', '10ms', true) FROM pg_roles WHERE rolname = current_user AND rolsuper"""

# Who is in the databases; who has found one of them, and waits for us to look again; who may be about to.
_AROUND: Final = """
    WITH locks AS (SELECT * FROM pg_locks WHERE pid <> pg_backend_pid()),
         waiting AS (SELECT pid FROM locks WHERE NOT granted),
         there AS (SELECT pid, datid, coalesce(backend_type, '') AS kind FROM pg_stat_get_activity(NULL))
    SELECT (SELECT count(*) FROM there WHERE datid = ANY(%(oids)s::bigint[]::oid[]) AND kind <> 'autovacuum worker'),
           (SELECT count(*) FROM locks WHERE granted AND locktype = 'object' AND classid = 'pg_database'::regclass
                                         AND objid = ANY(%(oids)s::bigint[]::oid[]) AND pid IN (TABLE waiting)),
           (SELECT count(*) FROM locks WHERE granted AND locktype = 'virtualxid' AND pid NOT IN (TABLE waiting)
               AND pid NOT IN (SELECT pid FROM there WHERE datid IS NOT NULL OR kind NOT IN ('', 'client backend')))"""
_HOLDERS: Final = """
    SELECT coalesce(a.datid = ANY(%(oids)s::bigint[]::oid[]), false), coalesce(pg_get_userbyid(usesysid), ''),
           coalesce(application_name, '')
      FROM pg_locks l JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
     WHERE l.pid <> pg_backend_pid() AND l.granted AND l.relation = 'pg_database'::regclass"""


class Again(Exception):
    """Somebody must be let through first."""


def can_wait(connection: psycopg.Connection[Any]) -> bool:
    """Whether this role may keep logins waiting: a superuser, or from 17 on one with MAINTAIN."""
    row = connection.execute(_MAY).fetchone()
    return bool(row and row[0])


class Waiting:
    """What keeps logins to the databases `oids` waiting until the end of a transaction, over several tries.

    `since` is when it first did; `hindered`: somebody in these databases was in its way.
    """

    def __init__(self, connection: psycopg.Connection[Any], oids: Sequence[int], patience: float) -> None:
        self._connection, self._oids = connection, {"oids": list(oids)}
        self._may, self._deadline = can_wait(connection), time.monotonic() + patience
        self._held, self.hindered, self.since = False, False, math.inf
        self._who = "somebody"

    def begin(self, meanwhile: Callable[[], AbstractContextManager[None]]) -> None:
        """Lock the list of databases, where that is allowed and others let it go; Again when it is to be tried anew."""
        self._held = False
        if not self._may or self._given_up():
            return
        self._connection.execute(_LOSE)
        self._connection.execute(f"SET LOCAL lock_timeout = '{_TRY}'".encode())
        self.since = min(self.since, time.monotonic())
        try:
            with meanwhile(), self._connection.transaction():
                self._connection.execute("LOCK TABLE pg_catalog.pg_database IN ACCESS EXCLUSIVE MODE")
        except psycopg.errors.LockNotAvailable:
            found = self._connection.execute(_HOLDERS, self._oids).fetchall()
            self.hindered = any(inside for inside, *_ in found)
            self._who = listed(sorted({f"{user} {name}".strip() for _, user, name in found})) or self._who
            raise Again from None
        self._connection.execute(f"SET LOCAL statement_timeout = '{_MOMENT}'".encode())
        self._held = True

    def give_up(self, error: psycopg.Error) -> None:
        """Do without from now on, since a statement took too long; raise that again where nobody was kept waiting."""
        if not self._held:
            raise error
        self._who, self._deadline = "what the server has loaded (shared_preload_libraries)", -math.inf

    def _given_up(self) -> bool:
        over = time.monotonic() > self._deadline
        if over:
            self._may = False
            logger.warning(
                "logins are not held back, because {} needs the list of databases: for a moment clients may see"
                " that the database does not exist",
                self._who,
            )
        return over

    def settle(self) -> None:
        """Wait until nobody is in the databases; Again when somebody is between its two looks at the list."""
        began, limit = time.monotonic(), _SLOW if self._held else _BRIEF
        while (passed := time.monotonic() - began) < limit:
            # Else who was there is told of the transaction's first look.
            self._connection.execute("SELECT pg_stat_clear_snapshot()")
            inside, between, unseen = self._connection.execute(_AROUND, self._oids).fetchall()[0]
            if between and self._held:
                raise Again
            if not inside and (not unseen or not self._held or passed > _UNSEEN):
                return
            time.sleep(_GLANCE)
