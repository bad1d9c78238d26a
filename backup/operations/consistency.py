"""Whether the files that rows of a restored database name are among the archived media.

The database itself compares: the archive's paths are loaded into a schema of ours in the throw-away copy, so memory
stays flat however many files there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from backup.database.session import UNLIMITED
from backup.errors import ConfigError
from backup.sets import Missing
from backup.sources.clients import Clients
from backup.sources.places import STRICT, lines, literal, quoted, script

# OBCMS's upload directories: one of them may have been lost from the media as a whole.
PREFIXES: Final = (
    "ai_documents",
    "imports",
    "monitoring",
    "partnerships",
    "policy_documents",
    "policy_evidence",
    "templates",
)
_BATCH: Final = 1 << 20
_LISTED: Final = 1000
_COLUMN: Final = re.compile(r"(?:([^.]+)\.)?([^.]+)\.([^.]+)")
# Event triggers and rules of the application must not act on what we do.
_OPTIONS: Final = "-c session_replication_role=replica"

_PREPARE: Final = """
DROP SCHEMA IF EXISTS obcms_backup_drill CASCADE;
CREATE SCHEMA obcms_backup_drill;
CREATE TABLE obcms_backup_drill.archived (path text);
CREATE TABLE obcms_backup_drill.referenced (field text, path text);
COPY obcms_backup_drill.archived FROM stdin;
"""

# A file column holds what Django's FileField does: a varchar whose values are paths below the media's own directories.
_DISCOVER: Final = r"""
DO $discover$
DECLARE c record; hits bigint; filled bigint; places text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = 'django_migrations') THEN RETURN; END IF;
    SELECT '^(' || string_agg(regexp_replace(prefix, '([^[:alnum:]_-])', '\\\1', 'g'), '|') || ')/.' INTO places
      FROM (SELECT unnest({prefixes}) AS prefix
             UNION SELECT split_part(path, '/', 1) FROM obcms_backup_drill.archived WHERE path LIKE '%/%') p;
    FOR c IN SELECT n.nspname, t.relname, a.attname
               FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid JOIN pg_namespace n ON n.oid = t.relnamespace
              WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND a.attnum > 0 AND NOT a.attisdropped
                AND a.atttypid = 'varchar'::regtype AND n.nspname !~ '^pg_'
                AND n.nspname NOT IN ('information_schema', 'obcms_backup_drill')
              ORDER BY 1, 2, a.attnum
    LOOP
        EXECUTE format('SELECT count(*) FILTER (WHERE %1$I ~ %4$L), count(*) FILTER (WHERE %1$I <> %5$L)'
                       || ' FROM %2$I.%3$I', c.attname, c.nspname, c.relname, places, '') INTO hits, filled;
        IF hits > 0 AND hits * 2 >= filled THEN
            EXECUTE format('INSERT INTO obcms_backup_drill.referenced'
                           || ' SELECT DISTINCT %1$L, %2$I FROM %3$I.%4$I WHERE %2$I <> %5$L',
                           format('%s.%s', c.relname, c.attname), c.attname, c.nspname, c.relname, '');
        END IF;
    END LOOP;
END $discover$;
"""

_ANSWER: Final = f"""
WITH missing AS (SELECT r.path, r.field FROM obcms_backup_drill.referenced r
                  WHERE NOT EXISTS (SELECT FROM obcms_backup_drill.archived a WHERE a.path = r.path)),
     listed AS (SELECT field || ': ' || path AS line FROM missing ORDER BY 1 LIMIT {_LISTED})
SELECT json_build_object(
    'columns', (SELECT coalesce(json_agg(DISTINCT field), '[]') FROM obcms_backup_drill.referenced),
    'referenced', (SELECT count(DISTINCT path) FROM obcms_backup_drill.referenced),
    'missing', (SELECT count(DISTINCT path) FROM missing),
    'listed', (SELECT coalesce(json_agg(line), '[]') FROM listed))::text
"""  # noqa: S608 - a number


def look_up(clients: Clients, paths: Iterable[bytes], columns: Sequence[str], run: str) -> Missing:
    """Look up what the database's file columns name among `paths`, the archived ones below their volumes.

    `columns` are `table.column` or `schema.table.column`; without any they are found by their values, in a database of
    Django's. It leaves a schema behind: the database is a copy that is thrown away.
    """
    with clients.feed("psql", STRICT, run, _OPTIONS) as load:
        load.write(UNLIMITED + b"SET client_encoding = 'UTF8';\n" + _PREPARE.encode())
        for batch in _batches(paths):
            load.write(batch)
        load.write(b"\\.\nANALYZE obcms_backup_drill.archived;\n")
        load.finish()
    script(clients, _named(columns) if columns else [_DISCOVER.replace("{prefixes}", _array(PREFIXES))], run, _OPTIONS)
    answer = lines(clients, "SET client_encoding = 'UTF8';" + _ANSWER, run)
    return Missing.model_validate(json.loads(b"\n".join(answer)))


def _batches(paths: Iterable[bytes]) -> Iterator[bytes]:
    waiting = bytearray()
    for path in paths:
        try:
            path.decode()
        except UnicodeDecodeError:
            continue  # no text of the database can name it
        waiting += (
            path.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r") + b"\n"
        )
        if len(waiting) >= _BATCH:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _named(columns: Sequence[str]) -> list[str]:
    statements = []
    for column in columns:
        match = _COLUMN.fullmatch(column)
        if match is None:
            raise ConfigError(f"BACKUP_FILE_COLUMNS: {column!r} is not table.column or schema.table.column")
        schema, table, name = match.groups()
        where = ".".join(quoted(part) for part in (schema or "public", table))
        field, value = literal(f"{table}.{name}"), quoted(name)
        statements.append(
            f"INSERT INTO obcms_backup_drill.referenced SELECT DISTINCT {field}, {value} FROM {where} WHERE {value} <> '';"  # noqa: S608, E501 - quoted
        )
    return statements


def _array(values: Sequence[str]) -> str:
    return "ARRAY[" + ", ".join(literal(value) for value in values) + "]"
