"""What a database holds, counted, and its statistics made new. Both may take long; a signal ends them on the server."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import psycopg
from psycopg import sql

from backup.errors import BackupError, IntegrityError
from backup.formatting import printable
from backup.postgres.session import Login, connected, database_error

_BATCH: Final = 100
_GLANCE: Final = 0.1
_PART: Final = r'(?:"(?:[^"\0]|"")+"|[^\W\d][\w$]*)'
# What ANALYZE without a name takes, too. By its name, a partitioned table takes its partitions with it.
_ANALYZED: Final = """
    SELECT format('ANALYZE %I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind IN ('r', 'm', 'p') AND relpersistence <> 't' AND NOT relispartition
     ORDER BY pg_relation_size(c.oid) DESC, c.oid"""
# Since 18 dumps may bring statistics: only what has none is analyzed, each table by itself. Dumps have none of what
# extensions analyze in their own way, nor those that CREATE STATISTICS asks for. What the server has analyzed by itself
# was perhaps not whole then. pg_statistic itself is for superusers.
_MISSING: Final = """
    WITH known AS MATERIALIZED (SELECT schemaname, tablename, attname, inherited FROM pg_stats)
    SELECT format('ANALYZE ONLY %I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind IN ('r', 'm', 'p') AND relpersistence <> 't'
       AND (c.oid < 16384 OR pg_stat_get_autoanalyze_count(c.oid) > 0
         OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = c.oid)
         OR relhassubclass AND (nspname, relname, true) NOT IN (SELECT schemaname, tablename, inherited FROM known)
         OR pg_relation_size(c.oid) > 0 AND (EXISTS (
           SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid
            WHERE attrelid = c.oid AND attnum > 0 AND attstattarget IS DISTINCT FROM 0 AND attgenerated <> 'v'
              AND (typanalyze >= 16384
                OR (nspname, relname, attname) NOT IN (SELECT schemaname, tablename, attname FROM known)))
         OR EXISTS (
           SELECT FROM pg_index JOIN pg_class i ON i.oid = indexrelid WHERE indrelid = c.oid AND indexprs IS NOT NULL
              AND (SELECT count(*) FROM known WHERE schemaname = nspname AND tablename = i.relname)
                < (SELECT count(*) FROM unnest(indkey) AS key WHERE key = 0))))
     ORDER BY pg_relation_size(c.oid) DESC, c.oid"""
_STATISTICS: Final = 180000
_CONDITIONS: Final = "SELECT unnest(extconfig)::bigint, unnest(extcondition) FROM pg_extension"
# As a dump writes it: names that need quotes are in quotes.
_TABLE: Final = re.compile(rf"{_PART}(?:\.{_PART})?")


def count_rows(login: Login, tables: Iterable[str], path: str = "") -> tuple[dict[str, int], int]:
    """The rows of each of `tables`, written as in a dump (`public."Odd"`), and how many large objects there are.

    A table that is not there is left out.

    Of a table of an extension it is those that a dump has: not those that the extension brings. Of a partitioned table
    it is those of its partitions that are not among `tables`: a dump has them as rows of it where a row's partition may
    be another one in another server. `path`: the search_path by which functions in indexes find names, if they have to.
    """
    wanted = [_checked(table) for table in tables]
    with connected(login, "count", limit=0) as connection:
        _search(connection, path)
        # A policy would hide rows without a word.
        connection.execute("SET row_security = off")
        there = [(table, *known) for table in wanted if (known := _known(connection, table))]
        conditions = dict(connection.execute(_CONDITIONS).fetchall())
        others = f"WHERE tableoid <> ALL (ARRAY{[oid for _, oid, _ in there]}::oid[])"
        found: dict[str, int] = {}
        for start in range(0, len(there), _BATCH):
            batch = there[start : start + _BATCH]
            query = _counting(
                (table, others) if parted else (f"ONLY {table}", conditions.get(oid, ""))
                for table, oid, parted in batch
            )
            counts = connection.execute(query).fetchall()
            found.update((batch[number][0], count) for number, count in counts)
        row = connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone()
    return found, int(row[0]) if row else 0


@contextlib.contextmanager
def analyzing(login: Login, path: str = "", jobs: int = 1) -> Iterator[list[str]]:
    """Make the statistics that the dump has not brought, beside what the body does. Any length of time.

    The largest tables go first, over up to `jobs` sessions. Afterwards the list has the server's words if it did not go
    well. What takes us away from the body ends it. `path` as in `count_rows`.
    """
    failed: list[str] = []
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connected(login, "analyze", limit=0))
        query = _MISSING if first.info.server_version >= _STATISTICS else _ANALYZED
        tables = deque(first.execute(query).fetchall())
        connections = [first]
        for _ in range(1, min(jobs, len(tables))):
            try:
                connections.append(stack.enter_context(connected(login, "analyze", limit=0)))
            except BackupError:
                # Where connections are short, it takes longer, and the last one is the body's.
                if len(connections) > 1:
                    connections.pop().close()
                break

        def work(connection: psycopg.Connection[Any]) -> None:
            with contextlib.suppress(IndexError):
                while statement := tables.popleft():
                    try:
                        _search(connection, path)
                        connection.execute(statement[0])
                    except psycopg.Error as error:
                        failed.append(database_error(error, login).message)

        threads = [threading.Thread(target=work, args=(each,), name="analyze", daemon=True) for each in connections]
        for thread in threads:
            thread.start()
        try:
            yield failed
            # In here, so that what takes us away from the waiting ends it on the server, too.
            _wait(threads)
        except BaseException:
            tables.clear()
            for connection in connections:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=5.0)
            raise
        finally:
            # A connection must not be closed under a thread that uses it.
            _wait(threads)


def _wait(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(_GLANCE)


def _search(connection: psycopg.Connection[Any], path: str) -> None:
    if path:
        connection.execute("SELECT set_config('search_path', %s, false)", (path,))


def _checked(table: str) -> str:
    if not _TABLE.fullmatch(table):
        raise IntegrityError(f"{printable(table)!r} is not a table's name from a dump", "Is the manifest damaged?")
    return table


def _known(connection: psycopg.Connection[Any], table: str) -> tuple[int, bool] | None:
    """Its number, and whether it is partitioned."""
    query = "SELECT oid::bigint, relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
    return connection.execute(query, (table,)).fetchone()


def _counting(tables: Iterable[tuple[str, str]]) -> sql.SQL:
    # The condition is the extension's own, as pg_dump uses it.
    counts = (
        f"SELECT {number}, count(*) FROM {table} {condition}"  # noqa: S608 - checked
        for number, (table, condition) in enumerate(tables)
    )
    return sql.SQL(" UNION ALL ".join(counts))
