"""What a plain dump says about itself as it streams by: header, rows per table, large objects, trailer.

Reads each byte once, holds no more than one line of SQL or one chunk of rows. pg_dump announces each table's rows
with `-- Data for Name: …` and `COPY … FROM stdin;`, ends them with `\\.`, and ends the file with a
completion comment, in patched versions followed by `\\unrestrict <key>`.
"""

from __future__ import annotations

import re
from typing import Final

from backup.errors import DumpFailed

_NAME: Final = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
_COLUMN: Final = rb'(?:"(?:[^"]|"")+"|[^\s".,()]+)'
_EVENT: Final = re.compile(
    rb"^(?:-- Data for Name: .*; Type: (TABLE DATA); .*"
    rb"|COPY (" + _NAME + rb"\." + _NAME + rb") +(?:\(" + _COLUMN + rb"(?:, " + _COLUMN + rb")*\) )?FROM stdin;"
    rb"|SELECT pg_catalog\.(lo_open)\('[0-9]+', [0-9]+\);)$",
    re.MULTILINE,
)
_END_OF_ROWS: Final = b"\n\\.\n"
_HEAD: Final = 4096
_TAIL: Final = 2048
_LONGEST_LINE: Final = 64 << 20
_HEADER: Final = re.compile(rb"^--\n-- PostgreSQL database (?:cluster )?dump\n--\n")
_TRAILER: Final = re.compile(rb"^-- PostgreSQL database (?:cluster )?dump complete$", re.MULTILINE)
_RESTRICT: Final = re.compile(rb"^\\(un)?restrict (\w+)$", re.MULTILINE)
_VERSION: Final = re.compile(rb"^-- Dumped by pg_dump version (.+)$", re.MULTILINE)


class DumpReader:
    """Feed it the dump's chunks in order, then ask. `rows` maps the table as the dump writes it to its rows."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.large_objects = 0
        self._head = b""
        self._tail = b""
        self._carry = b""
        self._start = 0
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
            position = self._in_rows(text, position) if self._table else self._in_sql(text, position)

    def check_whole(self) -> None:
        """DumpFailed unless header, completion trailer and both restrict keys are there."""
        if not _HEADER.match(self._head):
            raise DumpFailed(_incomplete("does not begin as a dump begins"))
        if self._table or not _TRAILER.search(self._tail):
            raise DumpFailed(_incomplete("has no completion trailer"))
        # The last line of the head may be cut off.
        head = self._head[: self._head.rfind(b"\n") + 1]
        keys = [match.groups() for part in (head, self._tail) for match in _RESTRICT.finditer(part)]
        opened, closed = {key for un, key in keys if not un}, {key for un, key in keys if un}
        if opened != closed:
            raise DumpFailed(_incomplete("does not end with the key it began with"))

    def _in_sql(self, text: bytes, position: int) -> int:
        """Read whole lines of SQL from `position`; returns where rows begin, or -1 at the end of `text`."""
        end = text.rfind(b"\n", position) + 1
        announced = position
        for match in _EVENT.finditer(text, position, max(end, position)):
            if match[3]:
                self.large_objects += 1
            elif match[1]:
                self._announced, announced = True, match.end()
            elif self._announced:
                self._announced = False
                self._table = match[2].decode(errors="backslashreplace")
                self.rows.setdefault(self._table, 0)
                return match.end() + 1
        # Names may hold newlines, so that the statement which was announced may be here in part.
        self._carry, self._start = text[announced if self._announced else max(end, position) :], 0
        if len(self._carry) > _LONGEST_LINE:
            self._carry = b"-"
        return -1

    def _in_rows(self, text: bytes, position: int) -> int:
        """Count rows from `position` to the terminator; returns where SQL goes on, or -1 at the end of `text`."""
        end = text.find(_END_OF_ROWS, max(position - 1, 0))
        if end >= 0:
            self.rows[self._table] += text.count(b"\n", position, end + 1)
            self._table = ""
            return end + len(_END_OF_ROWS)
        # The last three bytes may be the beginning of the terminator: they are judged with the next chunk.
        keep = max(len(text) - len(_END_OF_ROWS) + 1, position - 1, 0)
        counted = max(keep, position)
        self.rows[self._table] += text.count(b"\n", position, counted)
        self._carry, self._start = text[keep:], counted - keep
        return -1


def _incomplete(what: str) -> str:
    return f"the database client reported success, but its output {what}; nothing was published"
