"""Queries that show the rows of a table that break a constraint, from its definition as pg_dump writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.dump_reader import COLUMN, NAME
from backup.postgres.dump.statements import parts

_TABLE: Final = rb"((?:" + NAME + rb"\.)?" + NAME + rb")"
_COLUMNS: Final = rb"\((" + COLUMN + rb"(?:, " + COLUMN + rb")*)\)"
_ON: Final = rb"^ALTER TABLE (?:ONLY )?" + _TABLE + rb"\n    ADD CONSTRAINT " + NAME
_FOREIGN: Final = re.compile(_ON + rb" FOREIGN KEY " + _COLUMNS + rb" REFERENCES " + _TABLE + _COLUMNS, re.MULTILINE)
_UNIQUE: Final = re.compile(_ON + rb" (?:PRIMARY KEY|UNIQUE)[A-Z ]* " + _COLUMNS, re.MULTILINE)
_INDEX: Final = re.compile(
    rb"^CREATE UNIQUE INDEX " + NAME + rb" ON (?:ONLY )?" + _TABLE + rb" USING btree " + _COLUMNS, re.MULTILINE
)
_COLUMN: Final = re.compile(COLUMN)
_CREATED: Final = re.compile(rb"^CREATE (?:UNLOGGED |FOREIGN )?TABLE " + _TABLE + rb" ", re.MULTILINE)
_CHECK: Final = re.compile(rb"^    CONSTRAINT (" + NAME + rb") CHECK \((.*)\)(?: NO INHERIT)?,?$", re.MULTILINE)


def query(entries: Iterable[Entry], tables: Iterable[bytes], schema: str, table: str, name: str) -> str:
    """The query for the constraint `name` of a table; empty when its definition is none that is understood.

    `tables` are statements that make tables, with their checks.
    """
    # As pg_dump calls constraints, and unique indexes.
    called = (f"{schema}.{table} {name}", f"{schema}.{name}")
    found = next((shows for each in entries if each.name in called and (shows := _of_entry(each.script))), b"")
    for text in tables:
        made = _CREATED.search(text)
        if not found and made and parts(made[1]) == (schema, table):
            checks = (match for match in _CHECK.finditer(text) if parts(match[1]) == (name,))
            found = b"".join(b"SELECT * FROM %b WHERE NOT (%b);" % (made[1], match[2]) for match in checks)
    return found.decode(errors="replace")


def _of_entry(script: bytes) -> bytes:
    if match := _FOREIGN.search(script):
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
    for pattern in (_UNIQUE, _INDEX):
        if match := pattern.search(script):
            table, own = match.groups()
            return b"SELECT %b, count(*) FROM %b GROUP BY %b HAVING count(*) > 1;" % (own, table, own)
    return b""
