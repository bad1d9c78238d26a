"""What a dump defines: all of it but rows, sequence values and large objects, and a hash that names it.

Two dumps of an unchanged database have the same hash: the head, with its versions, restrict key and the statements that
drop what is made below, and the trailer are left out of it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from backup.stream.filters import END, END_OF_ROWS, ROWS

# What is said of large objects, as often as there are any: their owners and grants, comments and labels.
_OF_OBJECTS: Final = ("ACL", "COMMENT", "SECURITY LABEL")
_OBJECT: Final = "LARGE OBJECT"
# Definitions of a hundred thousand tables. More of them are hashed, but not kept.
_MOST: Final = 64 << 20


# A comment or a function's text may quote all that a dump says, so nothing is left out but what lies between COPY and
# its end, and large objects: these by the statement that follows. Values of sequences are loaded, but are in no hash.
_FIRST_STATEMENT: Final = re.compile(rb"(?:(?:--|SET )[^\n]*\n|\n)*+(?P<statement>[^\n]*)\n")
_OF_ROWS: Final = (b"SELECT pg_catalog.lo_", b"BEGIN;", b"COMMENT ON LARGE OBJECT ", b"ALTER LARGE OBJECT ")
_COPY: Final = b" FROM stdin;\n"


class Definitions:
    """A Watcher of a dump (see DumpReader). Memory: the definitions, up to 64 MB."""

    def __init__(self, most: int = _MOST) -> None:
        self._hash, self._most = hashlib.sha256(), most
        self._kept: list[bytes] | None = []
        self._size = 0
        self._keeps, self._hashes = True, False
        # What was announced as rows, until its first statement shows whether it is.
        self._announced: bytes | None = None
        # Of rows: the COPY statement as far as it is here, or else the last bytes.
        self._rows: bytes | None = None
        self._copying = False

    @property
    def sha256(self) -> str:
        """SHA-256 in hex."""
        return self._hash.hexdigest()

    @property
    def script(self) -> list[bytes] | None:
        """A plain dump of the definitions alone, in pieces; None where they are too many."""
        return self._kept

    def section(self, kind: str, name: str) -> None:
        """An object begins (for DumpReader)."""
        if kind in ROWS and kind not in ("TABLE DATA", "SEQUENCE SET"):
            self._announced = self._announced or b""
            return
        self._decide(rows=False)
        self._keeps = not (kind in _OF_OBJECTS and name.startswith(_OBJECT))
        self._hashes = self._keeps and kind not in (END, "SEQUENCE SET")

    def table(self, table: str) -> None:
        """The present object is the rows of `table` (for DumpReader)."""
        self._decide(rows=False)
        self._rows, self._copying = b"", False

    def data(self, data: bytes) -> None:
        """The next bytes (for DumpReader)."""
        if self._rows is not None:
            self._without_rows(self._rows + data)
            return
        if self._announced is None:
            self._take(data)
            return
        self._announced += data
        if first := _FIRST_STATEMENT.match(self._announced):
            self._decide(rows=first["statement"].startswith(_OF_ROWS))

    def _without_rows(self, data: bytes) -> None:
        if not self._copying:
            statement, found, rest = data.partition(_COPY)
            self._copying, self._rows = bool(found), data
            if found:
                self._take(statement + found)
                self._without_rows(b"\n" + rest)  # the end may stand where the first row would
            return
        _, found, rest = data.partition(END_OF_ROWS)
        self._rows = None if found else data[-len(END_OF_ROWS) :]
        if found:
            self._take(found[1:] + rest)

    def _decide(self, *, rows: bool) -> None:
        announced, self._announced = self._announced, None
        if rows:
            self._keeps = self._hashes = False
        elif announced:
            self._take(announced)

    def _take(self, data: bytes) -> None:
        if self._hashes:
            self._hash.update(data)
        if self._keeps and self._kept is not None:
            self._kept.append(data)
            self._size += len(data)
            if self._size > self._most:
                self._kept = None
