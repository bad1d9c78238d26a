"""What a plain dump says about itself as it streams by: header, rows per table, large objects, trailer.

Reads each byte once, holds no more than one line of SQL or one chunk of rows. pg_dump announces each object with a
comment, each table's rows with `COPY … FROM stdin;`, ends them with `\\.`, and ends the file with a completion
comment, in patched versions followed by `\\unrestrict <key>`. A function's text, a comment or a value may hold all of
that: so it is read as psql reads it, which knows what is quoted.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from backup.errors import DumpFailed

NAME: Final = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
COLUMN: Final = rb'(?:"(?:[^"]|"")+"|[^\s".,()]+)'
TABLE: Final = rb"((?:" + NAME + rb"\.)?" + NAME + rb")"
COPY: Final = re.compile(rb"COPY " + TABLE + rb" +(?:\(" + COLUMN + rb"(?:, " + COLUMN + rb")*\) )?FROM stdin;\n")
END_OF_ROWS: Final = b"\n\\.\n"
_HEAD: Final = 4096
_SAMPLE: Final = 4096
# Bytes of a row below which looking at each is faster than jumping; and of what lies between two backslashes.
_SHORT: Final = 16
_SPARSE: Final = 400
_NEWLINE: Final = ord("\n")
_HEADER: Final = re.compile(rb"^--\n-- PostgreSQL database (?:cluster )?dump\n--\n")
_VERSION: Final = re.compile(rb"^-- Dumped by pg_dump version (.+)$", re.MULTILINE)
_ENCODING: Final = re.compile(rb"^SET client_encoding = '([A-Za-z0-9_]+)';$", re.MULTILINE)
# Of comments, those that pg_dump gives a meaning.
_EVENT: Final = re.compile(
    rb"-- (?:(?P<data>Data for )|Statistics for )?Name: (?P<name>.*); Type: (?P<type>[A-Z][A-Z ]*);"
    rb" Schema: (?P<schema>.*); Owner: .*\n"
    rb"|-- PostgreSQL database (?P<end>dump complete)\n|-- PostgreSQL database cluster (?P<cluster>dump complete)\n"
)
# What it adds, or pg_restore, when it is told to be verbose.
_VERBOSE: Final = re.compile(
    rb"-- (?:TOC entry \d+ \(class \d+ OID \d+\)|Dependencies:(?: \d+)*|Data Pos: \d+)\n"
    rb"|-- (?:Started|Completed) on .*\n\n?"
)
_KEY: Final = re.compile(rb"\\(un)?restrict (\w+)\n\n?")
_CONNECT: Final = re.compile(rb"\\c(?:onnect)? ")
_LARGE_OBJECT: Final = re.compile(rb"\nSELECT pg_catalog\.lo_open\('[0-9]+', [0-9]+\);\n")
_STRINGS: Final = re.compile(rb"\nSET standard_conforming_strings = (on|off);\n")
# SQL in which nothing can begin that psql reads otherwise, with the names that are quoted in it. It ends before what
# cannot be told yet. Strings, too, unless a backslash escapes in them.
_WORDS: Final = (
    rb"[^'\"$\\/\n-]++|\n(?=[^CS]|C[^O]|S[^E])|\"[^\"]*+\"|-(?=[^-])|/(?=[^*])|(?<=[A-Za-z0-9_$\x80-\xff])\$"
)
_PLAIN: Final = (re.compile(rb"(?:" + _WORDS + rb"|(?<![eE])'[^']*+')*+"), re.compile(rb"(?:" + _WORDS + rb")*+"))
_TAG: Final = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
_TAG_BEGUN: Final = re.compile(rb"\$[A-Za-z0-9_\x80-\xff]{0,200}\Z")
_ESCAPING: Final = re.compile(rb"(?:^|[^A-Za-z0-9_$\x80-\xff])[eE]\Z")
_ESCAPED: Final = re.compile(rb"(?:[^'\\]++|\\.|'')*+", re.DOTALL)
_OTHER_COPY: Final = re.compile(rb"COPY (?:[^\";]|\"[^\"]*\")*+;.", re.DOTALL)
# No line or statement is longer that is of interest as a whole.
_LONGEST: Final = 1 << 20
# What stands for the end of a string in which a backslash escapes.
_BACKSLASHES: Final = b"\\"
# Of psql's commands: how many are kept, and how much of each.
_MOST: Final = 10
_SHOWN: Final = 80
END: Final = "end"
# What the planner knows of a table: it differs between dumps of one database.
STATISTICS: Final = "STATISTICS DATA"
# Kinds of objects that change while the definitions stay.
ROWS: Final = ("TABLE DATA", "SEQUENCE SET", "BLOB", "BLOBS", "BLOB METADATA", "BLOB COMMENTS")


class Span(NamedTuple):
    """Where in a dump the rows of a table lie, without the line that ends them; `end` is -1 until that has come.

    `rows`: how many were counted.
    """

    table: str
    begin: int
    end: int = -1
    rows: int = 0


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

    `counting`: off, each table has 0 rows, which saves a third of the time. `telling_rows`: off, the watcher is given
    all but rows.
    `extensions` are those that it makes, `connects` whether it goes to a database of its own choice. `commands` are the
    first of those for psql itself that pg_dump does not write. What is within a quoted text is none of all this.

    `spans` are where rows lie, in the dump's order.

    The watcher is not given what differs between dumps of one database: the keys, what `--verbose` adds.
    """

    def __init__(self, watcher: Watcher | None = None, *, counting: bool = True, telling_rows: bool = True) -> None:
        self.rows: dict[str, int] = {}
        self.spans: list[Span] = []
        self.large_objects = 0
        self.extensions: list[str] = []
        self.connects = False
        self.commands: list[str] = []
        self._watcher, self._counting, self._telling_rows = watcher, counting, telling_rows
        self._head = b""
        # What has to be seen again with the next chunk; where in it to go on; how much of it the watcher has had.
        self._carry = b""
        self._start = self._told = self._taken = 0
        self._table = ""
        # What ends the quoted text or the comment that is open.
        self._quote = b""
        self._strings_escape = False
        self._begun = self._ended = False
        self._opened = self._closed = b""

    @property
    def client_version(self) -> str:
        """The version of pg_dump that wrote the dump, from its header."""
        match = _VERSION.search(self._head)
        return match[1].decode(errors="replace") if match else ""

    @property
    def judged(self) -> int:
        """How many bytes of the dump it knows the meaning of."""
        return self._offset(self._carry, self._start)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._taken += len(chunk)
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
        text, position = self._carry + chunk, self._start
        while position >= 0:
            step = self._in_rows if self._table else self._in_quote if self._quote else self._in_sql
            position = step(text, position)

    def read(self, pieces: Iterable[bytes]) -> None:
        """Take a dump from its beginning to its end."""
        for piece in pieces:
            self.feed(piece)
        self.finish()

    def finish(self) -> None:
        """No more bytes come: judge, and give the watcher, what was held back."""
        if self._carry[self._start :].strip() and not (self._table or self._quote):
            # This one is not the dump's: nothing that a subclass does with those.
            DumpReader.feed(self, b"\n")
        self._tell(self._carry, len(self._carry))

    def missing(self) -> str:
        """What the dump lacks to be whole, in words that follow `it`; empty if nothing."""
        if not _HEADER.match(self._head):
            return "does not begin as a dump begins"
        if self._table or self._quote or not self._ended:
            return "has no completion trailer"
        return "" if self._opened == self._closed else "does not end with the key it began with"

    def check_whole(self) -> None:
        """DumpFailed unless header, completion trailer and both restrict keys are there."""
        if missing := self.missing():
            raise DumpFailed(f"the database client reported success, but its output {missing}; nothing was published")

    def _in_sql(self, text: bytes, position: int) -> int:
        """Read SQL from `position`; returns where something else begins, or -1 at the end of `text`."""
        while True:
            run = _PLAIN[self._strings_escape].match(text, position)
            end = run.end() if run else position
            self._begun = self._begun or not text[position:end].isspace() and end > position
            position = self._step(text, end) if end < len(text) else -1
            if position < 0:
                return self._hold(text, end)
            if self._table or self._quote:
                return position

    def _step(self, text: bytes, position: int) -> int:
        """Take one thing that is not plain SQL; returns where to go on, or -1 where more has to be known of it."""
        match text[position : position + 1]:
            case b"\n":
                return self._line(text, position)
            case b"-" if text.startswith(b"--", position):
                return self._comment(text, position)
            case b"\\":
                return self._command(text, position)
            case b"/" if text.startswith(b"/*", position):
                return self._open(b"*/", position + 2)
            case b"-" | b"/":
                return -1
            case b"$":
                if tag := _TAG.match(text, position):
                    return self._open(tag[0], tag.end())
                return -1 if _TAG_BEGUN.match(text, position) else position + 1
            case b"'" if self._strings_escape or _ESCAPING.search(text[max(position - 2, 0) : position]):
                return self._open(_BACKSLASHES, position + 1)
            case mark:
                return self._open(mark, position + 1)

    def _open(self, quote: bytes, position: int) -> int:
        self._begun, self._quote = True, quote
        return position

    def _line(self, text: bytes, position: int) -> int:
        """A line that may begin rows, or say what counts. Names in a COPY statement may hold newlines."""
        if copy := COPY.match(text, position + 1):
            self._tell(text, position + 1)
            self._table = self._decoded(copy[1])
            self.rows.setdefault(self._table, 0)
            self.spans.append(Span(self._table, self._offset(text, copy.end())))
            if self._watcher:
                self._watcher.table(self._table)
            if not self._telling_rows:
                self._tell(text, copy.end())
            return copy.end()
        if text.startswith(b"COPY ", position + 1):
            unknown = not _OTHER_COPY.match(text, position + 1)
        else:
            unknown = text.find(b"\n", position + 1) < 0
        if unknown and len(text) - position < _LONGEST:
            return -1
        if strings := _STRINGS.match(text, position):
            self._strings_escape = strings[1] == b"off"
        self.large_objects += bool(_LARGE_OBJECT.match(text, position))
        return position + 1

    def _comment(self, text: bytes, position: int) -> int:
        end = self._end_of_line(text, position)
        if end < 0 or (position and text[position - 1] != _NEWLINE):
            return end
        if verbose := _VERBOSE.match(text, position):
            return self._leave_out(text, verbose)
        if event := _EVENT.match(text, position):
            self._ended = bool(event["end"] or event["cluster"])
            if self._watcher and not event["cluster"]:
                self._tell(text, position)
                self._watcher.section(*self._title(event))
            if event["type"] == b"EXTENSION" and event["schema"] == b"-":
                self.extensions.append(self._decoded(event["name"]))
        return end

    def _command(self, text: bytes, position: int) -> int:
        end = self._end_of_line(text, position)
        if end < 0:
            return end
        if key := _KEY.match(text, position):
            if key[1] and self._opened == key[2]:
                self._closed = key[2]
                return self._leave_out(text, key)
            # With --create it goes on behind \connect.
            if not key[1] and (self._closed == key[2] or not (self._begun or self._opened)):
                self._opened, self._closed = key[2], b""
                return self._leave_out(text, key)
        if _CONNECT.match(text, position):
            self.connects = True
        elif len(self.commands) < _MOST:
            self.commands.append(self._decoded(text[position:end][:_SHOWN]))
        return end

    def _end_of_line(self, text: bytes, position: int) -> int:
        """Where the newline is, if a byte behind it is here, too; else -1. A line without end is as good as quoted."""
        end = text.find(b"\n", position)
        if 0 < end < len(text) - 1:
            return end
        return self._open(b"\n", position + _SHOWN) if end < 0 and len(text) - position > _LONGEST else -1

    def _leave_out(self, text: bytes, match: re.Match[bytes]) -> int:
        self._tell(text, match.start())
        self._told = match.end()
        return match.end() - 1

    def _in_quote(self, text: bytes, position: int) -> int:
        """Read what is quoted from `position`; returns where SQL goes on, or -1 at the end of `text`."""
        if self._quote == _BACKSLASHES:
            escaped = _ESCAPED.match(text, position)
            end = escaped.end() if escaped else position
            # A quotation mark ends it unless another one follows.
            found, after = len(text) - end > 1, end + 1
        else:
            at = text.find(self._quote, position)
            end = max(len(text) - len(self._quote) + 1, position)
            found, after = at >= 0, at + len(self._quote.rstrip(b"\n"))
        if not found:
            return self._hold(text, end)
        self._quote = b""
        return after

    def _in_rows(self, text: bytes, position: int) -> int:
        """Count rows from `position` to the terminator; returns where SQL goes on, or -1 at the end of `text`."""
        end = end_of_rows(text, max(position - 1, 0))
        if end >= 0:
            self._count(text, position, end + 1)
            self.spans[-1] = self.spans[-1]._replace(end=self._offset(text, end + 1))
            self._skip_rows(end + 1)
            self._table = ""
            return end + len(END_OF_ROWS) - 1
        # The last three bytes may be the beginning of the terminator: they are judged with the next chunk.
        keep = max(len(text) - len(END_OF_ROWS) + 1, position - 1, 0)
        counted = max(keep, position)
        self._count(text, position, counted)
        if self._telling_rows:
            self._tell(text, len(text))
        self._skip_rows(counted)
        return self._hold(text, counted, keep)

    def _skip_rows(self, end: int) -> None:
        if not self._telling_rows:
            self._told = max(self._told, end)

    def _offset(self, text: bytes, position: int) -> int:
        """Where in the dump a position of the text is that ends with the newest chunk."""
        return self._taken - len(text) + position

    def _count(self, text: bytes, start: int, end: int) -> None:
        if self._counting:
            count = newlines(text, start, end)
            self.rows[self._table] += count
            self.spans[-1] = self.spans[-1]._replace(rows=self.spans[-1].rows + count)

    def _hold(self, text: bytes, position: int, keep: int = -1) -> int:
        """Go on from `position` with the next chunk. What is before it decides what it means: two bytes at most."""
        self._tell(text, position)
        keep = keep if keep >= 0 else max(position - 2, 0)
        self._carry, self._start, self._told = text[keep:], position - keep, self._told - keep
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


