"""What a plain dump says about itself as it streams by: header, rows per table, large objects, trailer.

Reads each byte once, holds no more than one line of SQL or one chunk of rows. pg_dump announces each object with a
comment, each table's rows with `-- Data for Name: …` and `COPY … FROM stdin;`, ends them with `\\.`, and ends the file
with a completion comment, in patched versions followed by `\\unrestrict <key>`.
"""

from __future__ import annotations

import codecs
import re
from typing import Final, Protocol

from backup.errors import DumpFailed

NAME: Final = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
COLUMN: Final = rb'(?:"(?:[^"]|"")+"|[^\s".,()]+)'
_EVENT: Final = re.compile(
    rb"^(?:-- (?P<data>Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z][A-Z ]*); Schema: (?P<schema>.*); Owner: .*"
    rb"|-- PostgreSQL database (?P<end>dump complete)"
    rb"|SELECT pg_catalog\.lo_open\('[0-9]+', [0-9]+\);"
    rb"|(?P<connect>\\c(?:onnect)? .*)"
    rb"|(?P<command>\\(?!(?:un)?restrict \w+$|\.$|\\|N(?:\t|$)).*))$",
    re.MULTILINE,
)
# What may stand between the announcement of a table's rows and their COPY statement.
_LEAD: Final = re.compile(rb"(?:\n--\n)?(?:\n|(?:ALTER TABLE|SET) [^\n]*;\n)*")
_COPY: Final = re.compile(
    rb"COPY ((?:" + NAME + rb"\.)?" + NAME + rb") +(?:\(" + COLUMN + rb"(?:, " + COLUMN + rb")*\) )?FROM stdin;\n"
)
_TO_COPY: Final = re.compile(rb"((?:-- [^\n]*)?" + _LEAD.pattern + rb")" + _COPY.pattern)
END_OF_ROWS: Final = b"\n\\.\n"
_HEAD: Final = 4096
_TAIL: Final = 2048
_LONGEST: Final = 64 << 20
_SAMPLE: Final = 4096
# Bytes of a row below which looking at each is faster than jumping.
_SHORT: Final = 16
_HEADER: Final = re.compile(rb"^--\n-- PostgreSQL database (?:cluster )?dump\n--\n")
_TRAILER: Final = re.compile(rb"^-- PostgreSQL database (?:cluster )?dump complete$", re.MULTILINE)
_RESTRICT: Final = re.compile(rb"^\\(un)?restrict (\w+)$", re.MULTILINE)
_VERSION: Final = re.compile(rb"^-- Dumped by pg_dump version (.+)$", re.MULTILINE)
_ENCODING: Final = re.compile(rb"^SET client_encoding = '([A-Za-z0-9_]+)';$", re.MULTILINE)
# Of lines that psql would take for commands: how many are kept, and how much of each.
_MOST: Final = 10
_SHOWN: Final = 80
END: Final = "end"
# Kinds of objects that change while the definitions stay.
ROWS: Final = ("TABLE DATA", "SEQUENCE SET", "BLOB", "BLOBS", "BLOB METADATA", "BLOB COMMENTS")


class Watcher(Protocol):
    """Who wants the dump object by object: its bytes in order, and before an object's bytes what it is."""

    def section(self, kind: str, name: str) -> None:
        """An object begins: `TABLE DATA` and `public.app_case`, as pg_dump's comment says; at last `end` and ``."""

    def table(self, table: str) -> None:
        """The present object is the rows of `table`, as the dump writes it."""

    def data(self, data: bytes) -> None:
        """The next bytes, of the present object."""


