"""What a server says of its WAL, of who receives it, and of the cluster that a base backup is to hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from backup.errors import BackupError, ConfigError, DatabaseNotYet, DatabaseUnavailable
from backup.formatting import printable
from backup.logging import logger
from backup.model.snapshot import DumpSnapshot
from backup.postgres.server import maintenance
from backup.postgres.session import APPLICATION, Login, connected, database_error, server_message
from backup.postgres.wal_slot import SLOT_PREFIX

# One statement, so that all of it is of one moment. The functions on the current place refuse on a standby.
_WAL: Final = """
    SELECT clock_timestamp() AS now, pg_is_in_recovery() AS standby,
           (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           pg_size_bytes(current_setting('wal_segment_size')) AS size,
           CASE WHEN NOT pg_is_in_recovery()
                THEN ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint END AS timeline,
           CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn()::text END AS current,
           -- Of a receiver that syncs whole segments alone, the server knows only what it has written.
           coalesce(r.flush_lsn, r.write_lsn)::text AS received, coalesce(r.state, '') AS state
      FROM (SELECT 1) one LEFT JOIN pg_stat_replication r ON r.application_name = %s
     ORDER BY r.write_lsn DESC NULLS LAST LIMIT 1"""
_CLUSTER: Final = """
    SELECT current_setting('server_version') AS server_version,
           (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           pg_size_bytes(current_setting('wal_segment_size')) AS size,
           coalesce(current_setting('summarize_wal', true), '') = 'on' AS summarizing,
           current_setting('data_checksums') = 'on' AS checksums,
           (SELECT sum(CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) ELSE 0 END)::bigint
              FROM pg_database) AS bytes,
           ARRAY(SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1)
             AS databases,
           ARRAY(SELECT spcname::text FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1)
             AS tablespaces"""

# Our own sessions and slots are no others'; a slot is made again.
_USE: Final = """
    SELECT pg_is_in_recovery() AS standby,
           (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
           (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
           extract(epoch FROM pg_postmaster_start_time())::bigint AS started,
           ARRAY(SELECT application_name FROM pg_stat_replication WHERE application_name NOT LIKE 'obcms-backup%%'
                  UNION SELECT slot_name::text FROM pg_replication_slots
                         WHERE NOT temporary AND NOT starts_with(slot_name, %s) ORDER BY 1)
             AS followers,
           ARRAY(SELECT subname::text FROM pg_subscription ORDER BY 1) AS subscriptions,
           current_setting('archive_mode') <> 'off' AS archiving,
           pg_size_bytes(current_setting('max_wal_size')) AS wal"""
_DATABASES: Final = """
    SELECT datname::text, CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) ELSE 0 END,
           (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.pid <> pg_backend_pid()
               AND coalesce(backend_type, 'client backend') = 'client backend')
      FROM pg_database d WHERE datallowconn AND NOT datistemplate ORDER BY 1"""

# Temporary: it goes with the session, also when nobody is left to drop it.
_HELD: Final = "SELECT pg_create_physical_replication_slot(%s, true, true)"
# And with a session in which nothing happens: what hangs must not make the server keep its WAL.
_HANGING: Final = "SET idle_session_timeout = '5min'"
_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# The place is asked for when the snapshot has been taken: who was seen has written the end of his transaction by then.
_SNAPSHOT: Final = """
    SELECT pg_export_snapshot(), pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text,
           ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint AS timeline"""
# Within that transaction: the row of pg_class as it was, and the file that the table has now.
_REWRITTEN: Final = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND c.relfilenode <> pg_relation_filenode(c.oid) ORDER BY 1"""
_UNKNOWN: Final = "the dump's place in the WAL is not known: {}"
_COMMITTED: Final = """
    WITH here AS (SELECT pg_snapshot_xmax(pg_current_snapshot()) AS last),
         unseen AS (SELECT unnest(%s::xid8[]) AS number
                    UNION ALL SELECT generate_series(%s, last::text::bigint - 1)::text::xid8 FROM here)
    SELECT count(*) FROM unseen, here
     WHERE CASE WHEN number < last THEN pg_xact_status(number) = 'committed' END"""

# Tables and indexes that were cut between two places in the WAL, each with the shortest that it was, in blocks.
_CUT: Final = """
    SELECT c.reldatabase::bigint, c.relfilenode::bigint, min(c.relblocknumber)
      FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c
     WHERE s.tli = %s AND s.end_lsn > %s::pg_lsn AND s.start_lsn < %s::pg_lsn
       AND c.is_limit_block AND c.relforknumber = 0 AND c.relblocknumber > 0
     GROUP BY 1, 2"""
_SUMMARIZED: Final = """
    SELECT coalesce(min(start_lsn) <= %(since)s::pg_lsn AND max(end_lsn) >= %(until)s::pg_lsn
                    AND NOT coalesce(bool_or(start_lsn > reached), false), false)
      FROM (SELECT start_lsn, end_lsn, max(end_lsn) OVER (ORDER BY start_lsn, end_lsn
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
              FROM pg_available_wal_summaries()
             WHERE tli = %(timeline)s AND end_lsn > %(since)s::pg_lsn AND start_lsn < %(until)s::pg_lsn) s"""


@dataclass(frozen=True)
class ServerWal:
    """Where the server's WAL is flushed to (`current`), and how far its receiver has it (`received`, None: none does).

    `now` by the server's clock, `size` of a segment in bytes, `state` as in pg_stat_replication.
    """

    now: datetime
    system_identifier: str
    size: int
    timeline: int
    current: str
    received: str | None
    state: str


@dataclass(frozen=True)
class ClusterFacts:
    """What a base backup holds: `bytes` of all databases that the login may enter, `size` of a WAL segment.

    `summarizing`: the server keeps summaries of its WAL (17 and newer). `checksums`: its pages have them.
    """

    server_version: str
    system_identifier: str
    size: int
    summarizing: bool
    checksums: bool
    bytes: int
    databases: tuple[str, ...]
    tablespaces: tuple[str, ...]

    @property
    def major(self) -> int:
        """The server's major version."""
        return int(self.server_version.partition(".")[0])


@dataclass(frozen=True)
class ClusterUse:
    """The cluster that is live. `started`: seconds since 1970; `followers` are standbys and slots of others.

    `subscriptions` are to publications of others. `databases`: name, bytes and sessions of each. `archiving`: it hands
    its WAL to a command. `wal` is how many bytes of it there may be, as a rule.
    """

    standby: bool
    system_identifier: str
    timeline: int
    started: int
    followers: tuple[str, ...]
    subscriptions: tuple[str, ...]
    databases: tuple[tuple[str, int, int], ...]
    archiving: bool = False
    wal: int = 0


def cluster_use(login: Login) -> ClusterUse:
    """Ask what the whole cluster is, and who uses it; DatabaseUnavailable."""
    row = _row(login, _USE, (SLOT_PREFIX,))
    with maintenance(login, "use of the cluster") as connection:
        databases = tuple((str(name), int(size), int(count)) for name, size, count in connection.execute(_DATABASES))
    others = {name: tuple(row[name]) for name in ("followers", "subscriptions")}
    return ClusterUse(**row | others, databases=databases)


def live_cluster(login: Login) -> tuple[str, int]:
    """(system identifier, timeline) of the cluster that answers; DatabaseNotYet while it starts or recovers."""
    with connected(login, "look", limit=10) as connection:
        standby, identifier, timeline = connection.execute(
            """SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()),
                      (SELECT timeline_id FROM pg_control_checkpoint())"""
        ).fetchall()[0]
    if standby:
        raise DatabaseNotYet("the server is still recovering")
    return str(identifier), int(timeline)


def write_checkpoint(login: Login) -> None:
    """Let the server write what it has to before it is stopped, so that it stops at once. BackupError."""
    with connected(login, "checkpoint", limit=0) as connection:
        connection.execute("CHECKPOINT")


def server_wal(login: Login, application: str) -> ServerWal:
    """Ask for the WAL, and for the receiver of this name; ConfigError for a standby, DatabaseUnavailable."""
    row = _row(login, _WAL, (application,))
    if row.pop("standby"):
        raise ConfigError(
            "the database server is a standby, whose WAL is that of another server; none is received",
            "Set DB_SERVICE or DB_HOST to the primary.",
        )
    return ServerWal(**row)


def cluster_facts(login: Login) -> ClusterFacts:
    """Ask for the whole cluster; DatabaseUnavailable."""
    row = _row(login, _CLUSTER, ())
    databases, tablespaces = (tuple(row.pop(name)) for name in ("databases", "tablespaces"))
    return ClusterFacts(**row, databases=databases, tablespaces=tablespaces)


def cut_files(login: Login, timeline: int, since: str, until: str) -> dict[tuple[int, int], int]:
    """Files of tables and indexes that VACUUM cut between two places in the WAL, as (database, file), each with the
    fewest blocks that it had: as far as there are summaries. DatabaseUnavailable, also where the login may not ask."""
    with maintenance(login, "cut files", limit=600.0) as connection:
        rows = connection.execute(_CUT, (timeline, since, until)).fetchall()
    return {(int(database), int(file)): int(blocks) for database, file, blocks in rows}


def summarized(login: Login, timeline: int, since: str, until: str) -> bool:
    """Whether there are summaries of all WAL between two places; DatabaseUnavailable."""
    with maintenance(login, "summaries") as connection:
        values = {"timeline": timeline, "since": since, "until": until}
        ((whole,),) = connection.execute(_SUMMARIZED, values).fetchall()
    return bool(whole)


@contextlib.contextmanager
def held_wal(login: Login, name: str) -> Iterator[None]:
    """Let the server keep its WAL for the body, by a temporary slot of this name.

    A base backup begins and ends with a new segment, and a checkpoint recycles the one before within milliseconds: a
    receiver without a slot may not have the end of it yet. A server that has no slot to give is left as it is. If we
    hang, the server ends the session and the slot with it.
    """
    with maintenance(login, "held wal", limit=0) as connection:
        try:
            connection.execute(_HANGING)
            connection.execute(_HELD, (name,))
        except psycopg.Error as error:
            logger.warning("no WAL is held back during the base backup: {}", server_message(error))
        yield


class HeldSnapshot:
    """A snapshot that a dump may take by its `name`, as long as its transaction lasts."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute(_BEGIN)
        self.name, self._transactions, self._place, self._timeline = connection.execute(_SNAPSHOT).fetchall()[0]

    def seen(self) -> DumpSnapshot | None:
        """What the dump saw that took it, and has read all of it; None where that cannot be told any more."""
        try:
            rewritten = tuple(name for (name,) in self._connection.execute(_REWRITTEN))
        except psycopg.Error as error:
            logger.warning(_UNKNOWN, server_message(error))
            return None
        return DumpSnapshot(
            transactions=self._transactions, place=self._place, timeline=self._timeline, rewritten=rewritten
        )


@contextlib.contextmanager
def held_snapshot(login: Login) -> Iterator[HeldSnapshot | None]:
    """A snapshot for the body; None where there is none."""
    with contextlib.ExitStack() as stack:
        held = None
        try:
            held = HeldSnapshot(stack.enter_context(connected(login, "snapshot", limit=0)))
        except (psycopg.Error, BackupError) as error:
            # On a standby there is no such place.
            logger.warning(_UNKNOWN, printable(str(error)))
        yield held


def saw_otherwise(login: Login, snapshot: DumpSnapshot) -> bool:
    """Whether what the snapshot did not see is committed here, on the recovered server that is entered by `login`."""
    with connected(login, "snapshot") as connection:
        (count,) = connection.execute(_COMMITTED, (list(snapshot.running), snapshot.end)).fetchall()[0]
        return bool(count)


def _row(login: Login, query: str, values: tuple[str, ...]) -> dict[str, Any]:
    with maintenance(login, "wal") as connection, connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query.encode(), values).fetchone()
    if row is None:
        raise DatabaseUnavailable("the server says nothing of its WAL")
    return row


def replication_refusal(login: Login) -> BackupError | None:
    """Why the server lets nobody in from here who is to receive WAL; None where it does."""
    conninfo = login.conninfo(application_name=f"{APPLICATION} doctor", replication="true")
    try:
        psycopg.connect(conninfo, password=login.password or None, autocommit=True).close()
    except psycopg.Error as error:
        return database_error(error, login)
    return None
