"""Single tables out of a plain dump as it streams by: their schema and rows, and whatever those need to be loaded.

Small objects (types, sequences, functions) are held until a wanted table turns out to need them; rows pass through.
Which object belongs to which table is read from the statements themselves: the comments before them are ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

from backup.postgres.dump.dump_reader import STATISTICS
from backup.postgres.dump.load_attempt import put_back, taken_off
from backup.postgres.dump.statements import NAME, QUALIFIED, comment, literal, mentioned, name_parts, statements

_OWNED: Final = re.compile(rb"ALTER SEQUENCE (" + QUALIFIED + rb") OWNED BY (" + QUALIFIED + rb")\." + NAME + rb";")
_TABLE: Final = re.compile(rb"CREATE (?:UNLOGGED )?TABLE (" + QUALIFIED + rb") ")
_ON: Final = (
    re.compile(rb"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(" + QUALIFIED + rb")\s"),
    re.compile(rb"CREATE (?:UNIQUE )?INDEX " + NAME + rb" ON (?:ONLY )?(" + QUALIFIED + rb") "),
    re.compile(rb"COMMENT ON (?:TABLE|COLUMN) (" + QUALIFIED + rb")[ .]"),
    re.compile(rb"CREATE STATISTICS .* FROM (" + QUALIFIED + rb");", re.DOTALL),
    re.compile(rb"CREATE (?:CONSTRAINT )?TRIGGER .*? ON (" + QUALIFIED + rb") ", re.DOTALL),
    re.compile(rb"CREATE POLICY " + NAME + rb" ON (" + QUALIFIED + rb") "),
    re.compile(rb"CREATE RULE .*? TO (" + QUALIFIED + rb") ", re.DOTALL),
)
_IDENTITY: Final = re.compile(rb" AS IDENTITY \(\s*SEQUENCE NAME (" + QUALIFIED + rb")\s")
_SET: Final = re.compile(rb"SELECT pg_catalog\.setval\('((?:[^']|'')+)', ")
_REFERS: Final = re.compile(rb"\) REFERENCES (" + QUALIFIED + rb")\(")
_ATTACH: Final = re.compile(rb" ATTACH PARTITION (" + QUALIFIED + rb") ")
_INHERITS: Final = re.compile(rb"\)\s*INHERITS \(([^;]*)\)")
_OWNER: Final = re.compile(rb"ALTER [A-Z ]+ .* OWNER TO " + NAME + rb";", re.DOTALL)
_MADE: Final = re.compile(rb"CREATE (?:TYPE|DOMAIN|SEQUENCE|FUNCTION|COLLATION) (" + QUALIFIED + rb")")
# For the object that comes.
_SETTING: Final = re.compile(rb"SET \w+ = ")
_PART: Final = re.compile(rb"ALTER INDEX (" + QUALIFIED + rb") ATTACH PARTITION (" + QUALIFIED + rb");")
# What an index is called.
_MADE_ON: Final = re.compile(
    rb"^CREATE (?:UNIQUE )?INDEX (" + NAME + rb") ON |\sADD CONSTRAINT (" + NAME + rb") (?:PRIMARY KEY|UNIQUE|EXCLUDE) "
)
_CALLING: Final = re.compile(rb"\bCHECK \([^\n]*?" + QUALIFIED + rb"\(")
_EXTENSION: Final = re.compile(rb"CREATE EXTENSION IF NOT EXISTS (" + NAME + rb") WITH SCHEMA (" + NAME + rb");")
# How the dump is to be read.
_READING: Final = re.compile(
    rb"^SET ((?:client_encoding|standard_conforming_strings|lc_monetary) = [^\n]*;)$", re.MULTILINE
)
# What a table cannot have without objects that are not its own.
_LEFT_OUT: Final = ("TRIGGER", "POLICY", "RULE", "ROW SECURITY")
# Of which nothing else is wanted.
_NOTHING: Final = ("TABLE DATA", STATISTICS)
_KEPT: Final = ("TYPE", "DOMAIN", "SEQUENCE", "FUNCTION", "COLLATION")
_LONGEST: Final = 64 << 20
_BUILT_IN: Final = (b"pg_catalog.", b"information_schema.")


class TableExtract:
    """A Watcher of a dump that writes to `write` what the `wanted` tables (as the dump writes them) are.

    `seen` are the tables that the dump makes, `written` those of the wanted ones that it had. `begin` is written with
    the first of them, `end` only by whoever has found the whole dump to be whole. `path` is a search_path by which
    functions find what `by_path` has of each.
    """

    def __init__(
        self,
        wanted: Collection[bytes],
        write: Callable[[bytes], object],
        *,
        schema: bool = True,
        rows: bool = True,
        path: bytes = b"",
        by_path: Mapping[bytes, Collection[bytes]] = MappingProxyType({}),
    ) -> None:
        self._path, self._by_path = path, by_path
        self._calling = self._taken_off = False
        self._parts: set[bytes] = set()
        self._wanted, self._write, self._schema, self._rows = set(wanted), write, schema, rows
        # As DumpReader tells them.
        self._names = {name.decode(errors="backslashreplace"): name for name in wanted}
        self._called = {".".join(name_parts(name)): name for name in wanted}
        self.seen: list[bytes] = []
        self.written: set[bytes] = set()
        self._kind, self._body, self._length = "", [b""], 0
        self._passing = self._begun = False
        self._reading = [b"client_encoding = 'UTF8';", b"standard_conforming_strings = on;"]
        self._held: dict[bytes, list[bytes]] = {}
        self._extensions: list[tuple[bytes, bytes]] = []
        self._made: set[bytes] = set()
        self._sequences: set[bytes] = set()

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._close()
        self._kind, self._body, self._length, self._passing = kind, [], 0, False
        if kind == "TABLE DATA":
            # They may come as INSERT statements.
            self._pass(self._called.get(name))

    def table(self, table: str) -> None:
        """See Watcher."""
        self._pass(self._names.get(table))

    def _pass(self, table: bytes | None) -> None:
        """The rows of a wanted table come now."""
        if table is None or self._passing:
            return
        self._passing = self._rows
        self.written.add(table)
        self._begin()
        if self._passing and self._calling and not self._taken_off:
            # They may read rows that come later.
            self._taken_off = True
            self._write(taken_off(calling=True) + self._searching)
        self._write(b"\n")

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._passing:
            self._write(data)
        elif self._kind not in _NOTHING and "BLOB" not in self._kind and self._length <= _LONGEST:
            self._body.append(data)
            self._length += len(data)

    def end(self) -> None:
        """The dump was whole: so is what was written."""
        self._close()
        self._begin()
        if self._taken_off:
            self._write(b"\n" + put_back("as possible"))
        self._write(b"\nCOMMIT;\n\n-- End: the dump is whole as far as it was needed.\n")

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        self._write(
            b"-- Load with: psql -X -v ON_ERROR_STOP=1 -d an_empty_database -f THIS_FILE\n"
            b"-- One transaction: without the COMMIT at its end, nothing of it is loaded.\n"
            b"BEGIN;\n"
            + b"".join(b"SET LOCAL %b\n" % each for each in self._reading)
            + b"SET LOCAL check_function_bodies = false;\n"
            b"SET LOCAL client_min_messages = warning;\nSET LOCAL row_security = off;\n" + self._searching
        )

    @property
    def _searching(self) -> bytes:
        return b"SELECT pg_catalog.set_config('search_path', " + literal(self._path) + b", true);\n"

    def _close(self) -> None:
        text, kind = b"".join(self._body), self._kind
        self._body = []
        if not kind or kind == "TABLE DATA":
            self._reading = _READING.findall(text) or self._reading
            return
        found = [statement for statement in statements(text) if not _OWNER.fullmatch(statement)]
        for statement in [_function(text, found)] if kind == "FUNCTION" else found:
            self._judge(kind, statement)

    def _judge(self, kind: str, statement: bytes) -> None:
        if match := _TABLE.match(statement):
            self.seen.append(match[1])
        if match := _EXTENSION.match(statement):
            self._extensions.append((match[1], match[2]))
        elif kind == "SEQUENCE SET":
            self._sequence_value(statement)
        elif match := _OWNED.match(statement):
            if match[2] in self._wanted:
                self._sequences.add(match[1])
                self._need(match[1])
                self._emit(statement)
        elif kind == "TABLE ATTACH":
            self._attach(statement)
        elif kind == "INDEX ATTACH":
            if (match := _PART.match(statement)) and self._parts >= set(match.groups()):
                self._emit(statement)
        elif (table := _table_of(statement)) in self._wanted:
            self._of_wanted(kind, table, statement)
        elif kind in _KEPT and (match := _MADE.match(statement)):
            self._held.setdefault(match[1], []).append(statement)

    def _of_wanted(self, kind: str, table: bytes, statement: bytes) -> None:
        self.written.add(table)
        self._calling = self._calling or (self._schema and bool(_CALLING.search(statement)))
        if match := _MADE_ON.search(statement):
            self._parts.add(table.rpartition(b".")[0] + b"." + (match[1] or match[2]))
        if match := _IDENTITY.search(statement):
            self._sequences.add(match[1])
        if kind in _LEFT_OUT:
            self._say(b"left out: " + statement)
        elif kind == "FK CONSTRAINT" and (match := _REFERS.search(statement)) and match[1] not in self._wanted:
            self._say(b"refers to " + match[1] + b", which is not here: " + statement)
        else:
            if (match := _INHERITS.search(statement)) and not mentioned(match[1]) <= self._wanted:
                self._say(b"inherits from " + match[1] + b": ask for that table, too")
            self._emit(statement)

    def _attach(self, statement: bytes) -> None:
        child, parent = _ATTACH.search(statement), _table_of(statement)
        here = [name in self.written for name in (parent, child[1] if child else b"")]
        if all(here):
            self._emit(statement)
        elif any(here):
            self._say(b"left out, for the other table is not here: " + statement)

    def _sequence_value(self, statement: bytes) -> None:
        match = _SET.match(statement)
        if match and match[1].replace(b"''", b"'") in self._sequences:
            self._begin()
            self._write(b"\n" + statement + b"\n")

    def _emit(self, statement: bytes) -> None:
        if not self._schema:
            # Which sequences are the table's has to be known all the same.
            self._sequences |= {name for name in mentioned(statement) if _is_sequence(self._held.get(name))}
            return
        self._begin()
        for name in sorted(mentioned(statement)):
            self._need(name)
        self._write(b"\n" + statement + b"\n")

    def _need(self, name: bytes) -> None:
        """What has that name is made, once, and before it what it needs itself."""
        if not self._schema or name in self._made or name.startswith(_BUILT_IN):
            return
        self._made.add(name)
        for other in self._by_path.get(name, ()):
            if other in self.seen and other not in self._wanted:
                self._say(name + b" reads " + other + b": ask for that table, too")
            else:
                self._need(other)
        held = self._held.get(name, [])
        if _is_sequence(held):
            self._sequences.add(name)
        schema = re.findall(NAME, name)[0]
        if held or name in self._wanted:
            self._schemas(schema)
        else:
            for extension in [each for each in self._extensions if each[1] == schema]:
                self._extensions.remove(extension)
                self._schemas(schema)
                self._write(b"\nCREATE EXTENSION IF NOT EXISTS %s WITH SCHEMA %s;\n" % extension)
        for statement in held:
            self._emit(statement)

    def _schemas(self, schema: bytes) -> None:
        mark = schema + b"."
        if mark not in self._made and schema != b"public":
            self._made.add(mark)
            self._begin()
            self._write(b"\nCREATE SCHEMA IF NOT EXISTS " + schema + b";\n")

    def _say(self, text: bytes) -> None:
        if self._schema:
            self._begin()
            self._write(b"\n" + comment(text))


def _is_sequence(held: list[bytes] | None) -> bool:
    return bool(held and held[0].startswith(b"CREATE SEQUENCE "))


def _function(text: bytes, found: list[bytes]) -> bytes:
    """As one statement, though the semicolons within BEGIN ATOMIC look as if they ended some."""
    begin = end = text.index(found[0]) if found else 0
    for statement in found:
        if not _SETTING.match(statement):
            end = text.index(statement, end) + len(statement)
    return text[begin:end]


def _table_of(statement: bytes) -> bytes:
    """The table that a statement is about; empty for none."""
    return next((match[1] for each in (_TABLE, *_ON) if (match := each.match(statement))), b"")


def called(query: str, table: bytes) -> bool:
    """Whether `query` names a table of a dump: as the dump writes it, or without quotes, with its schema or alone."""
    names, written = name_parts(table), [part.decode(errors="surrogateescape") for part in re.findall(NAME, table)]
    return query in (".".join(written), ".".join(names), names[-1], written[-1])