class DumpReader:
    """Feed it the dump's chunks in order, then ask. `rows` maps the table as the dump writes it to its rows.

    `counting`: off, each table has 0 rows, which saves a third of the time.
    `extensions` are those that it makes, `connects` whether it goes to a database of its own choice. `commands`: lines
    of SQL that psql would take for commands of its own, unless they stand within a quoted text; the first of them.
    """

    def __init__(self, watcher: Watcher | None = None, *, counting: bool = True) -> None:
        self.rows: dict[str, int] = {}
        self.large_objects = 0
        self.extensions: list[str] = []
        self.connects = False
        self.commands: list[str] = []
        self._watcher, self._counting = watcher, counting
        self._head = b""
        self._tail = b""
        # What has to be seen again with the next chunk; where in it to go on; how much of it the watcher has had.
        self._carry = b""
        self._start = self._told = 0
        self._table = ""
        self._announced = False

    @property
    def client_version(self) -> str:
        """The version of pg_dump that wrote the dump, from its header."""
        match = _VERSION.search(self._head)
        return match[1].decode(errors="replace") if match else ""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
        self._tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (self._tail + chunk)[-_TAIL:]
        text, position = self._carry + chunk, self._start
        while position >= 0:
            step = self._in_rows if self._table else self._before_rows if self._announced else self._in_sql
            position = step(text, position)

    def finish(self) -> None:
        """No more bytes come: give the watcher what was held back."""
        self._tell(self._carry, len(self._carry))

    def missing(self) -> str:
        """What the dump lacks to be whole, in words that follow `it`; empty if nothing."""
        if not _HEADER.match(self._head):
            return "does not begin as a dump begins"
        if self._table or not _TRAILER.search(self._tail):
            return "has no completion trailer"
        # The last line of the head may be cut off.
        head = self._head[: self._head.rfind(b"\n") + 1]
        keys = [match.groups() for part in (head, self._tail) for match in _RESTRICT.finditer(part)]
        opened, closed = {key for un, key in keys if not un}, {key for un, key in keys if un}
        return "" if opened == closed else "does not end with the key it began with"

    def check_whole(self) -> None:
        """DumpFailed unless header, completion trailer and both restrict keys are there."""
        if missing := self.missing():
            raise DumpFailed(f"the database client reported success, but its output {missing}; nothing was published")

    def _in_sql(self, text: bytes, position: int) -> int:
        """Read whole lines of SQL from `position`; returns where rows are announced, or -1 at the end of `text`."""
        end = max(text.rfind(b"\n", position) + 1, position)
        for match in _EVENT.finditer(text, position, end):
            if match["connect"]:
                self.connects = True
                continue
            if match["command"]:
                self.commands += [self._decoded(match["command"][:_SHOWN])] if len(self.commands) < _MOST else []
                continue
            if not match["type"] and not match["end"]:
                self.large_objects += 1
                continue
            if self._watcher:
                self._tell(text, match.start())
                self._watcher.section(*self._title(match))
            if match["type"] == b"EXTENSION" and match["schema"] == b"-":
                self.extensions.append(self._decoded(match["name"]))
            if match["data"] and match["type"] == b"TABLE DATA":
                self._announced = True
                return match.end()
        return self._hold(text, end, end, end)

    def _before_rows(self, text: bytes, position: int) -> int:
        """Find the COPY statement that was announced; returns where rows or else SQL go on, -1 if it goes on later.

        Names in it may hold newlines: none of its lines is taken for anything before it is here as a whole.
        """
        lead = _LEAD.match(text, position)
        begin = lead.end() if lead else position
        copy = _COPY.match(text, begin)
        if copy:
            self._table = self._decoded(copy[1])
            self.rows.setdefault(self._table, 0)
            if self._watcher:
                self._watcher.table(self._table)
        elif text.startswith(b"COPY ", begin) or text.find(b"\n", begin) < 0:
            if len(text) - position < _LONGEST:
                return self._hold(text, position, position, position)
        self._announced = False
        return copy.end() if copy else begin

    def _in_rows(self, text: bytes, position: int) -> int:
        """Count rows from `position` to the terminator; returns where SQL goes on, or -1 at the end of `text`."""
        end = text.find(END_OF_ROWS, max(position - 1, 0))
        if end >= 0:
            self._count(text, position, end + 1)
            self._table = ""
            return end + len(END_OF_ROWS)
        # The last three bytes may be the beginning of the terminator: they are judged with the next chunk.
        keep = max(len(text) - len(END_OF_ROWS) + 1, position - 1, 0)
        counted = max(keep, position)
        self._count(text, position, counted)
        return self._hold(text, keep, counted, len(text))

    def _count(self, text: bytes, start: int, end: int) -> None:
        if self._counting:
            self.rows[self._table] += newlines(text, start, end)

    def _hold(self, text: bytes, keep: int, start: int, told: int) -> int:
        """Keep `text` from `keep` on for the next chunk, to be read from `start`; the watcher gets it up to `told`."""
        self._tell(text, told)
        self._carry, self._start, self._told = text[keep:], start - keep, told - keep
        if len(self._carry) > _LONGEST:
            # Of a line so long only the beginning matters, and it was nothing.
            self._tell(self._carry, len(self._carry))
            self._carry, self._start, self._told = b"#", 0, 1
        return -1

    def _title(self, match: re.Match[bytes]) -> tuple[str, str]:
        if match["end"]:
            return END, ""
        schema = b"" if match["schema"] == b"-" else match["schema"] + b"."
        return self._decoded(match["type"]), self._decoded(schema + match["name"])

    def _decoded(self, name: bytes) -> str:
        """A name as text: in the encoding that the dump's head names, where it is not UTF-8."""
        try:
            return name.decode()
        except UnicodeDecodeError:
            named = _ENCODING.search(self._head)
            return name.decode(_codec(named[1].decode()) if named else "ascii", errors="backslashreplace")

    def _tell(self, text: bytes, end: int) -> None:
        if self._watcher and end > self._told:
            self._watcher.data(text[self._told : end])
            self._told = end


def newlines(text: bytes, start: int, end: int) -> int:
    """How many there are. `count` looks at every byte, `replace` jumps from one to the next: four times as fast for
    rows of some hundred bytes, slower than that for the shortest."""
    sample = min(start + _SAMPLE, end)
    if text.count(b"\n", start, sample) * _SHORT > sample - start:
        return text.count(b"\n", start, end)
    part = text[start:end]
    return len(part) - len(part.replace(b"\n", b""))


def frozen(data: bytes, before: bytes = b"") -> bytes:
    """The first bytes of a table's rows, with `before` and a COPY statement that leaves them as VACUUM FREEZE would."""
    if not (copy := _TO_COPY.match(data)):
        return data
    end = copy.end() - len(b";\n")
    return b"".join((copy[1], before, data[copy.end(1) : end], b" (FREEZE)", data[end:]))


def _codec(encoding: str) -> str:
    """Python's name for an encoding of PostgreSQL's: mostly the same; ASCII where it has none."""
    try:
        return codecs.lookup(re.sub("^WIN", "cp", encoding)).name
    except LookupError:
        return "ascii"
