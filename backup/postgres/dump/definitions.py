"""What a dump defines: all of it but rows, sequence values and large objects, and a hash that names it.

Two dumps of an unchanged database have the same hash: the head, with its versions, restrict key and the statements that
drop what is made below, and the trailer are left out of it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from backup.postgres.dump.dump_reader import COPY, END, END_OF_ROWS, ROWS

# What is said of large objects, as often as there are any: their owners and grants, comments and labels.
_OF_OBJECTS: Final = ("ACL", "COMMENT", "SECURITY LABEL")
_OBJECT: Final = "LARGE OBJECT"
# Definitions of a hundred thousand tables. More of them are hashed, but not kept.
_MOST: Final = 64 << 20


class Definitions:
    """A Watcher of a dump (see DumpReader). Memory: the definitions, up to 64 MB."""

    def __init__(self, most: int = _MOST) -> None:
        self._hash, self._most = hashlib.sha256(), most
        self._kept: list[bytes] | None = []
        self._size = 0
        self._keeps, self._hashes = True, False
        # The last bytes of rows.
        self._rows: bytes | None = None

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
        of_objects = kind in _OF_OBJECTS and name.startswith(_OBJECT)
        self._keeps = kind in ("TABLE DATA", "SEQUENCE SET") or not (kind in ROWS or of_objects)
        self._hashes = self._keeps and kind not in (END, "SEQUENCE SET")

    def table(self, table: str) -> None:
        """The present object is the rows of `table` (for DumpReader)."""
        self._rows = b""

    def data(self, data: bytes) -> None:
        """The next bytes (for DumpReader)."""
        if self._rows is None:
            self._take(data)
            return
        copy = None if self._rows else COPY.match(data)
        if copy:
            self._take(copy[0])
            data = data[copy.end() - 1 :]  # the end may stand where the first row would
        before, found, rest = (self._rows + data).partition(END_OF_ROWS)
        self._rows = None if found else before[1 - len(END_OF_ROWS) :]
        if found:
            self._take(found[1:] + rest)

    def _take(self, data: bytes) -> None:
        if self._hashes:
            self._hash.update(data)
        if self._keeps and self._kept is not None:
            self._kept.append(data)
            self._size += len(data)
            if self._size > self._most:
                self._kept = None
