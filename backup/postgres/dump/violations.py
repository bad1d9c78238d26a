"""Queries for the rows that break a constraint, made of its definition as pg_dump writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from backup.postgres.dump.definitions import CREATED
from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.dump_reader import COLUMN, NAME, TABLE
from backup.postgres.dump.statements import name_parts

ALTER: Final = rb"^ALTER TABLE (?:ONLY )?" + TABLE + rb"\n    ADD CONSTRAINT " + NAME
_COLUMNS: Final = rb"\((" + COLUMN + rb"(?:, " + COLUMN + rb")*)\)"
REFERENCE: Final = ALTER + rb" FOREIGN KEY " + _COLUMNS + rb" REFERENCES " + TABLE
_FOREIGN_KEY: Final = re.compile(REFERENCE + _COLUMNS, re.MULTILINE)
_UNIQUE_KEY: Final = re.compile(ALTER + rb" (?:PRIMARY KEY|UNIQUE)[A-Z ]* " + _COLUMNS, re.MULTILINE)
_UNIQUE_INDEX: Final = re.compile(
    rb"^CREATE UNIQUE INDEX " + NAME + rb" ON (?:ONLY )?" + TABLE + rb" USING btree " + _COLUMNS, re.MULTILINE
)
_COLUMN: Final = re.compile(COLUMN)
_CHECK: Final = re.compile(rb"^    CONSTRAINT (" + NAME + rb") CHECK \((.*)\)(?: NO INHERIT)?,?$", re.MULTILINE)


def violation_query(entries: Iterable[Entry], tables: Iterable[bytes], schema: str, table: str, name: str) -> str:
    """The query for the rows that break the constraint `name` of a table; empty where its definition is not understood.

    `tables` are statements that make tables, with their checks.
    """
    # As pg_dump calls constraints, and unique indexes.
    called = (f"{schema}.{table} {name}", f"{schema}.{name}")
    found = next((shows for each in entries if each.name in called and (shows := _of_entry(each.script))), b"")
    for text in tables:
        made = CREATED.search(text)
        if not found and made and name_parts(made[2]) == (schema, table):
            checks = (match for match in _CHECK.finditer(text) if name_parts(match[1]) == (name,))
            found = b"".join(b"SELECT * FROM %b WHERE NOT (%b);" % (made[2], match[2]) for match in checks)
    return found.decode(errors="replace")


def _of_entry(script: bytes) -> bytes:
    if match := _FOREIGN_KEY.search(script):
        table, own, other, key = match.groups()
        pairs = list(zip(_COLUMN.findall(own), _COLUMN.findall(key), strict=True))
        named = b" AND ".join(b"a.%b IS NOT NULL" % mine for mine, _ in pairs)
        alike = b" AND ".join(b"b.%b = a.%b" % (theirs, mine) for mine, theirs in pairs)
        return b"SELECT a.* FROM %b a WHERE %b AND NOT EXISTS (SELECT FROM %b b WHERE %b);" % (
            table,
            named,
            other,
            alike,
        )
    for pattern in (_UNIQUE_KEY, _UNIQUE_INDEX):
        if match := pattern.search(script):
            table, own = match.groups()
            return b"SELECT %b, count(*) FROM %b GROUP BY %b HAVING count(*) > 1;" % (own, table, own)
    return b""