def end_of_rows(text: bytes, start: int) -> int:
    """Where END_OF_ROWS is from `start` on; -1 where it is not. One byte is found fifteen times as fast as several: so
    it jumps from one backslash to the next, unless there are many."""
    at = start
    if text.count(b"\\", start, start + _SAMPLE) * _SPARSE <= _SAMPLE:
        for _ in range(len(text) // _SPARSE):
            at = text.find(b"\\", at + 1)
            if at < 0:
                return -1
            if text.startswith(END_OF_ROWS, at - 1):
                return at - 1
    return text.find(END_OF_ROWS, at)


def newlines(text: bytes, start: int, end: int) -> int:
    """How many there are. `count` looks at every byte, `replace` jumps from one to the next: four times as fast for
    rows of some hundred bytes, slower than that for the shortest."""
    sample = min(start + _SAMPLE, end)
    if text.count(b"\n", start, sample) * _SHORT > sample - start:
        return text.count(b"\n", start, end)
    part = text[start:end]
    return len(part) - len(part.replace(b"\n", b""))


def _codec(encoding: str) -> str:
    """Python's name for an encoding of PostgreSQL's: mostly the same; ASCII where it has none."""
    try:
        return codecs.lookup(re.sub("^WIN", "cp", encoding)).name
    except LookupError:
        return "ascii"
