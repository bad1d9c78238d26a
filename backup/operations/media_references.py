"""Whether the files that rows of a restored database name are among the archived media.

The database itself compares: the archive's paths are loaded into a schema of ours in the throw-away copy, so memory
stays flat however many files there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from backup.errors import ConfigError
from backup.model.recovered import Missing
from backup.postgres.clients import Clients
from backup.postgres.dump.statements import quoted
from backup.postgres.psql import OWN, STRICT, literal, query_lines, script
from backup.postgres.session_settings import connection_options

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
# Event triggers of the application must not act on what we do. Only a superuser makes any, and only one may do this.
_QUIET: Final = " -c session_replication_role=replica"
_SUPERUSER: Final = "SELECT rolsuper FROM pg_roles WHERE rolname = session_user"

# Names of files are bytes, UTF-8 as a rule. A database of another encoding may hold them converted, and one without any
# (SQL_ASCII) as it was given them: what it holds is compared as it is, and converted.
_PREPARE: Final = """
DROP SCHEMA IF EXISTS obcms_backup_drill CASCADE;
CREATE SCHEMA obcms_backup_drill;
CREATE TABLE obcms_backup_drill.archived (path bytea);
CREATE TABLE obcms_backup_drill.places (place text);
CREATE TABLE obcms_backup_drill.referenced (field text, path text);
CREATE FUNCTION obcms_backup_drill.utf8(held text) RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN
    IF getdatabaseencoding() IN ('UTF8', 'SQL_ASCII') THEN RETURN NULL; END IF;
    RETURN convert_to(held, 'UTF8');
EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN RETURN NULL;
END $$;
CREATE FUNCTION obcms_backup_drill.held(name bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN convert_from(name, CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END);
EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN RETURN NULL;
END $$;
COPY obcms_backup_drill.archived FROM stdin;
"""
_PREPARED: Final = """\\.
ANALYZE obcms_backup_drill.archived;
INSERT INTO obcms_backup_drill.places
    SELECT held FROM (SELECT DISTINCT substr(path, 1, position(decode('2f', 'hex') IN path) - 1) AS place
                        FROM obcms_backup_drill.archived WHERE position(decode('2f', 'hex') IN path) > 1) p,
                     LATERAL obcms_backup_drill.held(place) held WHERE held IS NOT NULL;
"""

# A file column holds what Django's FileField does: a varchar whose values are paths below the media's own directories.
_DISCOVER: Final = r"""
DO $discover$
DECLARE c record; hits bigint; filled bigint; places text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = 'django_migrations') THEN RETURN; END IF;
    SELECT '^(' || string_agg(regexp_replace(prefix, '([^[:alnum:]_-])', '\\\1', 'g'), '|') || ')/.' INTO places
      FROM (SELECT unnest({prefixes}) AS prefix UNION SELECT place FROM obcms_backup_drill.places) p;
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

# As hexadecimal digits, names get through whatever their encoding.
_BYTES: Final = "encode(coalesce(obcms_backup_drill.utf8(field), convert_to(field, getdatabaseencoding())), 'hex')"
_ANSWER: Final = f"""
WITH named AS MATERIALIZED (SELECT field, convert_to(path, getdatabaseencoding()) AS path,
                                   obcms_backup_drill.utf8(path) AS utf8 FROM obcms_backup_drill.referenced),
     missing AS (SELECT field, coalesce(utf8, path) AS path FROM named n
                  WHERE NOT EXISTS (SELECT FROM obcms_backup_drill.archived a WHERE a.path = n.path)
                    AND NOT EXISTS (SELECT FROM obcms_backup_drill.archived a WHERE a.path = n.utf8)),
     listed AS (SELECT {_BYTES} || ' ' || encode(path, 'hex') AS line FROM missing ORDER BY field, path LIMIT {_LISTED})
SELECT json_build_object(
    'columns', (SELECT coalesce(json_agg(DISTINCT {_BYTES}), '[]') FROM named),
    'referenced', (SELECT count(DISTINCT path) FROM named),
    'missing', (SELECT count(DISTINCT path) FROM missing),
    'listed', (SELECT coalesce(json_agg(line), '[]') FROM listed))::text
"""  # noqa: S608 - a number


def look_up(clients: Clients, paths: Iterable[bytes], columns: Sequence[str], run: str, path: str = "") -> Missing:
    """Look up what the database's file columns name among `paths`, the archived ones below their volumes.

    `columns` are `table.column` or `schema.table.column`; without any they are found by their values, in a database of
    Django's. It leaves a schema behind: the database is a copy that is thrown away. `path`: the search_path that its
    own functions need, if they do.
    """
    quiet = _QUIET if query_lines(clients, _SUPERUSER, run) == [b"t"] else ""
    more = f"{OWN}{quiet} {connection_options({'search_path': path} if path else {})}"
    with clients.feed("psql", STRICT, run, more) as load:
        load.write(_PREPARE.encode())
        for batch in _batches(paths):
            load.write(batch)
        load.write(_PREPARED.encode())
        load.finish()
    found = _named(columns) if columns else [_DISCOVER.replace("{prefixes}", _array(PREFIXES))]
    script(clients, found, run, more)
    answer = json.loads(b"\n".join(query_lines(clients, _ANSWER, run)))
    return Missing(
        columns=tuple(map(_shown, answer["columns"])),
        referenced=answer["referenced"],
        missing=answer["missing"],
        listed=tuple(": ".join(map(_shown, line.split())) for line in answer["listed"]),
    )


def _shown(digits: str) -> str:
    return bytes.fromhex(digits).decode(errors="backslashreplace")


def _batches(paths: Iterable[bytes]) -> Iterator[bytes]:
    waiting = bytearray()
    for path in paths:
        waiting += b"\\\\x%b\n" % path.hex().encode()
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
